from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tiercel.datasets.personal_data import find, load_recogniser
from tiercel.errors import ConfigurationError, MissingExtraError

REFERENCE = "tiercel.datasets.personal_data_presidio:PresidioRecogniser"
installed = importlib.util.find_spec("presidio_analyzer") is not None
needs_presidio = pytest.mark.skipif(not installed, reason="presidio-analyzer is not installed")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a spaCy pipeline that knows one person and one town: a real one, without trained weights."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(
        [{"label": "PERSON", "pattern": "Ada Lovelace"}, {"label": "GPE", "pattern": "Berlin"}]
    )
    folder: Path = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return str(folder)


@pytest.mark.skipif(installed, reason="presidio-analyzer is installed")
def test_without_presidio_the_extra_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"tiercel\[privacy\]"):
        load_recogniser(REFERENCE)


@needs_presidio
def test_a_missing_model_is_named_with_its_command_and_not_downloaded() -> None:
    from tiercel.datasets.personal_data_presidio import PresidioRecogniser

    with pytest.raises(ConfigurationError, match="python -m spacy download en_no_such_model"):
        PresidioRecogniser("en_no_such_model")


@needs_presidio
def test_names_and_towns_come_from_presidio_and_patterns_from_here(pipeline: str) -> None:
    from tiercel.datasets.personal_data_presidio import PresidioRecogniser

    text = "Ada Lovelace of Berlin, ada@example.org"
    spans = find(text, recognisers=[PresidioRecogniser(pipeline)])
    assert [(s.kind, text[s.start : s.end]) for s in spans] == [
        ("person", "Ada Lovelace"),
        ("address", "Berlin"),
        ("email", "ada@example.org"),
    ]


@needs_presidio
def test_a_long_text_is_read_in_pieces_whose_places_fit(pipeline: str) -> None:
    from tiercel.datasets.personal_data_presidio import PresidioRecogniser

    text = "word " * 25_000 + "Ada Lovelace"
    (span,) = PresidioRecogniser(pipeline).find(text)
    assert text[span.start : span.end] == "Ada Lovelace"
