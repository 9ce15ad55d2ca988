"""Pilots with the published split of their data: accuracy, out-of-scope detection, certified offload, time.

python benchmarks/pilots.py headlines|clinc150|snips|snips-calls
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import sys
import time
from pathlib import Path

from _record import DATA, OUT, bundle_of, need, score_file, write_result
from tiercel.cli.terminal import TerminalProgress
from tiercel.flows.classifier import Classifier
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.report.result import PilotResult
from tiercel.tasks.metrics import field_metrics, micro_f1


def run(name: str, files: list[str], max_loss: float, folder: Path | None = None) -> tuple[PilotResult, float, float]:
    """The pilot's result, its seconds and its peak memory in GB."""
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    folder = folder or need(DATA / name)
    started = time.perf_counter()
    with TerminalProgress() as progress:
        result = pilot(
            [folder / f for f in files],
            out,
            PilotSettings(max_loss=max_loss, frontier="gpt-4o", requests_a_day=10_000),
            test=folder / "test.jsonl.gz",
            progress=progress,
        )
    seconds = time.perf_counter() - started
    return result, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def headlines() -> None:
    result, seconds, memory = run("headlines", ["train.jsonl.gz"], 0.02)
    best = max(s.accuracy.value for s in result.students if s.accuracy)
    certificate, test = result.certificate, result.test
    write_result(
        "headlines",
        "make bench-headlines",
        [
            ("student accuracy (GPT-4-turbo .8558, FrugalGPT .8746)", ">= .91", f"{best:.4f}", best >= 0.91),
            (
                "certified offload at 2 %, calibration rows",
                ">= 75 %",
                f"{certificate.offload:.1%}",
                certificate.offload >= 0.75,
            ),
            ("the same policy on the 5,000 test rows", ">= 75 %", f"{test.offload:.1%}", test.offload >= 0.75),
            (
                "excess loss on test rows",
                "<= 2 %",
                f"{test.excess_loss.value:.2%} [{test.excess_loss.low:.2%}, {test.excess_loss.high:.2%}]",
                test.excess_loss.value <= 0.02,
            ),
            ("pilot, all rungs", "", f"{seconds:.0f} s, {memory:.2f} GB", None),
        ],
        _students(result),
    )


def clinc150() -> None:
    result, seconds, memory = run("clinc150", ["train.jsonl.gz", "val.jsonl.gz"], 0.01)
    certificate, test = result.certificate, result.test
    bundle = bundle_of("clinc150")
    scored = score_file(bundle, DATA / "clinc150" / "test.jsonl.gz")
    assert isinstance(bundle.student, Classifier)
    oos = bundle.student.labels.parse("oos")
    assert oos is not None
    inside = scored.rows.targets[:, oos[0]] < 0.5
    accuracy = float((scored.loss[inside] == 0).mean())
    assert result.scope is not None
    area = result.scope.auroc
    accepted = bundle.policy.accepts(scored.scores)
    write_result(
        "clinc150",
        "make bench-clinc150",
        [
            ("in-scope accuracy, 4,500 test rows", ">= 96.5 %", f"{accuracy:.2%}", accuracy >= 0.965),
            ("out-of-scope AUROC, 1,000 of 5,500 rows", ">= .975", f"{area:.4f}", area >= 0.975),
            (
                "certified offload at 1 %, calibration rows",
                "",
                f"{certificate.offload:.1%}",
                None,
            ),
            ("the same policy on all 5,500 test rows", ">= 80 %", f"{test.offload:.1%}", test.offload >= 0.8),
            (
                "excess loss on all test rows (18 % out of scope, 1 % in the traffic)",
                "",
                f"{test.excess_loss.value:.2%} [{test.excess_loss.low:.2%}, {test.excess_loss.high:.2%}]",
                None,
            ),
            (
                "excess loss on in-scope test rows",
                "<= 1 %",
                f"{float((scored.loss * accepted)[inside].mean()):.2%}",
                float((scored.loss * accepted)[inside].mean()) <= 0.01,
            ),
            ("pilot, all rungs, 2 cores", "<= 15 min", f"{seconds / 60:.1f} min", seconds <= 900),
            ("peak memory", "<= 3 GB", f"{memory:.2f} GB", memory <= 3),
        ],
        _students(result),
    )


