"""Latency and throughput of served students: one request after another on one thread, 1,000 at once on all cores.

python benchmarks/latency.py
"""

from __future__ import annotations

import time

import numpy as np

from _record import DATA, OUT, bundle_of, need, score_file, write_result
from tiercel.flows.bundle import load
from tiercel.students.linear import LinearStudent


def milliseconds(ask, texts: list[str], requests: int = 500) -> tuple[float, float]:
    taken = []
    for i in range(requests + 50):
        text = [texts[i % len(texts)]]
        started = time.perf_counter()
        ask(text)
        taken.append((time.perf_counter() - started) * 1000)
    p50, p99 = np.quantile(taken[50:], [0.5, 0.99])
    return float(p50), float(p99)


def main() -> None:
    bundle_of("clinc150")
    folder = OUT / "clinc150"
    one, all_cores = load(folder, threads=1), load(folder)
    texts = score_file(all_cores, need(DATA / "clinc150" / "test.jsonl.gz")).rows.texts
    encoder = next(p for p in one.student.student.parts if p.rung == "encoder")
    linear = next(p for p in one.student.student.parts if isinstance(p, LinearStudent))
    messages = [
        [{"role": "system", "content": one.manifest.reader.key.template.pieces[0]}, {"role": "user", "content": t}]
        for t in texts
    ]
    table = []
    for name, ask, target in (
        (f"encoder {encoder.precision}, one thread", encoder.predict, 3.0),
        ("linear", linear.predict, 0.3),
    ):
        p50, p99 = milliseconds(ask, texts)
        table.append((f"{name}: p50, p99", f"p50 <= {target} ms", f"{p50:.3f} ms, {p99:.3f} ms", p50 <= target))
    taken = []
    for i in range(300):
        started = time.perf_counter()
        one.answer(messages[i])
        taken.append((time.perf_counter() - started) * 1000)
    table.append(("the whole answer: both rungs, gate, threshold", "", f"p50 {np.median(taken):.2f} ms", None))
    all_cores.answer_many(messages[:64])
    started = time.perf_counter()
    all_cores.answer_many(messages[:1000])
    rate = 1000 / (time.perf_counter() - started)
    table.append(("a batch of 1,000 requests, whole answers", ">= 600 rows/s", f"{rate:.0f} rows/s", rate >= 600))
    write_result("latency", "make bench-latency", table)


if __name__ == "__main__":
    main()
