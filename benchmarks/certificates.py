"""Certificates beyond 0 and 1 under simulation: field F1, users, segments, judges; each beside what is usually done.

Each risk is exact and lies just above the bound where the level is counted, so a procedure that is right certifies in
at most the share that it allows.

    python benchmarks/certificates.py [--draws N]
"""

from __future__ import annotations

import sys

import numpy as np

from _record import write_result
from tiercel.routing.calibration import TestPlan, calibrate, plan_tests
from tiercel.routing.certificate import CertifiedRow
from tiercel.routing.judged import JudgedRow, certify_judged
from tiercel.routing.segments import SegmentPlan, issue_segments
from tiercel.stats.intervals import rate_interval, rate_upper
from tiercel.stats.planning import chance_of_certificate, rows_for_chance, rows_needed

DRAWS = int(sys.argv[sys.argv.index("--draws") + 1]) if "--draws" in sys.argv else 200
DELTA = 0.05
Row = tuple[str, str, str, bool | None]


def limit(draws: int, level: float = DELTA) -> float:
    """The share that a level may show in so many draws."""
    return rate_interval(round(level * draws), draws).high


def held(name: str, broken: int, draws: int, beside: str = "") -> Row:
    share = broken / draws
    return name, f"<= {limit(draws):.1%}", f"{share:.1%}{beside}", share <= limit(draws)


def field_f1(rng: np.random.Generator) -> list[Row]:
    """Scores in 20 steps; an answer that loses, loses a third, a half or all."""
    found = []
    points, sizes = np.arange(1, 21) / 20, np.array([1 / 3, 0.5, 1.0])
    for name, shares in {"mostly whole": [0.05, 0.05, 0.9], "mostly part": [0.5, 0.4, 0.1]}.items():

        def draw(n: int, shares: list[float] = shares) -> tuple[np.ndarray, np.ndarray]:
            scores = rng.integers(1, 21, n) / 20
            return scores, np.where(rng.random(n) < 0.3 * (1 - scores), rng.choice(sizes, n, p=shares), 0.0)

        def risk(threshold: float, shares: list[float] = shares) -> float:
            return float((0.3 * (1 - points) * (points >= threshold)).mean() * (sizes @ np.array(shares)))

        broken = tuned = 0
        methods, offload, whole = [], [], []
        for _ in range(DRAWS):
            gate = draw(200)
            plan = plan_tests(*gate, max_loss=0.04, confidence=1 - DELTA, rows=600)
            scores, losses = draw(600)
            result = calibrate(plan, scores, losses)
            counted = plan_tests(*gate, max_loss=0.04, confidence=1 - DELTA, method="binomial")
            whole.append(calibrate(counted, scores, losses).offload)
            broken += result.threshold is not None and risk(result.threshold) > 0.04
            means = np.array([(losses * (scores >= t)).mean() for t in plan.grid])
            tuned += risk(plan.grid[int(np.flatnonzero(means <= 0.04)[-1])]) > 0.04
            methods.append(plan.method)
            offload.append(result.offload)
        beside = f"; tuned on the same rows {tuned / DRAWS:.0%}"
        found.append(held(f"field F1, losses {name}: bound broken", broken, DRAWS, beside))
        usual = max(set(methods), key=methods.count)
        text = f"{np.mean(offload):.1%} (method mostly {usual}), every loss counted as 1: {np.mean(whole):.1%}"
        found.append((f"field F1, losses {name}: offload", "", text, None))
    return found


def users(rng: np.random.Generator) -> list[Row]:
    """A tenth of the users lose 60 % of their requests, and these ask most."""
    found = []
    mean = 0.6 * 0.1 * 20 / (0.1 * 20 + 0.9 * 10.5)
    for count in (100, 400):
        bound = mean - 1e-3
        common = {"max_loss": bound, "confidence": 1 - DELTA, "grid": (1.0, 0.5), "levels": (DELTA, 0.0)}
        naive = TestPlan(method="binomial", **common)
        plan = TestPlan(method="betting", cluster="user", cap=20, **common)
        broken = broken_naive = 0
        for _ in range(DRAWS):
            bad = rng.random(count) < 0.1
            clusters = np.repeat(np.arange(count), np.where(bad, 20, rng.integers(1, 21, count)))
            losses = (rng.random(clusters.size) < 0.6 * bad[clusters]).astype(float)
            scores = np.full(losses.size, 0.7)
            broken_naive += calibrate(naive, scores, losses).threshold is not None
            broken += calibrate(plan, scores, losses, clusters).threshold is not None
        name = f"{count} users, about 11 rows each: certified above the bound"
        found.append(held(name, broken, DRAWS, f"; rows taken as independent {broken_naive / DRAWS:.0%}"))
    return found