def snips(*, calls: bool = False) -> None:
    name = "snips-calls" if calls else "snips"
    traffic = _as_calls() if calls else DATA / "snips"
    result, seconds, memory = run(name, ["train.jsonl.gz"], 0.03, folder=traffic)
    certificate, test = result.certificate, result.test
    tagger = next(s for s in result.students if s.rung == "tagger")
    scored = score_file(bundle_of(name), traffic / "test.jsonl.gz")
    slots = [
        m
        for m in field_metrics(result.task, scored.responses.answers, scored.rows.reference)
        if m.label.startswith("slots.") or (calls and "." in m.label)
    ]
    exact, f1 = 1 - float(scored.loss.mean()), micro_f1(slots)
    write_result(
        name,
        f"make bench-{name}",
        [
            ("tagger, exact match, 700 test rows", ">= 90 %", f"{exact:.2%}", exact >= 0.9),
            ("tagger, slot F1", ">= 95", f"{100 * f1:.2f}", f1 >= 0.95),
            ("certified offload at 3 %, calibration rows", ">= 80 %", f"{certificate.offload:.1%}", None),
            ("the same policy on the test rows", ">= 80 %", f"{test.offload:.1%}", test.offload >= 0.8),
            (
                "excess loss on test rows",
                "<= 3 %",
                f"{test.excess_loss.value:.2%} [{test.excess_loss.low:.2%}, {test.excess_loss.high:.2%}]",
                test.excess_loss.value <= 0.03,
            ),
            ("AUROC of the gate", "", f"{test.gate_auroc or float('nan'):.3f}", None),
            ("what the tagger says of the answers", "", tagger.note, None),
            ("pilot, 2 cores", "", f"{seconds / 60:.1f} min, {memory:.2f} GB", None),
        ],
        _students(result),
    )


def _as_calls() -> Path:
    """SNIPS as function calling: seven tools, one call a request."""
    folder = OUT / "snips-calls-data"
    folder.mkdir(parents=True, exist_ok=True)
    slots: dict[str, set[str]] = {}
    rows = {}
    for part in ("train", "test"):
        with gzip.open(need(DATA / "snips") / f"{part}.jsonl.gz") as stream:
            rows[part] = [json.loads(line) for line in stream]
        for row in rows[part]:
            answer = json.loads(row["messages"][-1]["content"])
            slots.setdefault(answer["intent"], set()).update(answer["slots"])
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {"type": "object", "properties": {s: {"type": "string"} for s in sorted(found)}},
            },
        }
        for name, found in sorted(slots.items())
    ]
    for part, examples in rows.items():
        with gzip.open(folder / f"{part}.jsonl.gz", "wt") as stream:
            for row in examples:
                answer = json.loads(row["messages"][-1]["content"])
                function = {"name": answer["intent"], "arguments": json.dumps(answer["slots"])}
                call = {"id": "call_1", "type": "function", "function": function}
                messages = [
                    {"role": "system", "content": "Call the function that the user needs."},
                    row["messages"][-2],
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                ]
                stream.write(json.dumps({"id": row["id"], "tools": tools, "messages": messages}) + "\n")
    return folder


def _students(result: PilotResult) -> str:
    lines = [
        "| student | accuracy | macro F1 | p50 ms | trained s | MB | parity | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in result.students:
        if s.accuracy is None or s.latency_ms is None:
            lines.append(f"| {s.name} | | | | | | | {s.note} |")
            continue
        lines.append(
            f"| {s.name} | {s.accuracy.value:.4f} [{s.accuracy.low:.4f}, {s.accuracy.high:.4f}] | {s.macro_f1:.4f} | "
            f"{s.latency_ms.p50:.2f} | {s.train_seconds:.0f} | {s.size_bytes / 1e6:.1f} | "
            f"{'' if s.parity is None else format(s.parity, '.4f')} {s.precision} | {s.note} |"
        )
    return "\n".join([*lines, "", *(f"- {w}" for w in result.warnings)])


if __name__ == "__main__":
    known = {"headlines": headlines, "clinc150": clinc150, "snips": snips, "snips-calls": lambda: snips(calls=True)}
    known[sys.argv[1]]()
