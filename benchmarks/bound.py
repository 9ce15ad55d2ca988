"""The bound over 200 resplits of the stored scores of HEADLINES and CLINC150.

Calibration and test rows of a benchmark's pilot are pooled with the gate's scores that its bundle gives them. Each
resplit draws new calibration rows from the pool, certifies with the plan that the pilot fixed, and looks at the excess
loss of the rows that were left. A threshold tuned on the same calibration rows stands beside it.

    python benchmarks/bound.py
"""

from __future__ import annotations

import numpy as np

from _record import DATA, bundle_of, score_file, write_result
from tiercel.flows.bundle import verify_bundle
from tiercel.routing.calibration import calibrate
from tiercel.stats.intervals import rate_interval

RESPLITS = 200


def resplit(name: str) -> list[tuple[str, str, str, bool | None]]:
    bundle = bundle_of(name)
    certificate, _ = verify_bundle(bundle.folder)
    scored = score_file(bundle, DATA / name / "test.jsonl.gz")
    stored = certificate.rows
    scores = np.concatenate([scored.scores, [r.score for r in stored]])
    excess = np.concatenate(
        [scored.loss - scored.rows.frontier_loss, [r.student_loss - r.frontier_loss for r in stored]]
    )
    plan, n = certificate.plan, len(stored)
    rng = np.random.default_rng(11)
    broken = over = tuned_broken = tuned_over = 0
    offload = []
    for _ in range(RESPLITS):
        order = rng.permutation(len(scores))
        here, there = order[:n], order[n:]
        found = calibrate(plan, scores[here], excess[here])
        risks = np.array([(excess[here] * (scores[here] >= t)).mean() for t in plan.grid])
        tuned = plan.grid[int(np.flatnonzero(risks <= plan.max_loss)[-1])]

        def risk(threshold: float | None, rows: np.ndarray) -> float:
            return float((excess[rows] * (scores[rows] >= threshold)).mean()) if threshold is not None else 0.0

        broken += risk(found.threshold, order) > plan.max_loss
        over += risk(found.threshold, there) > plan.max_loss
        tuned_broken += risk(tuned, order) > plan.max_loss
        tuned_over += risk(tuned, there) > plan.max_loss
        offload.append(float((scores[there] >= found.threshold).mean()) if found.threshold is not None else 0.0)
    limit = rate_interval(round(0.05 * RESPLITS), RESPLITS).high
    return [
        (
            f"{name}: bound {plan.max_loss:.0%} broken on the rows left ({len(scores) - n:,})",
            f"<= 5 % + sampling error ({limit:.1%})",
            f"{over / RESPLITS:.1%}; tuned threshold {tuned_over / RESPLITS:.0%}",
            over / RESPLITS <= limit,
        ),
        (
            f"{name}: the same, risk over the whole pool",
            f"<= {limit:.1%}",
            f"{broken / RESPLITS:.1%}; tuned threshold {tuned_broken / RESPLITS:.0%}",
            broken / RESPLITS <= limit,
        ),
        (f"{name}: certified offload, mean of the resplits", "", f"{np.mean(offload):.1%}", None),
    ]


if __name__ == "__main__":
    write_result("bound", "make bench-bound", [*resplit("headlines"), *resplit("clinc150")])
