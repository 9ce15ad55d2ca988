"""The micro rung on SNIPS (request to JSON), GeoQuery (question to SQL) and HEADLINES (label): exact match and time.

python benchmarks/micro.py snips|geoquery|headlines [--minutes M] [--size N] [--batch N] [--rows N] [--threads N]
    [--test]

Trains on the training file but for two parts that are held out, near-duplicates together: one tells when to stop, the
other is scored. With --test the test file is scored instead: look once. GeoQuery's own development file then tells when
to stop, and all of the training file is trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from _record import DATA, OUT, need, write_result
from tiercel.cli.terminal import TerminalProgress
from tiercel.compress.gguf import convert_to_gguf
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.datasets.splitting import split_groups
from tiercel.engines.json_grammar import literal
from tiercel.flows.generating import Generator, GeneratorRecord
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.stats.intervals import rate_interval
from tiercel.stats.ranking import auroc
from tiercel.students.known_words import KnownWords
from tiercel.students.linear_training import cross_fitted
from tiercel.students.micro import Generated, MicroStudent
from tiercel.students.micro_labels import label_plan, softened_loss
from tiercel.students.micro_model import MicroShape
from tiercel.students.micro_sql import SqlLesson, sql_lesson
from tiercel.students.micro_tokenizer import MicroTokenizer
from tiercel.students.micro_training import MicroPlan, TokenLoss, train_micro
from tiercel.students.micro_vocabulary import train_tokenizer
from tiercel.tasks.learned_schema import learn_schema
from tiercel.tasks.losses import compare
from tiercel.tasks.sql_canonical import canonical_sql
from tiercel.tasks.sql_grammar import aliases_in, sql_grammar
from tiercel.tasks.sql_schema import read_schema
from tiercel.types import Answer

TASKS = {"snips": "extraction", "geoquery": "sql", "headlines": "generation"}
TARGETS = {"snips": 0.8}

Rows = list[tuple[str, str]]


def read(name: str, file: str) -> Rows:
    """Requests and answers; the system message is the same in all rows and says nothing."""
    examples = read_workload([need(DATA / name / file)], Silent()).examples
    return [(e.messages[-1].text, e.answer.text) for e in examples if e.answer]


def softened(rows: Rows, folder: Path) -> tuple[MicroTokenizer, TokenLoss]:
    """Tokenizer and loss of labels, as the pilot's micro rung has them."""
    labels = sorted({answer for _, answer in rows})
    targets = np.array([[answer == label for label in labels] for _, answer in rows], dtype=np.float32)
    view = cross_fitted([request for request, _ in rows], targets)
    tokenizer = train_tokenizer(rows, folder)
    return tokenizer, softened_loss(tokenizer, labels, view)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def measured(name: str, rows: Rows, found: list[Generated], seconds: float) -> list[tuple[str, str, str, bool | None]]:
    task = TASKS[name]
    pairs = [(Answer(content=f.text), Answer(content=answer)) for f, (_, answer) in zip(found, rows, strict=True)]
    right = sum(compare(task, got, wanted).loss == 0 for got, wanted in pairs)
    interval = rate_interval(right, len(rows))
    target = TARGETS.get(name)
    share = right / len(rows)
    tokens = sum(len(f.logprobs) for f in found)
    table: list[tuple[str, str, str, bool | None]] = [
        (
            f"exact match, {len(rows)} rows",
            "" if target is None else f">= {target:.0%}",
            f"{share:.2%} [{interval.low:.2%}, {interval.high:.2%}]",
            None if target is None else share >= target,
        ),
        ("tokens an answer, its end included", "", f"{tokens / len(found):.1f}", None),
        ("answers that did not end", "", str(sum(f.finish_reason == "length" for f in found)), None),
        ("greedy answers in torch", "", f"{1000 * seconds / len(rows):.1f} ms a row", None),
    ]
    if task == "extraction":
        valid = sum(is_json(f.text) for f in found) / len(found)
        table.insert(1, ("valid JSON", "", f"{valid:.2%}", None))
    return table


def system_prompt(name: str) -> str:
    return read_workload([need(DATA / name / "train.jsonl.gz")], Silent()).examples[0].messages[0].text


