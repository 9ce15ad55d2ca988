"""Personal data found in the texts of presidio-research, by kind, and how long it takes.

Patterns were written against train; test is read for the figures alone. A span of the data counts as found when a
span of the same kind overlaps it; a span that was found counts as right when it overlaps one of its kind in the data.
The data's DOMAIN_NAME is a URL here. Where presidio-analyzer is installed, its own recognisers are scored on the same
texts; names and addresses (PERSON, and STREET_ADDRESS, GPE and ZIP_CODE as address) with an English spaCy model where
one is installed, else with a blank pipeline that train teaches. On test, a recogniser that `tiercel recogniser` taught
by train is scored on them, too; no template of a text is in both parts.

    python benchmarks/personal_data.py [train|test]
"""

from __future__ import annotations

import gzip
import importlib.util
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from _record import DATA, HERE, need, write_result
from tiercel.datasets.personal_data import KINDS, find
from tiercel.errors import ConfigurationError
from tiercel.stats.intervals import rate_interval

OURS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "US_SSN": "us_ssn",
    "DOMAIN_NAME": "url",
    "URL": "url",
}
NAMES = {
    "PERSON": "person",
    "STREET_ADDRESS": "address",
    "GPE": "address",
    "ZIP_CODE": "address",
    "LOCATION": "address",
}
SPACY = {name: "PERSON" if kind == "person" else "LOCATION" for name, kind in NAMES.items()}
TARGET = 0.95

Row = tuple[str, str, str, bool | None]
Place = tuple[int, int, str]
"""Start, end, kind."""


class Text(msgspec.Struct):
    text: str
    spans: list[dict[str, Any]]


@dataclass
class Score:
    """Counts by kind."""

    true: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def add(self, true: list[Place], given: Iterable[Place]) -> None:
        given = list(given)
        for place in true:
            self.true[place[2]] += 1
            self.found[place[2]] += any(overlap(place, other) for other in given)
        for place in given:
            self.given[place[2]] += 1
            self.right[place[2]] += any(overlap(place, other) for other in true)

    def rows(self, who: str, kinds: Iterable[str], target: float | None) -> list[Row]:
        kinds = sorted(set(kinds))
        table: list[Row] = []
        for kind in [*kinds, "overall"]:
            of = kinds if kind == "overall" else [kind]
            parts = []
            for part, whole in ((self.found, self.true), (self.right, self.given)):
                hits, n = sum(part[k] for k in of), sum(whole[k] for k in of)
                parts.append((hits, n))
            judged = kind == "overall" and target is not None
            good = all(n and hits / n >= TARGET for hits, n in parts) if judged else None
            recall, precision = (told(*p) for p in parts)
            wanted = f">= {target:.0%} each" if judged else ""
            table.append((f"{who}{kind}: recall, precision", wanted, f"{recall}; {precision}", good))
        return table


def told(hits: int, n: int) -> str:
    if not n:
        return "none"
    interval = rate_interval(hits, n)
    return f"{hits / n:.1%} of {n} [{interval.low:.0%}, {interval.high:.0%}]"


def overlap(a: Place, b: Place) -> bool:
    return a[2] == b[2] and a[0] < b[1] and b[0] < a[1]


def read(part: str) -> list[Text]:
    with gzip.open(need(DATA / "pii" / f"{part}.jsonl.gz")) as stream:
        return [msgspec.json.decode(line, type=Text) for line in stream]


def true_places(text: Text, names: dict[str, str]) -> list[Place]:
    return [(s["start"], s["end"], names[s["type"]]) for s in text.spans if s["type"] in names]


def score(texts: list[Text], names: dict[str, str], finder: Callable[[str], Iterable[Place]]) -> Score:
    scored, kinds = Score(), set(names.values())
    for text in texts:
        scored.add(true_places(text, names), (p for p in finder(text.text) if p[2] in kinds))
    return scored


def by_patterns(text: str) -> list[Place]:
    return [(s.start, s.end, s.kind) for s in find(text, KINDS)]


def milliseconds_per_kb(pieces: list[str]) -> float:
    """CPU time of all pattern kinds, the best of five passes."""
    kinds, taken = frozenset(KINDS), []
    for _ in range(5):
        started = time.process_time()
        for piece in pieces:
            find(piece, kinds)
        taken.append(time.process_time() - started)
    return min(taken) * 1e6 / sum(len(p) for p in pieces)


def in_kilobytes(text: str) -> list[str]:
    return [text[i : i + 1000] for i in range(0, len(text), 1000)]


