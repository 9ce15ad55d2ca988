"""A recogniser taught by marked texts: what it finds, how it is measured, how it is kept; a tiny encoder made here."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.flows.tiny import make_encoder
from tiercel.cli.main import app
from tiercel.datasets.personal_data import Recogniser, Span, find
from tiercel.datasets.redaction import Redactor
from tiercel.errors import BundleError, ConfigurationError, DataError
from tiercel.flows.span_training import MarkedText, SpanReport, read_marked, span_figures, train_spans
from tiercel.students.span_model import SpanModel, marked_words

NAMES = ("Wanda", "Oskar", "Imre", "Livia", "Tamsin", "Bodo", "Ragna", "Quentin")
PLACES = ("Linz", "Porto", "Gdansk", "Leiden", "Turku", "Brno")
SENTENCES = (
    "Please call {name} about the order",
    "{name} has not had the invoice yet",
    "I am {name} and I live in {place}",
    "send it to {name} in {place} today",
    "my parcel from {place} is late",
    "where is my order",
    "the printer is broken again",
    "ask {name} why the parcel went to {place}",
)


def written(rows: int, seed: int) -> list[MarkedText]:
    """Sentences of a few patterns, each with a number of its own so that no two nearly repeat each other."""
    draw, texts = random.Random(seed), list[MarkedText]()
    for _ in range(rows):
        text, spans = "", list[Span]()
        for word in f"{draw.choice(SENTENCES)} {draw.getrandbits(60):x} {draw.getrandbits(60):x}".split():
            text += " " if text else ""
            kind = {"{name}": "person", "{place}": "address"}.get(word)
            said = draw.choice(NAMES if kind == "person" else PLACES) if kind else word
            if kind:
                spans.append(Span(start=len(text), end=len(text) + len(said), kind=kind))
            text += said
        texts.append(MarkedText(text=text, spans=tuple(spans)))
    return texts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base"), [t.text for t in written(50, 9)])


@pytest.fixture(scope="module")
def taught(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SpanReport]:
    folder = tmp_path_factory.mktemp("taught") / "names"
    return folder, train_spans(written(500, 1), folder, encoder=str(base), threads=1)


def test_it_finds_on_texts_held_out_what_it_was_taught(taught: tuple[Path, SpanReport]) -> None:
    folder, report = taught
    assert report.train + report.held_out == 500
    assert report.parity >= 0.995
    again = span_figures(SpanModel.load(folder, threads=1), written(200, 2))
    for kind in ("address", "person"):
        assert report.kinds[kind].recall.value > 0.9
        assert again[kind].recall.value > 0.9
        assert again[kind].precision.value > 0.9
    assert msgspec.json.decode((folder / "report.json").read_bytes(), type=SpanReport) == report


def test_a_long_text_is_read_to_its_end_and_spans_stand_where_they_are(taught: tuple[Path, SpanReport]) -> None:
    model = SpanModel.load(taught[0], threads=1)
    text = "the printer is broken again, " * 400 + "I am Wanda and I live in Linz"
    found = {(text[s.start : s.end], s.kind) for s in model.find(text) if s.start > len(text) - 40}
    assert found == {("Wanda", "person"), ("Linz", "address")}


def test_a_piece_of_more_tokens_than_the_model_reads_is_halved_not_cut(taught: tuple[Path, SpanReport]) -> None:
    model = SpanModel.load(taught[0], threads=1)
    text = "?! " * 190 + "call Oskar"
    assert any(text[s.start : s.end] == "Oskar" for s in model.find(text))


@pytest.mark.parametrize("text", ["", " ", "\n\n", "x" * 5_000, "\u200b", "?" * 700])
def test_texts_without_words_or_blanks_are_read(taught: tuple[Path, SpanReport], text: str) -> None:
    for span in SpanModel.load(taught[0], threads=1).find(text):
        assert 0 <= span.start < span.end <= len(text)


def test_it_is_a_recogniser_that_redaction_takes(taught: tuple[Path, SpanReport]) -> None:
    model = SpanModel.load(taught[0], threads=1)
    assert isinstance(model, Recogniser)
    assert {s.kind for s in find("call Livia in Turku, or a@example.org", recognisers=[model])} >= {"person", "email"}
    session = Redactor(recognisers=[model]).session()
    assert "Livia" not in session.redact("Please call Livia about the order")
    assert session.counts["person"] == 1


def test_words_that_a_span_touches_are_marked_and_no_word_twice() -> None:
    words = [(0, 4), (5, 9), (9, 10), (11, 15)]
    spans = [
        Span(start=6, end=10, kind="person"),
        Span(start=9, end=15, kind="address"),
        Span(start=0, end=4, kind="url"),
    ]
    compiled = marked_words(spans, words, ["address", "person"])
    assert [(s.field, s.first, s.last) for s in compiled.spans] == [(1, 1, 2), (0, 3, 3)]


def test_types_are_chosen_and_renamed(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "Wanda, Linz", "spans": [{"start": 0, "end": 5, "type": "PERSON"}, [7, 11, "GPE"]]}\n')
    with pytest.raises(DataError, match="line 1"):
        read_marked(file)
    file.write_text(
        '{"text": "Wanda, Linz", "spans": [{"start": 0, "end": 5, "type": "PERSON"}, '
        '{"start": 7, "end": 11, "type": "GPE"}]}\n'
    )
    assert [s.kind for s in read_marked(file)[0].spans] == ["person", "gpe"]
    assert [s.kind for s in read_marked(file, {"GPE": "address"})[0].spans] == ["address"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1"),
        ('{"text": "a", "spans": [{"start": 0, "end": 2, "type": "P"}]}', "one past the last"),
        ('{"text": "a", "spans": [{"start": 0, "end": 1}]}', "without a type"),
        ('{"spans": []}', "text"),
    ],
)
def test_a_line_that_is_no_marked_text_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "texts.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=said):
        read_marked(tmp_path / "texts.jsonl")


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_marked(tmp_path / "texts.jsonl")


def test_too_little_to_learn_from_is_said(tmp_path: Path, base: Path) -> None:
    with pytest.raises(DataError, match="no text has a marked span"):
        train_spans([MarkedText(text="a", spans=())], tmp_path / "x", encoder=str(base))
    with pytest.raises(DataError, match="20 at least"):
        train_spans(written(10, 3), tmp_path / "x", encoder=str(base))
    same = [MarkedText(text="call Wanda", spans=(Span(start=5, end=10, kind="person"),))] * 30
    with pytest.raises(DataError, match="nearly repeat"):
        train_spans(same, tmp_path / "x", encoder=str(base))
    assert not (tmp_path / "x").exists()


def test_a_folder_of_something_else_is_never_written_over(tmp_path: Path, base: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="no recogniser"):
        train_spans(written(60, 3), tmp_path, encoder=str(base))
    assert (tmp_path / "thesis.txt").exists()


def test_a_broken_folder_is_one_clear_error(tmp_path: Path, taught: tuple[Path, SpanReport]) -> None:
    with pytest.raises(BundleError, match="tiercel recogniser"):
        SpanModel.load(tmp_path)
    SpanModel.load(taught[0], threads=1).save(tmp_path)
    (tmp_path / "spans.safetensors").write_bytes(b"cut")
    with pytest.raises(BundleError, match="no recogniser can be read"):
        SpanModel.load(tmp_path)
    (tmp_path / "spans.json").write_text('{"format": 99, "kinds": [], "max_tokens": 8, "precision": "int8"}')
    SpanModel.load(taught[0], threads=1).save(tmp_path)
    record = msgspec.json.decode((tmp_path / "spans.json").read_bytes())
    (tmp_path / "spans.json").write_bytes(msgspec.json.encode({**record, "format": 99}))
    with pytest.raises(BundleError, match="newer version"):
        SpanModel.load(tmp_path)


def test_the_command_teaches_and_says_how_well(tmp_path: Path, base: Path) -> None:
    rows = [
        {"text": t.text, "spans": [{"start": s.start, "end": s.end, "type": s.kind.upper()} for s in t.spans]}
        for t in written(150, 4)
    ]
    (tmp_path / "texts.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    arguments = ["recogniser", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / "names"), "--encoder", str(base)]
    ran = CliRunner().invoke(app, [*arguments, "--kind", "PERSON=person", "--threads", "1"])
    assert ran.exit_code == 0, ran.output
    assert "person: found" in ran.output
    assert "address" not in ran.output
    assert SpanModel.load(tmp_path / "names").kinds == ("person",)
    refused = CliRunner().invoke(app, [*arguments, "--kind", "PERSON=Per son"])
    assert isinstance(refused.exception, ConfigurationError)