def form_of(name: str, rows: Rows) -> tuple[dict[str, Any] | None, str | None]:
    """Schema and grammar that the served answers are held to."""
    if name == "snips":
        return learn_schema([json.loads(answer) for _, answer in rows]), None
    if name == "geoquery":
        return None, sql_grammar(read_schema(system_prompt(name)), aliases=aliases_in(a for _, a in rows))
    labels = sorted({answer for _, answer in rows})
    return None, "root ::= " + " | ".join(literal(label) for label in labels) + "\n"


def loss_of(name: str, answer: str, wanted: str) -> float:
    database = DATA / name / "geography.sqlite" if name == "geoquery" else None
    return compare(TASKS[name], Answer(content=answer), Answer(content=wanted), None, database).loss


def lesson_of(name: str, train: Rows, stop: Rows) -> SqlLesson:
    """What is taught: SQL as the product teaches it, other answers as they are."""
    if name != "geoquery":
        return SqlLesson(rows=list(train), placeholders=None, variation=None, held_out=list(stop))
    return sql_lesson(train, stop, database=DATA / name / "geography.sqlite", schema=read_schema(system_prompt(name)))


def answers_of(student: MicroStudent, lesson: SqlLesson, requests: list[str]) -> list[Generated]:
    """Greedy answers in torch, values put back."""
    if lesson.placeholders is None:
        return student.generate(requests)
    hidden = [lesson.placeholders.hide(request) for request in requests]
    found = student.generate([h.text for h in hidden])
    put_back = [lesson.placeholders.restore(f.text, h) for f, h in zip(found, hidden, strict=True)]
    return [dataclasses.replace(f, text=text) for f, text in zip(found, put_back, strict=True)]


def served(
    name: str, folder: Path, lesson: SqlLesson, rows: Rows, found: list[Generated], shape: MicroShape
) -> list[tuple[str, str, str, bool | None]]:
    """The same model through llama.cpp: free in each precision against torch, then held to its form."""
    table: list[tuple[str, str, str, bool | None]] = []
    train = lesson.rows
    known = KnownWords.of(request for request, _ in train)
    schema, grammar = form_of(name, train)
    torch_right = sum(loss_of(name, f.text, wanted) == 0 for f, (_, wanted) in zip(found, rows, strict=True))
    texts = [f"{request} {answer}" for request, answer in train[:512]]
    requests = [request for request, _ in rows]
    for precision, equal_wanted in (("f16", 0.995), ("q8_0", 0.99), ("q4_k_m", None)):
        model = convert_to_gguf(folder, folder.with_name(f"{folder.name}-{precision}.gguf"), precision, texts=texts)
        record = GeneratorRecord(
            task=TASKS[name],
            rung="micro",
            context=shape.context,
            max_tokens=shape.answer,
            precision=precision,
            values=lesson.placeholders.values if lesson.placeholders else None,
        )
        free = Generator(model, record, known, threads=2)
        answers = [a.text for a in free.respond(requests).answers]
        free.engine.close()
        equal = float(np.mean([a == f.text for a, f in zip(answers, found, strict=True)]))
        right = sum(loss_of(name, a, wanted) == 0 for a, (_, wanted) in zip(answers, rows, strict=True))
        lost = (torch_right - right) / len(rows)
        good = equal >= equal_wanted if equal_wanted else lost <= 0.01
        target = f">= {equal_wanted:.1%} equal to torch" if equal_wanted else "loses <= 1 point"
        table.append((f"{precision}, free", target, f"{equal:.2%} equal, {right / len(rows):.2%} right", good))
        if precision != "q8_0":
            continue
        labels = tuple(sorted({answer for _, answer in train})) if name == "headlines" else ()
        formed = msgspec.structs.replace(record, schema=schema, grammar=grammar, texts=lesson.texts, one_token=labels)
        held = Generator(model, formed, known, threads=2)
        started = time.perf_counter()
        responses = held.respond(requests)
        seconds = time.perf_counter() - started
        alone = held.single_threaded()
        held.engine.close()
        taken = []
        for request in requests[:120]:
            clock = time.perf_counter()
            alone.respond([request])
            taken.append(1000 * (time.perf_counter() - clock))
        alone.engine.close()
        losses = [loss_of(name, a.text, wanted) for a, (_, wanted) in zip(responses.answers, rows, strict=True)]
        right = float(np.mean(np.equal(losses, 0)))
        wanted_share = {"snips": 0.8, "geoquery": 0.7, "headlines": 0.88}[name]
        what = {"snips": "exact match", "geoquery": "execution accuracy", "headlines": "accuracy"}[name]
        table.append(
            (f"q8_0, held to its form: {what}", f">= {wanted_share:.0%}", f"{right:.2%}", right >= wanted_share)
        )
        parse = {"snips": is_json, "geoquery": is_sql}.get(name)
        if parse:
            share = float(np.mean([parse(a.text) for a in responses.answers]))
            table.append(("q8_0, held to its form: answers that parse", "100 %", f"{share:.2%}", share == 1))
        score = responses.signals[:, held.signals.index("log_probability")]
        table.append(("AUROC of the log probability", "", f"{auroc(score, np.equal(losses, 0)):.3f}", None))
        p50 = float(np.median(taken[20:]))
        target_ms = 15.0 if name == "headlines" else None
        told = "" if target_ms is None else f"<= {target_ms:g} ms"
        table.append(("one request, one thread, p50", told, f"{p50:.1f} ms", target_ms and p50 <= target_ms))
        table.append(("all requests, 8 slots, two threads", "", f"{len(rows) / seconds:.0f} a second", None))
    return table


