"""The money of a pilot: what the frontier costs now, what the policy will cost, when training has paid for itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tiercel.providers.prices import TABLE_DATE, PriceTable, cost_usd
from tiercel.providers.tokens import estimate_usage
from tiercel.report.result import CostSummary
from tiercel.types import Example

__all__ = ["CPU_USD_PER_HOUR", "cost_of_policy", "requests_per_year"]

CPU_USD_PER_HOUR = 0.05
"""Of one core: the order of what clouds ask on demand for a general-purpose one."""
YEAR_S = 365 * 86_400


def requests_per_year(examples: Sequence[Example], repeats: int) -> float | None:
    """Requests a year at the log's own pace; None when the log spans less than an hour or has no times.

    Args:
        examples: of the workload.
        repeats: further requests of it, which were dropped because they repeat one of these.
    """
    times = np.array([e.created for e in examples if e.created is not None])
    if times.size < 2 or times.size < 0.5 * len(examples):
        return None
    span = float(np.quantile(times, 0.999) - np.quantile(times, 0.001))
    return (len(examples) + repeats) / span * YEAR_S if span >= 3_600 else None


def cost_of_policy(
    examples: Sequence[Example],
    *,
    frontier: str | None,
    prices: PriceTable,
    offload: float,
    student_usd_per_1k: float,
    training_seconds: float,
    cores: int,
    yearly: float | None,
) -> CostSummary:
    """Costs before and after.

    Args:
        examples: of the workload; their usage is what is priced, estimated where the log has none.
        frontier: model to price where a row names none.
        prices: of models.
        offload: share of requests that the student answers.
        student_usd_per_1k: cost of asking the student a thousand times; every request is asked.
        training_seconds: of all rungs.
        cores: that trained.
        yearly: requests a year, or None.
    """
    training = training_seconds / 3600 * CPU_USD_PER_HOUR * cores
    costs, unknown = list[float](), set[str]()
    estimated = 0
    for example in examples[:20_000]:
        model = frontier or example.model
        price = prices.find(model)
        if price is None:
            unknown.add(model or "")
            continue
        usage = example.usage
        if usage is None or not (usage.input_tokens or usage.output_tokens):
            usage = estimate_usage(example.messages, example.answer, example.tools)
            estimated += 1
        costs.append(cost_usd(usage, price))
    if not costs:
        named = sorted(m for m in unknown if m)
        why = f"no price is known for {', '.join(named)}: add it with --prices FILE" if named else ""
        return CostSummary(
            frontier_usd_per_1k=None,
            policy_usd_per_1k=None,
            saved_fraction=None,
            saved_usd_per_year=None,
            break_even_days=None,
            requests_per_year=yearly,
            training_usd=training,
            tokens_estimated=False,
            price_note=why or "the log does not name the frontier's model: give it with --frontier MODEL",
        )
    before = float(np.mean(costs)) * 1000
    after = (1 - offload) * before + student_usd_per_1k
    saved = before - after
    per_year = saved / 1000 * yearly if yearly is not None else None
    return CostSummary(
        frontier_usd_per_1k=before,
        policy_usd_per_1k=after,
        saved_fraction=saved / before if before else None,
        saved_usd_per_year=per_year,
        break_even_days=training / (per_year / 365) if per_year is not None and per_year > 0 else None,
        requests_per_year=yearly,
        training_usd=training,
        tokens_estimated=estimated > 0,
        price_note=f"list prices of {TABLE_DATE}"
        + (f"; {len(unknown)} models without a price left out" if unknown else ""),
    )
