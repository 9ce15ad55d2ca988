"""A recogniser of personal data from texts in which it is marked: read, split, tuned, measured on texts held out."""

from __future__ import annotations

import gzip
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.personal_data import Recogniser, Span
from tiercel.datasets.splitting import split_groups
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.encoders import token_limit
from tiercel.flows.progress import Progress, Silent
from tiercel.flows.seeds import check_seed
from tiercel.flows.storage import guarded, make_folder, replace_folder, write_file
from tiercel.stats.intervals import Interval, rate_interval
from tiercel.students.span_model import SpanModel, form_of, marked_words

if TYPE_CHECKING:
    from tiercel.students.tagger_training import TaggerTrainer

__all__ = ["KindFigures", "MarkedText", "SpanReport", "read_marked", "span_figures", "train_spans"]

REPORT = "report.json"
HELD_OUT = 0.2
LEAST_MARKED = 20
"""Spans of a kind below which there is nothing to learn it from."""
STEPS = 1_200


class MarkedText(Struct, frozen=True, kw_only=True):
    """A text and what in it is personal."""

    text: str
    spans: tuple[Span, ...]


class KindFigures(Struct, frozen=True, kw_only=True):
    """How well a kind is found on texts that were held out; a span counts when one of its kind overlaps it."""

    marked: int
    """Spans in the texts."""
    found: int
    """Spans that the recogniser gave."""
    recall: Interval
    precision: Interval


class SpanReport(Struct, frozen=True, kw_only=True):
    """What training came to; `report.json` in the recogniser's folder."""

    train: int
    """Texts that were learnt from."""
    held_out: int
    """Texts that the figures were measured on; none nearly repeats one that was learnt from."""
    kinds: dict[str, KindFigures]
    precision: str
    """Of the weights, int8 or fp32."""
    parity: float
    """Share of the texts held out that the served model marks just as the trained one."""
    train_seconds: float
    note: str = ""


class _Mark(Struct, frozen=True):
    start: int
    end: int
    type: str | None = None
    kind: str | None = None


class _Line(Struct, frozen=True):
    text: str
    spans: tuple[_Mark, ...] = ()


