"""The rung `slm`: a pretrained language model that the user names, prompted first, then tuned, served by llama.cpp."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.candidates import (
    ENOUGH_OFFLOAD,
    Candidate,
    LadderSettings,
    Skipped,
    Stage,
    answered_candidate,
    finished,
    folder_size,
)
from tiercel.flows.explaining import rationales_of, said_of_rationales
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.held_form import form_of, taught_answers
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Progress
from tiercel.flows.rungs import attempt
from tiercel.flows.served_model import convert_and_check
from tiercel.flows.staged_training import choose_way, difficulties, said_of
from tiercel.flows.storage import guarded, make_folder, replace_folder
from tiercel.students.known_words import KnownWords
from tiercel.students.prompting import (
    Prompt,
    Prompter,
    Shot,
    choose_pool,
    describe_functions,
    describe_schema,
    shorten,
)

if TYPE_CHECKING:
    from tiercel.students.slm_base import SlmBase

__all__ = ["climb_slm", "named_base"]

SHOTS = 6
"""Examples in a prompt at the most."""
POOL = 200
"""Training rows from which they are chosen; the bundle holds them."""
PROMPT_CONTEXT = 4096
"""Tokens of a prompt and its answer at the most."""
SLOTS = 4
"""Requests that are worked on at once."""
HELD_OUT = 0.05
"""Share of the training rows that tell when to stop."""
CHECKED = 12
"""Rows on which serving is compared with training: a large model takes seconds for each."""
CHECKED_TOKENS = 48
"""Tokens of their answers at the most."""
PLAN: dict[str, Any] = {"minutes": 60.0}
"""Settings of tuning that are not `SlmPlan`'s own."""


def climb_slm(
    prepared: Prepared, settings: LadderSettings, progress: Progress, base: SlmBase | None = None
) -> tuple[list[Candidate], list[Skipped]]:
    """Prompt and tune the model, or say why not; see `tiercel.flows.ladder.climb`.

    Args:
        prepared: the workload.
        settings: of the ladder.
        progress: is told.
        base: the model that the settings name; None to open it here.

    Raises:
        TiercelError: it is all that was asked for and can't be used.
    """
    candidates, skipped = list[Candidate](), list[Skipped]()
    base = base or _opened(settings, skipped, progress)
    if base is None:
        return candidates, skipped
    for name, make in (("slm-prompted", _prompted), ("slm-tuned", _tuned)):
        if settings.students is None and candidates and candidates[-1].expected_offload >= ENOUGH_OFFLOAD:
            skipped.append(Skipped(name=name, rung="slm", why="the prompted model leaves too little to win"))
            continue
        # A prompted model that can't be served does not keep the tuned one from being tried.
        last = name == "slm-tuned"
        with attempt(name, candidates, skipped, settings, progress, last=last) as going:
            going.parameters = base.parameters
            student, stage = make(base, settings.work / name, prepared, settings, progress)
            size = folder_size(settings.work / name)
            candidates.append(answered_candidate(name, student, stage, size, prepared, settings, progress))
    return candidates, skipped


def _opened(settings: LadderSettings, skipped: list[Skipped], progress: Progress) -> SlmBase | None:
    """The model that the settings name; None where it can't be used, which `skipped` then says."""
    with attempt("slm", (), skipped, settings, progress):
        return named_base(settings)
    return None  # where `attempt` went on from a failure


def named_base(settings: LadderSettings) -> SlmBase:
    """The model that the settings name, once it is known that it can be checked, converted and served here.

    Raises:
        ConfigurationError: none was named, it is not whole, llama.cpp does not know it, or memory would not suffice to
            check what is served.
        MissingExtraError: a library is not installed.
    """
    from tiercel.compress.gguf import check_convertible
    from tiercel.students.slm_base import SERVED_BYTES, free_memory, open_base

    if settings.model is None:
        raise ConfigurationError("the rung slm needs a pretrained model; give --model NAME_OR_FOLDER")
    base = open_base(settings.model)
    need, free = base.parameters * SERVED_BYTES, free_memory(main=True)
    if need > free:
        raise ConfigurationError(
            f"{base.name} has {base.parameters / 1e9:.2g} billion parameters and takes about {need / 1e9:.3g} GB to "
            f"convert and check, {free / 1e9:.3g} GB are free; a model of about {free / SERVED_BYTES / 1e9:.2g} "
            "billion would fit"
        )
    check_convertible(base.folder, context=min(base.context, PROMPT_CONTEXT))
    return base


