"""The ladder of structured answers (JSON, function calls): a tagger where the values are words of the request."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tiercel.errors import DataError
from tiercel.flows.candidates import (
    Candidate,
    LadderSettings,
    Skipped,
    Stage,
    answered_candidate,
    finished,
    folder_size,
    make_candidate,
)
from tiercel.flows.encoders import MissingRungError, find_encoder, token_limit
from tiercel.flows.generating import Generator
from tiercel.flows.micro_rung import climb_micro
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.rungs import attempt
from tiercel.flows.seconded import Seconded
from tiercel.flows.storage import guarded, make_folder, replace_folder
from tiercel.flows.tagging import Tagger, kinds_of
from tiercel.routing.neighbourhood import Neighbourhood

__all__ = ["climb_structure"]

LEAST_EXTRACTIVE = 0.3
"""Share of answers that must be made of the request's words, or of a few values, for a tagger to be worth training."""
ENOUGH_FOR_DECODER = 0.7
"""Share of traffic that a tagger takes over from which `auto` trains no decoder beside it."""


def climb_structure(
    prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[list[Candidate], list[Skipped]]:
    """Train the rungs for structured answers; see `tiercel.flows.ladder.climb`.

    Raises:
        ConfigurationError: a rung was asked for and can't be trained here.
        TiercelError: the only rung that was asked for failed.
    """
    candidates, skipped = list[Candidate](), list[Skipped]()
    wanted = settings.students
    if wanted is None or "tagger" in wanted:
        try:
            base = find_encoder(settings, progress)
        except MissingRungError as error:
            skipped.append(Skipped(name="tagger", rung="tagger", why=str(error)))
        else:
            with attempt("tagger", candidates, skipped, settings, progress):
                tagger, stage = _tagger(base, prepared, settings, progress)
                size = folder_size(settings.work / "tagger")
                candidates.append(answered_candidate("tagger", tagger, stage, size, prepared, settings, progress))
    if wanted is None and candidates and candidates[-1].expected_offload >= ENOUGH_FOR_DECODER:
        why = (
            "the tagger leaves too little to win for half an hour of training; ask for it with --students tagger,micro"
        )
        skipped.append(Skipped(name="micro", rung="micro", why=why))
    elif wanted is None or "micro" in wanted:
        found, left_out = climb_micro(prepared, settings, progress)
        candidates += [*found, *(_seconded(candidates[-1], micro, prepared, settings) for micro in found if candidates)]
        skipped += left_out
    return candidates, skipped


def _seconded(tagger: Candidate, micro: Candidate, prepared: Prepared, settings: LadderSettings) -> Candidate:
    """The decoder with the tagger beside it, whose agreement the gate sees; costs both, but no training."""
    assert isinstance(micro.responder, Generator)
    assert isinstance(tagger.responder, Tagger)
    both = Seconded(micro.responder, tagger.responder)
    stage = Stage(
        train_seconds=0.0,
        precision=f"{micro.stage.precision} + {tagger.stage.precision}",
        parity=min((c.stage.parity for c in (micro, tagger) if c.stage.parity is not None), default=None),
        note="micro's answers; whether the tagger agrees is a signal for the gate",
    )
    responses = both.joined_parts(micro.responses, tagger.responses)
    size = micro.size_bytes + tagger.size_bytes
    return make_candidate("micro-seconded", both, stage, responses, size, prepared, settings)


def _tagger(base: Path, prepared: Prepared, settings: LadderSettings, progress: Progress) -> tuple[Tagger, Stage]:
    from tiercel.students.answer_form import learn_form
    from tiercel.students.tagger_training import TaggerTrainer
    from tiercel.students.word_tokens import WordTokenizer

    folder = settings.work / "tagger"
    if (stage := finished(folder)) is not None:
        return Tagger.load(folder, threads=settings.threads), stage
    train = prepared.train
    progress.stage(f"reading how {len(train):,} answers are made of their requests")
    longest = token_limit(base, train.texts)
    tokens = WordTokenizer(base / "tokenizer.json", longest)(train.texts)
    words = [t.words for t in tokens]
    form = learn_form(train.texts, train.reference, words, calls=prepared.task == "function_calling")
    compiled = [form.compile(*row) for row in zip(train.texts, train.reference, words, strict=True)]
    usable = [i for i, c in enumerate(compiled) if c is not None]
    extractive = len(usable) / len(train)
    if extractive < LEAST_EXTRACTIVE or len(usable) < 2:
        raise DataError(
            f"only {extractive:.0%} of the answers are made of the request's words or of values that recur; "
            "a tagger can't learn the rest"
        )
    started = time.perf_counter()
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside / "tagger")
    trainer = TaggerTrainer(base, form, max_tokens=longest, seed=settings.seed, threads=settings.threads)
    plan = _plan(len(usable))
    progress.stage(f"tuning the tagger on {len(usable):,} rows, {plan.epochs} epochs")
    checkpoint = settings.work / "tagger.checkpoint"
    learnt = [c for c in compiled if c is not None]
    chosen = [tokens[i] for i in usable]
    with guarded(checkpoint):
        trainer.fit(chosen, learnt, plan, checkpoint=checkpoint, progress=progress.step)
    seconds = time.perf_counter() - started
    progress.stage("exporting to int8 and checking parity")
    texts = [train.texts[i] for i in usable]
    student, precision, parity, note = _export(trainer, aside / "tagger", texts, chosen, learnt, prepared, settings)
    embedding = np.array(
        [s.mean(axis=0) for s in student.engine.run([t.ids for t in chosen], [t.cases for t in chosen])]
    )
    kinds = kinds_of(np.array([c.classes for c in learnt]))
    near = Neighbourhood.fit(embedding.astype(np.float32), kinds.astype(np.float32), settings.seed)
    note = f"{extractive:.1%} of the answers are extractive" + (f"; {note}" if note else "")
    stage = Stage(train_seconds=seconds, precision=precision, parity=parity, note=note)
    with guarded(folder):
        Tagger(student, near).save(aside)
        (aside / "stage.json").write_bytes(msgspec.json.encode(stage))
    replace_folder(aside, folder)
    return Tagger.load(folder, threads=settings.threads), stage


