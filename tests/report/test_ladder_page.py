"""The page of a ladder: every state renders, figures are the result's, texts are escaped, nothing is loaded."""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from tiercel.report.ladder_page import render_ladder_page
from tiercel.report.ladder_result import (
    LadderOperating,
    LadderResult,
    ShorterLadder,
    TierSummary,
    verdict_of_ladder,
)
from tiercel.report.routing_result import GateSummary
from tiercel.routing.curves import Costs, router_figures
from tiercel.routing.ladder import LadderStep
from tiercel.stats.intervals import Interval


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.02, high=value + 0.02)


def result(**changes: Any) -> LadderResult:
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(200) < 0.6).astype(float), (rng.random(200) < 0.9).astype(float)
    shares = {"tiny-1b": (1.0, 0.61, 0.431, 1.0), "mid-3b": (4.0, 0.8, 0.312, 0.569), "huge-9": (20.0, 0.9, 0.2, 0.2)}
    values: dict[str, Any] = {
        "kind": "fit",
        "tiers": [
            TierSummary(model=m, cost=c, quality=interval(q), answers=a, asked=n) for m, (c, q, a, n) in shares.items()
        ],
        "costs_from": "log",
        "gating": "post",
        "gates": [GateSummary(stage="tier1", signals=("length", "arithmetic"), combined_by="trees")],
        "training_rows": 420,
        "judged_rows": 280,
        "left_out": 3,
        "max_loss": 0.03,
        "confidence": 0.95,
        "statement": "Over requests like these it costs at most 0.03.",
        "step": LadderStep(thresholds=(0.12, 2.0), abstain=0.4),
        "abstention_loss": 0.4,
        "operating": LadderOperating(
            unanswered=0.057,
            quality=interval(0.882),
            answered_quality=0.931,
            excess_loss=interval(0.018),
            cost=7.2,
            last_cost=20.0,
        ),
        "routers": [
            router_figures(m, rng.random(200), weak, strong, Costs(weak=1.0, strong=20.0), resamples=20)
            for m in ("tiny-1b", "mid-3b")
        ],
        "cost_curve": [(25.0, 0.9), (7.2, 0.882), (1.0, 0.61)],
        "shorter": [
            ShorterLadder(models=("tiny-1b", "huge-9"), cost=9.0, quality=0.88, certified=True),
            ShorterLadder(models=("mid-3b", "huge-9"), cost=20.0, quality=0.9, certified=False),
        ],
        "cautions": [],
    }
    return LadderResult(**{**values, **changes})


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_page_says_what_the_result_says() -> None:
    found = result()
    page = render_ladder_page(found)
    text = text_of(page)
    assert verdict_of_ladder(found) in text
    assert "64 % less" in text and "74 %" in text and "✓ certified" in text
    assert "nobody answers 5.7 %" in text and "93.1 % of what is answered" in text
    assert re.search(r"tiny- ?1b 5\.0 % 61\.0 % .* 100\.0 % 43\.1 % 0\.120", text)
    assert re.search(r"mid- ?3b 20\.0 % 80\.0 % .* 56\.9 % 31\.2 % 1\.000", text)
    assert "tiny-1b, huge-9 45.0 % 88.0 %" in text and "mid-3b, huge-9 100.0 % 90.0 % (not certified)" in text
    assert render_ladder_page(found) == page


def test_the_picture_is_well_formed_even_where_the_whole_ladder_costs_more_than_its_last_tier() -> None:
    page = render_ladder_page(result())
    picture = re.search(r"<svg[^>]*class=\"chart\".*?</svg>", page, re.DOTALL)
    assert picture is not None
    titles = [t.text for t in ElementTree.fromstring(picture[0]).iter() if t.tag.endswith("title")]
    assert {"the ladder", "models mixed at random"} <= set(titles)
    for coordinate in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", picture[0]):
        assert -1 <= float(coordinate[0]) <= 700 and -1 <= float(coordinate[1]) <= 400


@pytest.mark.parametrize("gating", ["pre", "post"])
def test_every_state_renders(gating: str) -> None:
    tiers = [msgspec.structs.replace(t, answers=None, asked=None) for t in result().tiers]
    nothing = result(operating=None, step=None, tiers=tiers, gating=gating, cautions=["Too few rows."])
    text = text_of(render_ladder_page(nothing))
    assert "✕ not certified" in text and "No part of this traffic can be certified" in text and "Too few rows." in text
    assert "The costs are assumed" in text_of(render_ladder_page(result(costs_from="assumed", kind="evaluate")))
    plain = text_of(render_ladder_page(result(abstention_loss=None, shorter=[], gating=gating)))
    assert "obody" not in plain and ("goes to its tier at once" in plain) == (gating == "pre")


def test_the_verdict_of_a_ladder_that_costs_more_says_so() -> None:
    dear = msgspec.structs.replace(result().operating, cost=22.4)
    assert verdict_of_ladder(result(operating=dear)) == (
        "tiny-1b answers 43 % of the requests, mid-3b 31 %, huge-9 20 %, nobody 6 %; that costs 12 % more than huge-9 "
        "alone and loses at most 3 % of quality, with 95 % confidence."
    )


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    tiers = [msgspec.structs.replace(t, model="<script>alert(1)</script>") for t in result().tiers]
    page = render_ladder_page(result(tiers=tiers))
    assert "<script" not in page and "&lt;" in page
    assert not re.findall(r"(?:src|href)=|url\(|@import", page)