def read_marked(file: Path, kinds: Mapping[str, str] | None = None) -> list[MarkedText]:
    """Texts with marked spans, one JSON object a line: `text`, and `spans` with `start`, `end` and `type` (or `kind`).

    Args:
        file: JSON Lines, .gz or not.
        kinds: the kind of each type that counts; None takes all, in lower case.

    Raises:
        DataError: there is no such file, a line is not of this form, or a span lies outside its text.
    """
    texts = list[MarkedText]()
    for number, line in _lines(file):
        try:
            row = msgspec.json.decode(line, type=_Line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(f"{file}, line {number}: {error}; each line is an object with text and spans") from None
        spans = list[Span]()
        for mark in row.spans:
            if not 0 <= mark.start < mark.end <= len(row.text):
                raise DataError(
                    f"{file}, line {number}: a span from {mark.start} to {mark.end} in a text of {len(row.text)} "
                    "characters; start and end are counted in characters, end is one past the last"
                )
            name = mark.kind or mark.type
            if not name:
                raise DataError(f"{file}, line {number}: a span without a type; name one, such as person")
            kind = name.lower() if kinds is None else kinds.get(name)
            if kind is not None:
                spans.append(Span(start=mark.start, end=mark.end, kind=kind))
        texts.append(MarkedText(text=row.text, spans=tuple(spans)))
    return texts


def train_spans(
    texts: Sequence[MarkedText],
    out: Path,
    *,
    encoder: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SpanReport:
    """Tune a recogniser on marked texts, measure it on a fifth of them, and write it to the folder `out`.

    Args:
        texts: marked whole: what is not marked teaches that it is nothing personal.
        out: a new folder, or one that holds an earlier recogniser.
        encoder: folder or hub name of the pretrained encoder; None for all-MiniLM-L6-v2.
        seed: of the split and of training.
        threads: None for all cores.
        progress: is told how far it is.

    Raises:
        DataError: too few texts, or too few spans of a kind.
        ConfigurationError: the encoder is not there, or `out` holds something else.
        MissingExtraError: torch is not installed.
    """
    progress = progress or Silent()
    check_seed(seed)
    if threads is not None and threads < 1:
        raise ConfigurationError(f"--threads is {threads}; give 1 or more, or leave it out for all cores")
    kinds = _kinds(texts)
    own = {*SpanModel.files, REPORT}
    there = [out] if out.is_file() else out.rglob("*")
    if strange := next((p for p in there if p.is_dir() or p.name not in own), None):
        raise ConfigurationError(f"{out}: holds something that is no recogniser, {strange.name}; name a new folder")
    groups = near_duplicate_groups([t.text for t in texts])
    learn, held = ([texts[i] for i in part] for part in split_groups(groups, [1 - HELD_OUT, HELD_OUT], seed))
    if not learn or not held:
        raise DataError("the texts nearly repeat one another: none can be held out; give texts that differ")
    started = time.perf_counter()
    progress.stage(f"tuning on {len(learn):,} texts")
    trainer = _tuned(learn, kinds, encoder, seed, threads, progress)
    seconds = time.perf_counter() - started
    progress.stage("exporting and checking parity")
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    model, precision, parity, note = _export(trainer, kinds, aside, held, threads)
    report = SpanReport(
        train=len(learn),
        held_out=len(held),
        kinds=span_figures(model, held),
        precision=precision,
        parity=parity,
        train_seconds=seconds,
        note=note,
    )
    with guarded(out):
        model.save(aside)
    write_file(aside / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=2))
    replace_folder(aside, out)
    return report


def span_figures(recogniser: Recogniser, texts: Sequence[MarkedText]) -> dict[str, KindFigures]:
    """Recall and precision of each kind that a recogniser finds, with exact intervals."""
    marked, given, recalled, right = (Counter[str]() for _ in range(4))
    for text in texts:
        found = list(recogniser.find(text.text))
        marked.update(s.kind for s in text.spans)
        given.update(s.kind for s in found)
        recalled.update(s.kind for s in text.spans if any(_overlap(s, f) for f in found))
        right.update(f.kind for f in found if any(_overlap(s, f) for s in text.spans))
    return {
        kind: KindFigures(
            marked=marked[kind],
            found=given[kind],
            recall=rate_interval(recalled[kind], marked[kind]),
            precision=rate_interval(right[kind], given[kind]),
        )
        for kind in recogniser.kinds
    }


def _overlap(a: Span, b: Span) -> bool:
    return a.kind == b.kind and a.start < b.end and b.start < a.end


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    if not file.is_file():
        raise DataError(f"{file}: no such file; check the path")
    with guarded(file), gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line


def _kinds(texts: Sequence[MarkedText]) -> tuple[str, ...]:
    counts = Counter(s.kind for t in texts for s in t.spans)
    if not counts:
        raise DataError("no text has a marked span of these kinds; see --kind")
    for kind, count in sorted(counts.items()):
        if count < LEAST_MARKED:
            raise DataError(
                f"only {count} spans of the kind {kind}; {LEAST_MARKED} at least are needed: mark more, or leave the "
                "kind out by naming the others with --kind"
            )
    return tuple(sorted(counts))


def _tuned(
    texts: Sequence[MarkedText],
    kinds: Sequence[str],
    encoder: str | None,
    seed: int,
    threads: int | None,
    progress: Progress,
) -> TaggerTrainer:
    from tiercel.students.base_models import locate_encoder
    from tiercel.students.encoder_training import TrainingPlan
    from tiercel.students.tagger_training import TaggerTrainer
    from tiercel.students.word_tokens import WordTokenizer

    base = locate_encoder(encoder)
    longest = token_limit(base, [t.text for t in texts])
    read = WordTokenizer(base / "tokenizer.json", longest)([t.text for t in texts])
    learnt = [marked_words(t.spans, r.words, kinds) for t, r in zip(texts, read, strict=True)]
    usable = [i for i, r in enumerate(read) if r.words]
    trainer = TaggerTrainer(base, form_of(kinds), max_tokens=longest, seed=seed, threads=threads)
    plan = TrainingPlan(epochs=int(np.clip(round(STEPS * 16 / len(usable)), 3, 12)), learning_rate=1e-4, batch=16)
    trainer.fit([read[i] for i in usable], [learnt[i] for i in usable], plan, progress=progress.step)
    return trainer


def _export(
    trainer: TaggerTrainer, kinds: Sequence[str], folder: Path, probe: Sequence[MarkedText], threads: int | None
) -> tuple[SpanModel, str, float, str]:
    """The served model: int8 where it marks as the trained one on at least 99.5 % of texts, else full precision."""
    from tiercel.compress.onnx_export import export_tagger, smallest_precision

    full = folder / "full.onnx"
    export_tagger(trainer, full)
    shutil.copyfile(trainer.base / "tokenizer.json", folder / SpanModel.files[1])
    heads = trainer.tagger_arrays()
    read = trainer.words([t.text for t in probe])
    states = trainer.hidden_states(read)

    def build(precision: str) -> SpanModel:
        return SpanModel(folder, heads, kinds, max_tokens=trainer.max_tokens, precision=precision, threads=threads)

    def agreement(model: SpanModel) -> float:
        pairs = zip(model.marked(read), model.marks(read, states), strict=True)
        return float(np.mean([served == trained for served, trained in pairs]))

    return smallest_precision(full, folder / SpanModel.files[0], build, agreement)