def _plan(rows: int) -> Any:
    """Settings of tuning for this many rows: about 2,500 steps, and at least four passes."""
    from tiercel.students.encoder_training import TrainingPlan

    return TrainingPlan(epochs=int(np.clip(round(2_500 * 32 / rows), 4, 20)), learning_rate=1e-4, batch=32)


def _export(
    trainer: Any,
    folder: Path,
    texts: list[str],
    tokens: list[Any],
    learnt: list[Any],
    prepared: Prepared,
    settings: LadderSettings,
) -> tuple[Any, str, float, str]:
    """The served tagger: int8 where it answers as the trained one on at least 99.5 % of rows, else full precision."""
    from collections import Counter

    from tiercel.compress.onnx_export import export_tagger, smallest_precision
    from tiercel.students.tagger import TaggerStudent, pattern_of, read_states

    full = folder / "full.onnx"
    export_tagger(trainer, full)
    shutil.copyfile(trainer.base / "tokenizer.json", folder / TaggerStudent.files[1])
    patterns = dict(Counter(map(pattern_of, learnt)))
    heads = trainer.tagger_arrays()
    # The gate's rows and some of training's: the check may not look at calibration or test.
    probe = prepared.gate.texts + texts[:500]
    read = trainer.words(probe)
    trained = read_states(probe, read, trainer.hidden_states(read), heads, trainer.form, patterns).compiled

    def build(precision: str) -> TaggerStudent:
        return TaggerStudent(
            folder,
            heads,
            trainer.form,
            patterns,
            max_tokens=trainer.max_tokens,
            precision=precision,
            threads=settings.threads,
        )

    def agreement(student: TaggerStudent) -> float:
        served = student.tag(probe).compiled
        return float(np.mean([s == t for s, t in zip(served, trained, strict=True)]))

    return smallest_precision(full, folder / TaggerStudent.files[0], build, agreement)
