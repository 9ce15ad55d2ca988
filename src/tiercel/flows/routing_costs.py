"""What a call to each model of a recording costs: as given, as logged, by list price, or by a guess that is said."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from tiercel.errors import ConfigurationError
from tiercel.flows.progress import Progress
from tiercel.providers.prices import PriceTable, cost_usd
from tiercel.providers.tokens import estimate_usage
from tiercel.types import Answer, Example, Response

__all__ = ["Row", "answer_text", "tier_costs"]

Row = tuple[Example, list[Response]]
"""A request and the scored answers of m models."""

ASSUMED_RATIO = 20.0
"""Cost of the dearest model over that of the cheapest where neither log nor price table tells."""
_SAMPLE = 500


def tier_costs(
    rows: Sequence[Row], models: Sequence[str], given: Sequence[float] | None, prices: PriceTable, progress: Progress
) -> tuple[tuple[float, ...], str]:
    """Mean cost of a call to each of m models, and where it is from: options, log, prices or assumed.

    Args:
        rows: requests with the answers of all models.
        models: m names, cheapest first.
        given: by the user, m; None to look for them.
        prices: for what the log does not say.
        progress: is warned where the costs are a guess.

    Raises:
        ConfigurationError: so many costs are not given, or a model costs no more than the one before it.
    """
    if given is not None and len(given) != len(models):
        raise ConfigurationError(f"{len(given)} costs are given for {len(models)} models; give one for each")
    if given is not None and not all(0 <= cost < float("inf") for cost in given):
        raise ConfigurationError(f"costs are {', '.join(f'{cost:g}' for cost in given)}; give numbers of 0 or more")
    costs, source = (tuple(given), "options") if given is not None else _found(rows, models, prices)
    if source == "assumed":
        option = "--weak-cost and --strong-cost" if len(models) == 2 else "--tier-costs"
        progress.warn(
            f"costs are not known: a call to {models[-1]} is taken to cost {ASSUMED_RATIO:g} times one to {models[0]}; "
            f"give {option}"
        )
    for (cheap, less), (dear, more) in pairwise(zip(models, costs, strict=True)):
        if more <= less:
            raise ConfigurationError(
                f"{dear} costs {more:.4g} a call and {cheap} {less:.4g}: each model must cost more than the one before "
                "it; name them in the order of their costs, or give the costs"
            )
    return costs, source


def answer_text(response: Response) -> str | None:
    """Text of an answer, or its tool calls as JSON."""
    if response.content is None and response.tool_calls:
        return msgspec.json.encode(response.tool_calls).decode()
    return response.content


def _found(rows: Sequence[Row], models: Sequence[str], prices: PriceTable) -> tuple[tuple[float, ...], str]:
    for source, look in (("log", _logged), ("prices", lambda each: _listed(each, prices))):
        found = [look([(e, answers[m]) for e, answers in rows]) for m in range(len(models))]
        known = tuple(cost for cost in found if cost is not None)
        if len(known) == len(models):
            return known, source
    steps = np.linspace(0, 1, len(models))
    return tuple(float(ASSUMED_RATIO**s) for s in steps), "assumed"


def _logged(answers: Sequence[tuple[Example, Response]]) -> float | None:
    costs = [r.cost_usd for _, r in answers if r.cost_usd is not None]
    return float(np.mean(costs)) if len(costs) >= 0.5 * len(answers) else None


def _listed(answers: Sequence[tuple[Example, Response]], prices: PriceTable) -> float | None:
    price = prices.find(answers[0][1].model)
    if price is None:
        return None
    sample = answers[:: max(1, len(answers) // _SAMPLE)]
    usages = [estimate_usage(e.messages, Answer(content=answer_text(r)), e.tools) for e, r in sample]
    return float(np.mean([cost_usd(u, price) for u in usages]))