def is_sql(text: str) -> bool:
    try:
        return bool(canonical_sql(text))
    except ValueError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(TASKS))
    parser.add_argument("--minutes", type=float, default=25.0, help="limit of training")
    parser.add_argument("--size", type=int, help="parameters at most")
    parser.add_argument("--batch", type=int, help="rows a step")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--rows", type=int, help="train on so many rows only")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--test", action="store_true", help="score the test file")
    given = parser.parse_args()
    rows = read(given.name, "train.jsonl.gz")
    groups = near_duplicate_groups([request for request, _ in rows])
    train, stop, score = split_groups(groups, (0.9, 0.05, 0.05), seed=0)
    taught, stopping = [rows[i] for i in train], [rows[i] for i in stop]
    if given.test:
        taught += [rows[i] for i in score]
        scored = read(given.name, "test.jsonl.gz")
    else:
        scored = [rows[i] for i in score]
    if given.test and given.name == "geoquery":
        taught, stopping = rows, read(given.name, "dev.jsonl.gz")
    lesson = lesson_of(given.name, taught[: given.rows], stopping)
    folder = (OUT / f"micro-{given.name}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    plan, tokenizer, loss = MicroPlan(minutes=given.minutes), None, None
    if given.name == "geoquery":
        plan = replace(plan, keep="right")
    if given.name == "headlines":
        tokenizer, loss = softened(lesson.rows, folder)
        plan = label_plan(tokenizer, len(lesson.rows), given.minutes)
    chosen = {"size": given.size, "batch": given.batch, "epochs": given.epochs}
    plan = replace(plan, **{k: v for k, v in chosen.items() if v})
    with TerminalProgress() as progress:
        progress.stage(f"training on {given.name}")
        result = train_micro(
            lesson.rows,
            lesson.held_out,
            folder,
            plan,
            tokenizer=tokenizer,
            loss=loss,
            threads=given.threads,
            checkpoint=folder.with_name(folder.name + ".state"),
            progress=progress.step,
            variation=lesson.variation,
        )
    student = MicroStudent.load(folder)
    started = time.perf_counter()
    found = answers_of(student, lesson, [request for request, _ in scored])
    table = measured(given.name, scored, found, time.perf_counter() - started)
    used = f"{result.steps:,} steps, {result.seconds / 60:.1f} min"
    table.append(("training", f"<= {given.minutes:g} min", used, result.seconds <= 60 * given.minutes + 15))
    shape = result.shape
    table += served(given.name, folder, lesson, scored, found, shape)
    options = "".join(
        f" --{k} {getattr(given, k)}"
        for k in ("minutes", "size", "batch", "epochs", "rows", "threads")
        if getattr(given, k) != parser.get_default(k)
    )
    losses = ", ".join(f"{x:.3f}" for x in result.losses)
    write_result(
        f"micro-{given.name}" + ("" if given.test else "-held-out"),
        f"python benchmarks/micro.py {given.name}{options}{' --test' if given.test else ''}",
        table,
        "\n".join([f"{result.shape}.", f"Held-out loss at each look: {losses}.", *result.warnings]),
    )


if __name__ == "__main__":
    main()