def segments(rng: np.random.Generator) -> list[Row]:
    """Eight segments just above the bound, and eight at a fifth of it."""
    bound, each, draws = 0.05, 500, max(50, DRAWS // 2)
    risks = {f"bad{i}": bound + 1e-3 for i in range(8)} | {f"good{i}": bound / 5 for i in range(8)}
    found = []
    for control in ("bonferroni", "e-bh"):
        delta = DELTA / len(risks) if control == "bonferroni" else DELTA
        one = TestPlan(
            max_loss=bound,
            confidence=1 - delta,
            method="binomial" if control == "bonferroni" else "wealth",
            grid=(1.0, 0.5),
            levels=(delta, 0.0),
        )
        plan = SegmentPlan(
            field="team", method=control, max_loss=bound, confidence=1 - DELTA, plans=dict.fromkeys(risks, one)
        )
        any_bad, shares, good = 0, [], 0
        for _ in range(draws):
            names = [name for name in risks for _ in range(each)]
            lost = rng.random(len(names)) < np.repeat(list(risks.values()), each)
            rows = [CertifiedRow(f"k{i}", 0.7, float(v), 0.0, False) for i, v in enumerate(lost)]
            made, _ = issue_segments(plan, rows, names, workload="", policy="", seed=0)
            certified = [name for name, threshold in made.thresholds.items() if threshold is not None]
            bad = sum(name.startswith("bad") for name in certified)
            any_bad += bad > 0
            shares.append(bad / max(1, len(certified)))
            good += len(certified) - bad
        power = f"; {good / draws / 8:.0%} of the good ones certified"
        if control == "bonferroni":
            found.append(held("16 segments, family-wise: any false certificate", any_bad, draws, power))
        else:
            top = DELTA + 3 * float(np.std(shares)) / np.sqrt(draws)
            text = f"{np.mean(shares):.1%}{power}; any false one {any_bad / draws:.0%}"
            found.append(
                ("16 segments, e-BH: share of false certificates", f"<= {top:.1%}", text, np.mean(shares) <= top)
            )
    return found


def judges(rng: np.random.Generator) -> list[Row]:
    """A student just above the bound with a judge that is too kind; and what a good judge saves."""
    found, draws, bound = [], max(50, DRAWS // 4), 0.1

    def rows(rate: float, wrong: float, missed: float, n: int, verified: int) -> list[JudgedRow]:
        truth = rng.random(n) < rate
        judged = np.where(truth, rng.random(n) >= missed, rng.random(n) < wrong)
        seen = set(rng.permutation(n)[:verified].tolist())
        return [JudgedRow(str(i), float(judged[i]), float(truth[i]) if i in seen else None) for i in range(n)]

    for name, wrong, missed in (
        ("misses 80 % of errors", 0.0, 0.8),
        ("errs in 10 %", 0.1, 0.1),
        ("is right", 0.0, 0.0),
    ):
        certified = alone = asymptotic = 0
        for _ in range(draws):
            drawn = rows(bound + 2e-3, wrong, missed, 4_000, 300)
            made = certify_judged(drawn, max_loss=bound, confidence=1 - DELTA)
            certified += made.certified
            assert made.asymptotic is not None
            asymptotic += made.asymptotic.high <= bound
            alone += float(np.mean([r.judged for r in drawn])) <= bound
        beside = f"; the judge alone {alone / draws:.0%}, PPI++ {asymptotic / draws:.1%}"
        found.append(held(f"judge {name}: student above the bound certified", certified, draws, beside))
    for rate, wrong in ((0.3, 0.01), (0.3, 0.1), (0.05, 0.01)):
        upper, direct, asymptotic, weight = [], [], [], []
        for _ in range(20):
            drawn = rows(rate, wrong, wrong, 20_000, 600)
            made = certify_judged(drawn, max_loss=0.5, confidence=1 - DELTA)
            seen = [r.verified for r in drawn if r.verified is not None]
            upper.append(made.upper)
            weight.append(made.weight)
            direct.append(rate_upper(int(sum(seen)), len(seen), DELTA))
            assert made.asymptotic is not None
            asymptotic.append(made.asymptotic.high)
        name = f"upper limit, loss {rate:.0%}, judge errs in {wrong:.0%}, 600 of 20,000 verified"
        text = (
            f"{np.mean(upper):.2%} (weight {np.mean(weight):.2f}); verified rows alone {np.mean(direct):.2%}; "
            f"PPI++, two-sided and asymptotic, {np.mean(asymptotic):.2%}"
        )
        found.append((name, "", text, None))
    return found


def planner(rng: np.random.Generator) -> list[Row]:
    """The chance that the planner promises beside the share of draws that are certified."""
    found = []
    for expected, chance in ((0.01, 0.5), (0.01, 0.8), (0.01, 0.95), (0.015, 0.8)):
        rows = rows_for_chance(chance, expected, 0.02, DELTA)
        assert rows is not None
        had = np.mean([rate_upper(int(k), rows, DELTA) <= 0.02 for k in rng.binomial(rows, expected, 2_000)])
        text = f"{had:.1%} with {rows:,} rows (an average draw needs {rows_needed(expected, 0.02, DELTA):,})"
        exact = chance_of_certificate(rows, expected, 0.02, DELTA)
        fits = bool(exact >= chance and abs(had - exact) <= 0.035)
        found.append((f"plan: bound 2 %, {expected:.1%} expected", f">= {chance:.0%}, exactly {exact:.1%}", text, fits))
    return found


def main() -> None:
    table = list[Row]()
    for number, part in enumerate((field_f1, users, segments, judges, planner)):
        table += part(np.random.default_rng(number + 70))
    notes = (
        f"{DRAWS} draws (segments half, judges a quarter of it), confidence 95 %. Shares that should be at most 5 % "
        "may show sampling error, which the target includes. The finite-sample limit with a judge pays only where it "
        "is nearly always right and the loss is not small; PPI++ is narrower, asymptotic, and certifies nothing."
    )
    write_result("certificates", "python benchmarks/certificates.py", table, notes)


if __name__ == "__main__":
    main()
