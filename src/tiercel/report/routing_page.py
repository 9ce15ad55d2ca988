"""The report of a routing policy as one HTML page that needs nothing but itself."""

from __future__ import annotations

from markupsafe import Markup

from tiercel.report.charts import quality_chart
from tiercel.report.routing_result import RouteResult, verdict_of_route
from tiercel.report.templates import load_template
from tiercel.routing.path import Step

__all__ = ["render_route_page"]

_STYLES = {
    "request gate": "request",
    "answer gate": "answer",
    "random": "random",
    "length": "length",
    "kNN": "knn",
    "TF-IDF": "words",
    "oracle": "oracle",
}


def render_route_page(result: RouteResult) -> str:
    """The page of a policy; equal results give equal pages."""
    shown = [(name, _STYLES[name]) for name in _STYLES if name in result.curves]
    return load_template("routing_page.html.j2").render(
        r=result,
        verdict=verdict_of_route(result),
        share_lines=shown,
        share_chart=quality_chart(
            {name: (style, result.curves[name]) for name, style in shown},
            below="share of requests at the strong model",
            label="Quality of routers against share of calls to the strong model",
        ),
        cost_chart=_cost_chart(result),
        step_text=_step_text(result.step, result.gating) if result.step else "",
    )


def _cost_chart(result: RouteResult) -> Markup:
    strong = result.pair.costs.strong
    path = [(cost / strong, quality) for cost, quality in result.cost_curve]
    ends = [path[0], path[-1]]
    at = result.operating
    return quality_chart(
        {"the policy": ("policy", path), "mixed at random": ("random", ends)},
        below="cost as a share of the strong model's",
        label="Quality of the policy against its cost",
        point=(at.cost / strong, at.quality) if at is not None else None,
    )


def _step_text(step: Step, gating: str) -> str:
    low, high = max(step.low, 0.0), min(step.high, 1.0)
    if gating == "pre":
        return f"the weak model answers up to {low:.3f}, the strong one above"
    after = f"the weak answer is used up to {max(min(step.post, 1.0), 0.0):.3f} on the answer's gate"
    if gating == "post":
        return after
    return (
        f"up to {low:.3f} on the request's gate the weak model answers; from {high:.3f} the strong one is asked at "
        f"once; between, {after}"
    )