def speed_rows(texts: list[Text]) -> list[Row]:
    ordinary = (HERE.parent / "README.md").read_text() + (HERE.parent / "benchmarks" / "LOG.md").read_text()
    dense = in_kilobytes("\n".join(t.text for t in texts))
    spans = sum(len(find(p, KINDS)) for p in dense) / len(dense)
    prose, data = milliseconds_per_kb(in_kilobytes(ordinary)), milliseconds_per_kb(dense)
    return [
        ("CPU time per KB, all pattern kinds: README and LOG", "<= 0.2 ms", f"{prose:.3f} ms", prose <= 0.2),
        (f"CPU time per KB: these texts, {spans:.1f} spans per KB", "<= 0.2 ms", f"{data:.3f} ms", data <= 0.2),
    ]


def presidio_rows(texts: list[Text], folder: Path) -> tuple[list[Row], str]:
    """Presidio's own recognisers on the same texts."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        return [], "presidio-analyzer is not installed: nothing to compare with."
    logging.disable(logging.CRITICAL)
    import presidio_analyzer as presidio
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    from tiercel.datasets.personal_data_presidio import PresidioRecogniser

    try:
        recogniser, title = PresidioRecogniser(), "presidio with its model: "
    except ConfigurationError:
        recogniser = PresidioRecogniser(model=str(taught_pipeline(folder)))
        title = "presidio with a spaCy pipeline taught by train: "
    analyzer: Any = presidio.AnalyzerEngine(
        nlp_engine=NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
    )

    def presidios(text: str) -> list[Place]:
        found = analyzer.analyze(text=text, language="en", entities=list({*OURS} - {"DOMAIN_NAME"}))
        return [(r.start, r.end, OURS[r.entity_type]) for r in found]

    table = score(texts, OURS, presidios).rows("presidio, patterns: ", OURS.values(), None)

    def names(text: str) -> list[Place]:
        return [(s.start, s.end, s.kind) for s in find(text, recognisers=[recogniser])]

    table += score(texts, NAMES, names).rows(title, NAMES.values(), None)
    return table, "presidio-analyzer without a language model gives no context to its patterns."


def taught_pipeline(folder: Path) -> Path:
    """A blank English spaCy pipeline, taught names and places by all training texts: the model that presidio takes."""
    import spacy
    from spacy.training import Example

    pipeline = spacy.blank("en")
    pipeline.add_pipe("ner")
    examples: list[Any] = []
    for text in read("train"):
        marked = pipeline.make_doc(text.text)
        spans = [
            marked.char_span(start, end, label=kind, alignment_mode="expand")
            for start, end, kind in true_places(text, SPACY)
        ]
        marked.ents = spacy.util.filter_spans([span for span in spans if span is not None])
        examples.append(Example(pipeline.make_doc(text.text), marked))
    optimiser = pipeline.initialize(lambda: examples)
    order = random.Random(0)
    for _ in range(20):
        order.shuffle(examples)
        for batch in spacy.util.minibatch(examples, 16):
            pipeline.update(batch, sgd=optimiser, drop=0.2)
    pipeline.to_disk(folder / "pipeline")
    return folder / "pipeline"


def taught_rows(texts: list[Text]) -> list[Row]:
    """Names and addresses by a recogniser that the training part taught."""
    from tiercel.flows.span_training import read_marked, train_spans
    from tiercel.students.span_model import SpanModel

    with tempfile.TemporaryDirectory() as folder:
        train_spans(read_marked(DATA / "pii" / "train.jsonl.gz", NAMES), Path(folder) / "names")
        recogniser = SpanModel.load(Path(folder) / "names", threads=1)

        def names(text: str) -> list[Place]:
            return [(s.start, s.end, s.kind) for s in find(text, recognisers=[recogniser])]

        started, size = time.process_time(), sum(len(t.text) for t in texts)
        table = score(texts, NAMES, names).rows("taught by train: ", NAMES.values(), None)
        taken = (time.process_time() - started) * 1e6 / size
    return [*table, ("taught by train: CPU time per KB, patterns included", "", f"{taken:.1f} ms", None)]


def main(part: str) -> None:
    texts = read(part)
    table = score(texts, OURS, by_patterns).rows("", OURS.values(), TARGET)
    others = Counter(p[2] for t in texts for p in by_patterns(t.text) if p[2] not in OURS.values())
    with tempfile.TemporaryDirectory() as folder:
        compared, note = presidio_rows(texts, Path(folder))
    if part == "test":
        compared = taught_rows(texts) + compared
    told_others = ", ".join(f"{k} {n}" for k, n in sorted(others.items())) or "none"
    notes = [
        f"{part}: {len(texts)} texts. Intervals are 95 %. Spans of kinds that the data has no name for: {told_others}.",
        note,
    ]
    name = "pii" if part == "test" else f"pii-{part}"
    write_result(name, f"make bench-{name}", table + speed_rows(texts) + compared, "\n".join(notes))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "test")
