"""Names and addresses by presidio (Microsoft's presidio-analyzer), where a spaCy model is installed.

Patterns stay ours: presidio is asked for what needs a model of language. Nothing is downloaded; a model that is missing
is named in the error, with the command that installs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiercel.datasets.personal_data import Span
from tiercel.errors import ConfigurationError, MissingExtraError

__all__ = ["ENTITIES", "PresidioRecogniser"]

ENTITIES: Mapping[str, str] = {"PERSON": "person", "LOCATION": "address"}
"""Presidio's entities that are asked for, and our kinds."""
_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
_LONGEST = 100_000
"""Characters that spaCy is given at once: its memory grows with the text."""


class PresidioRecogniser:
    """Finds what presidio's analyzer finds.

    Args:
        model: a spaCy pipeline that is installed, or the folder of one; None for the largest English one there is.
        language: of the model.
        entities: presidio's entity types, and the kind that each is here.
        threshold: presidio's scores below are left, in [0, 1].

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
        ConfigurationError: no such model is installed.
    """

    name = "presidio"

    def __init__(
        self,
        model: str | None = None,
        language: str = "en",
        entities: Mapping[str, str] = ENTITIES,
        threshold: float = 0.4,
    ) -> None:
        self.entities = dict(entities)
        self.kinds: Sequence[str] = tuple(sorted(set(self.entities.values())))
        self.language = language
        self.threshold = threshold
        self._analyzer = _analyzer(model, language)

    def find(self, text: str) -> Iterator[Span]:
        """Spans in a text, a long one read in pieces that end at blanks."""
        at = 0
        while at < len(text):
            end = _piece_end(text, at)
            found: Any = self._analyzer.analyze(
                text=text[at:end],
                language=self.language,
                entities=list(self.entities),
                score_threshold=self.threshold,
            )
            for result in found:
                kind = self.entities[result.entity_type]
                yield Span(start=at + result.start, end=at + result.end, kind=kind, score=float(result.score))
            at = end


def _piece_end(text: str, at: int) -> int:
    end = at + _LONGEST
    if end >= len(text):
        return len(text)
    blank = max(text.rfind(" ", at, end), text.rfind("\n", at, end))
    return blank + 1 if blank > at else end


def _analyzer(model: str | None, language: str) -> Any:
    try:
        presidio: Any = importlib.import_module("presidio_analyzer")
        engines: Any = importlib.import_module("presidio_analyzer.nlp_engine")
        spacy: Any = importlib.import_module("spacy")
    except ImportError as error:
        raise MissingExtraError("presidio-analyzer", "privacy") from error
    names = (model,) if model else _MODELS
    # Asked before presidio does: it would download a model that is missing.
    chosen = next((n for n in names if spacy.util.is_package(n) or (model and Path(n, "config.cfg").exists())), None)
    if chosen is None:
        raise ConfigurationError(
            f"presidio finds no spaCy model ({', '.join(names)}); run: python -m spacy download {names[0]}"
        )
    configuration = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": chosen}]}
    engine = engines.NlpEngineProvider(nlp_configuration=configuration).create_engine()
    return presidio.AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
