"""Pilots of HEADLINES and CLINC150 with the published split: accuracy, out-of-scope detection, certified offload, time.

python benchmarks/pilots.py headlines|clinc150
"""

from __future__ import annotations

import resource
import shutil
import sys
import time

import numpy as np

from _record import DATA, OUT, bundle_of, need, score_file, write_result
from tiercel.cli.terminal import TerminalProgress
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.report.result import PilotResult
from tiercel.stats.ranking import auroc


def run(name: str, files: list[str], max_loss: float) -> tuple[PilotResult, float, float]:
    """The pilot's result, its seconds and its peak memory in GB."""
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    folder = need(DATA / name)
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
    oos = bundle.manifest.labels.parse("oos")
    assert oos is not None
    inside = scored.rows.targets[:, oos[0]] < 0.5
    accuracy = float((scored.loss[inside] == 0).mean())
    # How much likelier the best intent is than `oos`; chosen on the pilot's gate rows, where it ranked best.
    log_p = np.log(scored.probabilities.astype(np.float64) + 1e-9)
    area = auroc(np.delete(log_p, oos[0], axis=1).max(axis=1) - log_p[:, oos[0]], inside)
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
    {"headlines": headlines, "clinc150": clinc150}[sys.argv[1]]()
