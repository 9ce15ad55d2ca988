"""The certificate under simulation: how often the bound breaks, and how much it certifies of what an oracle would.

Scores are binormal: a student with a given error rate and a gate with a given AUROC. For each setting: violations of
the true risk over many draws, the certified offload beside the ideal (the largest offload whose true risk is within the
bound), and what a threshold tuned on the same rows would have done.

    python benchmarks/simulation.py
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from _record import write_result
from tiercel.routing.calibration import calibrate, plan_tests
from tiercel.stats.intervals import rate_interval

BOUND, CONFIDENCE, DRAWS = 0.02, 0.95, 400


def draw(rng: np.random.Generator, n: int, error: float, auroc: float) -> tuple[np.ndarray, np.ndarray]:
    """Gate scores in (0, 1) and losses of n rows."""
    loss = (rng.random(n) < error).astype(float)
    gap = np.sqrt(2) * ndtri(auroc)
    return ndtr((rng.standard_normal(n) + gap * (loss == 0) - gap / 2) / 2), loss


def true_risk(threshold: float, error: float, auroc: float) -> float:
    """Marginal loss of accepting scores at or above a threshold."""
    gap = np.sqrt(2) * ndtri(auroc)
    return error * float(1 - ndtr(2 * ndtri(threshold) + gap / 2)) if threshold > 0 else error


def true_offload(threshold: float, error: float, auroc: float) -> float:
    """Share of rows that score at or above a threshold."""
    gap = np.sqrt(2) * ndtri(auroc)
    wrong = float(1 - ndtr(2 * ndtri(threshold) + gap / 2)) if threshold > 0 else 1.0
    right = float(1 - ndtr(2 * ndtri(threshold) - gap / 2)) if threshold > 0 else 1.0
    return error * wrong + (1 - error) * right


def ideal_offload(error: float, auroc: float) -> float:
    """The largest offload whose true risk is within the bound."""
    if error <= BOUND:
        return 1.0
    gap = np.sqrt(2) * ndtri(auroc)
    threshold = float(ndtr((ndtri(1 - BOUND / error) - gap / 2) / 2))
    return true_offload(threshold, error, auroc)


def main() -> None:
    rng = np.random.default_rng(7)
    table, worst, farthest = [], 0, 0.0
    for auroc in (0.75, 0.85, 0.95):
        for error in (0.05, 0.1, 0.2):
            for n in (500, 2_000):
                broken = tuned_broken = 0
                offloads = []
                for _ in range(DRAWS):
                    gate_scores, gate_loss = draw(rng, max(200, n // 4), error, auroc)
                    plan = plan_tests(gate_scores, gate_loss, max_loss=BOUND, confidence=CONFIDENCE)
                    scores, loss = draw(rng, n, error, auroc)
                    found = calibrate(plan, scores, loss)
                    threshold = found.threshold
                    offloads.append(0.0 if threshold is None else true_offload(threshold, error, auroc))
                    broken += threshold is not None and true_risk(threshold, error, auroc) > BOUND
                    risks = np.array([(loss * (scores >= t)).mean() for t in plan.grid])
                    tuned = plan.grid[int(np.flatnonzero(risks <= BOUND)[-1])]
                    tuned_broken += true_risk(tuned, error, auroc) > BOUND
                ideal, mean = ideal_offload(error, auroc), float(np.mean(offloads))
                worst = max(worst, broken)
                if n == 2_000:
                    farthest = max(farthest, ideal - mean)
                table.append(
                    (
                        f"AUROC {auroc}, error {error:.0%}, n = {n}",
                        f"broken <= {rate_interval(round(0.05 * DRAWS), DRAWS).high:.1%}"
                        + (f", offload >= {max(0.0, ideal - 0.12):.1%}" if n == 2_000 else ""),
                        f"broken {broken / DRAWS:.1%} (tuned on the same rows {tuned_broken / DRAWS:.0%}), "
                        f"offload {mean:.1%} of ideally {ideal:.1%}",
                        broken / DRAWS <= rate_interval(round(0.05 * DRAWS), DRAWS).high
                        and (n != 2_000 or ideal - mean <= 0.12),
                    )
                )
    table.append(("worst share of broken bounds", "<= 5 % + sampling error", f"{worst / DRAWS:.1%}", None))
    table.append(("farthest from the ideal at n = 2,000", "<= 0.12", f"{farthest:.3f}", farthest <= 0.12))
    notes = f"Bound {BOUND:.0%}, confidence {CONFIDENCE:.0%}, {DRAWS} draws a row; risks are exact, not sampled."
    write_result("statistics", "make bench-statistics", table, notes)


if __name__ == "__main__":
    main()
