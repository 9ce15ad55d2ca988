"""The report of a ladder of several models as one HTML page that needs nothing but itself."""

from __future__ import annotations

from markupsafe import Markup

from tiercel.report.charts import quality_chart
from tiercel.report.ladder_result import LadderResult, verdict_of_ladder
from tiercel.report.templates import load_template

__all__ = ["render_ladder_page"]


def render_ladder_page(result: LadderResult) -> str:
    """The page of a ladder; equal results give equal pages."""
    at = result.operating
    return load_template("ladder_page.html.j2").render(
        r=result,
        verdict=verdict_of_ladder(result),
        last=result.tiers[-1],
        below=sum(t.answers or 0.0 for t in result.tiers[:-1]),
        unanswered=at.unanswered if at is not None else 0.0,
        chart=_chart(result),
    )


def _chart(result: LadderResult) -> Markup:
    last = result.tiers[-1].cost
    at = result.operating
    return quality_chart(
        {
            "the ladder": ("policy", [(cost / last, quality) for cost, quality in result.cost_curve]),
            "models mixed at random": ("random", [(t.cost / last, t.quality.value) for t in result.tiers]),
        },
        below="cost as a share of the last tier's",
        label="Quality of the ladder against its cost",
        point=(at.cost / last, at.quality) if at is not None else None,
    )