def _prompted(
    base: SlmBase, folder: Path, prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[Generator, Stage]:
    if (stage := finished(folder)) is not None:
        return Generator.load(folder, threads=settings.threads), stage
    answers = taught_answers(prepared, prepared.train)
    context = min(base.context, PROMPT_CONTEXT)
    lengths = [len(ids) for ids in base.tokenizer(answers, add_special_tokens=False)["input_ids"]]
    longest = int(np.quantile(lengths, 0.995))
    max_tokens = min(longest + longest // 4 + 8, context // 2)
    rows = [Shot(t, a) for t, a in zip(prepared.train.texts, answers, strict=True) if a.strip()]
    # A character is a token at the worst; as many rows as are wanted have to fit beside the request.
    pool = choose_pool(rows, POOL, longest=2 * context // (SHOTS + 2), seed=settings.seed)
    prompt = msgspec.structs.replace(_prompt(base, prepared), pool=pool, shots=SHOTS)
    told = _declared_text(base, prepared, context // 2, progress)
    prompt = msgspec.structs.replace(prompt, system="\n\n".join(filter(None, (prompt.system, told))))
    record = _record(prepared, prompt, progress, context=context, max_tokens=max_tokens)
    shown = Prompter(prompt, lambda _: 0, 0)
    aside = _aside(folder)
    known = KnownWords.of(prepared.train.texts)
    record, parity, more = convert_and_check(
        _linked(base, settings.work / "slm.base"),
        aside,
        record,
        known,
        prepared,
        settings,
        progress,
        rows=CHECKED,
        most_tokens=CHECKED_TOKENS,
        same_answers=False,
        taught=[(shown.messages(row.request), row.answer) for row in pool],
    )
    note = f"{base.name}, prompted with up to {SHOTS} examples of {len(pool)}{more}"
    return _finish(
        aside, folder, Stage(train_seconds=0.0, precision=record.precision, parity=parity, note=note), settings
    )


def _tuned(
    base: SlmBase, folder: Path, prepared: Prepared, settings: LadderSettings, progress: Progress
) -> tuple[Generator, Stage]:
    from tiercel.flows.teaching import teach_slm
    from tiercel.students.slm_adapter import merge_adapter
    from tiercel.students.slm_rows import ChatRow
    from tiercel.students.slm_training import SlmPlan, SlmTraining, train_slm

    if (stage := finished(folder)) is not None:
        return Generator.load(folder, threads=settings.threads), stage
    train = prepared.train
    prompt = _prompt(base, prepared)
    # Without examples nothing is counted: what does not fit is left out of training, and said.
    prompter = Prompter(prompt, lambda _: 0, 0)
    answers = taught_answers(prepared, train)
    rows = [ChatRow(prompter.messages(t), a) for t, a in zip(train.texts, answers, strict=True)]
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    held = max(8, round(HELD_OUT * len(rows)))
    if len(rows) < 5 * held:
        raise DataError(f"{len(rows)} training rows are too few to tune a model; collect more traffic")
    plan = SlmPlan(**PLAN)
    limit = f", {plan.minutes:.0f} minutes at the most" if plan.minutes else ""
    progress.stage(f"tuning {base.name} on {len(rows) - held:,} rows{limit}")
    taught, stopping = [rows[i] for i in order[held:]], [rows[i] for i in order[:held]]
    teaching = teach_slm(settings, base, taught, plan, progress)
    rationales = rationales_of([train.metadata[i] for i in order[held:]])

    def train_once(name: str, difficulty: Sequence[float] | None) -> SlmTraining:
        folder = settings.work / name
        with guarded(folder):
            return train_slm(
                base,
                taught,
                stopping,
                make_folder(folder),
                plan,
                seed=settings.seed,
                threads=settings.threads,
                checkpoint=folder.with_suffix(".checkpoint"),
                progress=progress.step,
                difficulty=difficulty,
                teaching=teaching,
                rationales=rationales,
            )

    difficulty = None
    if settings.curriculum:
        by_row = difficulties(prepared, answers, settings.seed)
        difficulty = [by_row[i] for i in order[held:]]
    told, name, verdict = choose_way(
        "slm-adapter",
        train_once,
        SlmTraining,
        difficulty,
        [row.answer for row in stopping],
        settings.work,
        progress,
        seed=settings.seed,
    )
    merged = settings.work / "slm.merged"
    with guarded(merged):
        for warning in told.warnings:
            progress.warn(warning)
        shutil.rmtree(merged, ignore_errors=True)
        # llama.cpp knows a few families by the model's name.
        trained = merge_adapter(base, settings.work / name, merged / base.name, ends=told.ends)
    context = min(base.context, plan.context, -(-(told.longest + 64) // 64) * 64)
    record = _record(prepared, prompt, progress, context=context, max_tokens=told.answer + 2)
    aside = _aside(folder)
    known = KnownWords.of(train.texts)
    record, parity, more = convert_and_check(
        trained,
        aside,
        record,
        known,
        prepared,
        settings,
        progress,
        rows=CHECKED,
        most_tokens=CHECKED_TOKENS,
        taught=taught,
    )
    note = (
        f"{told.method} of rank {plan.rank} on {base.name}, {told.adapted:,} parameters; held-out loss "
        f"{told.losses[0]:.3f} before, {min(told.losses):.3f} after {told.steps:,} steps{more}"
    )
    note += (teaching.said if teaching else "") + said_of_rationales(rationales) + said_of(verdict)
    stage = Stage(train_seconds=told.seconds, precision=record.precision, parity=parity, note=note)
    found = _finish(aside, folder, stage, settings)
    for left in ("slm-adapter", "slm-adapter-staged", "slm.merged"):
        shutil.rmtree(settings.work / left, ignore_errors=True)
    return found


def _prompt(base: SlmBase, prepared: Prepared) -> Prompt:
    """The workload's instructions, shortened; what its users' messages begin and end with stays around each request."""
    reader = prepared.reader
    labels = prepared.labels.labels if prepared.labels is not None else ()
    return Prompt(
        system=shorten(reader.key.template.shown, labels),
        system_role=base.system_role,
        before=reader.prefix,
        after=reader.suffix,
    )


def _declared_text(base: SlmBase, prepared: Prepared, room: int, progress: Progress) -> str:
    """Functions or schema that requests declare beside their messages, in words that take `room` tokens at most."""
    declared, ways = prepared.declared, list[str]()
    if prepared.task == "function_calling" and declared.functions:
        several = any(len(answer.tool_calls) > 1 for answer in prepared.train.reference)
        ways = [describe_functions(declared.functions, several=several, whole=whole) for whole in (True, False)]
    elif prepared.task == "extraction" and declared.schema is not None:
        ways = [describe_schema(declared.schema)]
    for way in ways:
        if len(base.tokenizer(way, add_special_tokens=False)["input_ids"]) <= room:
            return way
    if ways:
        progress.warn(f"what requests declare of their answers takes more than {room} tokens: {base.name} is not told")
    return ""


def _record(
    prepared: Prepared, prompt: Prompt, progress: Progress, *, context: int, max_tokens: int
) -> GeneratorRecord:
    schema, grammar = form_of(prepared, progress)
    return GeneratorRecord(
        task=prepared.task,
        rung="slm",
        context=context,
        max_tokens=max_tokens,
        precision="q8_0",
        schema=schema,
        grammar=grammar,
        prompt=prompt,
        slots=SLOTS,
    )


def _linked(base: SlmBase, folder: Path) -> Path:
    """A folder with the base's name that links to its files; the hub's cache names folders by hashes."""
    target = folder / base.name
    shutil.rmtree(target, ignore_errors=True)
    with guarded(target):
        target.mkdir(parents=True)
        for path in base.folder.iterdir():
            if path.is_file():
                (target / path.name).symlink_to(path.resolve())
    return target


def _aside(folder: Path) -> Path:
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside / "generator")
    return aside


def _finish(aside: Path, folder: Path, stage: Stage, settings: LadderSettings) -> tuple[Generator, Stage]:
    with guarded(folder):
        (aside / "stage.json").write_bytes(msgspec.json.encode(stage))
    replace_folder(aside, folder)
    return Generator.load(folder, threads=settings.threads), stage
