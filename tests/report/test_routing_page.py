"""The page of a routing policy: every state renders, figures are the result's, texts are escaped, nothing is loaded."""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from tiercel.report.routing_page import render_route_page
from tiercel.report.routing_result import GateSummary, Operating, RoutedPair, RouteResult, verdict_of_route
from tiercel.routing.curves import Costs, router_figures
from tiercel.routing.path import Step
from tiercel.stats.intervals import Interval

COSTS = Costs(weak=1.0, strong=10.0)
NAMES = ("random", "length", "request gate", "answer gate", "oracle")


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.02, high=value + 0.02)


def result(**changes: Any) -> RouteResult:
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(200) < 0.6).astype(float), (rng.random(200) < 0.9).astype(float)
    values: dict[str, Any] = {
        "kind": "fit",
        "pair": RoutedPair(
            weak_model="tiny-1b",
            strong_model="huge-9",
            rows=700,
            weak_quality=interval(0.61),
            strong_quality=interval(0.9),
            better=0.34,
            worse=0.05,
            costs=COSTS,
            costs_from="log",
            left_out=3,
        ),
        "gating": "both",
        "gates": [GateSummary(stage="pre", signals=("length", "structure"), combined_by="trees")],
        "training_rows": 420,
        "judged_rows": 280,
        "max_loss": 0.03,
        "confidence": 0.95,
        "statement": "Over requests like these it costs at most 0.03.",
        "step": Step(low=0.1, high=0.6, post=0.2),
        "operating": Operating(
            weak_share=0.437,
            escalated_share=0.312,
            direct_share=0.251,
            quality=interval(0.882),
            excess_loss=interval(0.018),
            cost=6.4,
            strong_cost=10.0,
        ),
        "routers": [router_figures(n, rng.random(200), weak, strong, COSTS, resamples=20) for n in NAMES],
        "curves": {n: [(0.0, 0.61), (0.4, 0.8), (1.0, 0.9)] for n in NAMES},
        "cost_curve": [(10.0, 0.9), (6.4, 0.882), (1.0, 0.61)],
        "cautions": [],
    }
    return RouteResult(**{**values, **changes})


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_page_says_what_the_result_says() -> None:
    found = result()
    page = render_route_page(found)
    text = text_of(page)
    assert verdict_of_route(found) in text
    assert "36 % less" in text and "44 %" in text and "✓ certified" in text
    assert "43.7 % of the requests are answered by tiny-1b, 25.1 % go to huge-9 at once" in text
    assert "up to 0.100 on the request's gate the weak model answers; from 0.600" in text
    for figures in found.routers:
        assert f"{figures.name} {figures.apgr.value:.3f}" in text
    assert render_route_page(found) == page


def test_pictures_are_well_formed_and_hold_a_line_for_each_router() -> None:
    page = render_route_page(result())
    pictures = [ElementTree.fromstring(p) for p in re.findall(r"<svg[^>]*class=\"chart\".*?</svg>", page, re.DOTALL)]
    assert len(pictures) == 2
    titles = [[t.text for t in p.iter() if t.tag.endswith("title")] for p in pictures]
    assert set(NAMES) <= set(titles[0])
    assert "the policy" in titles[1] and any("test: 88.20 %" in (t or "") for t in titles[1])
    for coordinate in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", page):
        assert -1 <= float(coordinate[0]) <= 700 and -1 <= float(coordinate[1]) <= 400


@pytest.mark.parametrize("gating", ["pre", "post", "both"])
def test_every_state_renders(gating: str) -> None:
    nothing = result(operating=None, step=None, gating=gating, cautions=["Too few rows."])
    text = text_of(render_route_page(nothing))
    assert "✕ not certified" in text and "No part of this traffic can be certified" in text and "Too few rows." in text
    assert render_route_page(result(gating=gating))
    pair = msgspec.structs.replace(result().pair, costs_from="assumed")
    assert "The costs are assumed" in text_of(render_route_page(result(pair=pair, kind="evaluate")))


def test_asking_twice_can_cost_more_and_the_page_says_so() -> None:
    dear = msgspec.structs.replace(result().operating, cost=11.2)
    assert "12 % more" in text_of(render_route_page(result(operating=dear)))


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    pair = msgspec.structs.replace(result().pair, weak_model="<script>alert(1)</script>")
    page = render_route_page(result(pair=pair))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)=|url\(|@import", page)
