"""Charts of the report as inline SVG: pure functions from numbers to markup.

Colours, fonts and line widths are classes that the page's style sheet fills in, so that one chart serves light, dark
and print. Lines differ by dash and points by shape, not by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from tiercel.report.verdict import percent
from tiercel.stats.intervals import Interval, rate_interval

__all__ = ["CURVE_LIMIT", "curve_chart", "money_chart", "quality_chart", "reliability_chart"]

CURVE_LIMIT = 5.0
"""Bounds above zero that the curve's picture shows at the most, so that the certified point does not drown."""

Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The area of a chart in drawing units, and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        """Drawing unit of a value on the horizontal axis."""
        return self.left + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)

    def up(self, value: float) -> float:
        """Drawing unit of a value on the vertical axis."""
        return self.bottom - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top)

    def path(self, points: Pairs) -> str:
        """A line through points given as pairs of values."""
        return "M" + "L".join(f"{self.across(x):.1f},{self.up(y):.1f}" for x, y in points)


def curve_chart(
    curves: Mapping[str, Pairs],
    *,
    bound: float,
    certified: tuple[float, float] | None,
    tested: Mapping[str, Any] | None,
) -> Markup:
    """Excess loss as more of the traffic moves.

    Args:
        curves: pairs of offload and excess loss, by name ("test", "calibration").
        bound: the bound on the excess loss, drawn across.
        certified: offload and excess loss of the certified point; None when nothing is certified.
        tested: `offload` of the test rows and the interval of their excess loss (`value`, `low`, `high`), or None.
    """
    losses = [y for pairs in curves.values() for _, y in pairs if math.isfinite(y)]
    top = min(max([*losses, 1.3 * bound]), CURVE_LIMIT * bound)
    frame = _Frame(
        left=78, top=16, right=612, bottom=304, x=(0.0, 1.0), y=(min([*losses, 0.0]), top if top > 0 else bound)
    )
    svg = _svg(640, 368, f"Excess loss against share of traffic moved; the bound is {percent(bound)}")
    _axes(svg, frame, "share of requests that the student answers", "excess loss")
    clip = _add(_add(svg, "defs"), "clipPath", id="curve-area")
    _add(clip, "rect", x=frame.left, y=frame.top, width=frame.right - frame.left, height=frame.bottom - frame.top)
    for name, pairs in curves.items():
        shown = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
        if shown:
            line = {"class": f"line {name}", "clip-path": "url(#curve-area)"}
            _titled(_add(svg, "path", d=frame.path(shown), **line), f"{name} rows")
    limit = _add(svg, "path", d=frame.path([(0, bound), (1, bound)]), **{"class": "line bound"})
    _titled(limit, f"bound: {percent(bound)}")
    if tested is not None:
        _whisker(svg, frame, float(tested["offload"]), Interval(**{k: tested[k] for k in ("value", "low", "high")}))
    if certified is not None:
        _certified(svg, frame, *certified)
    return _markup(svg)


def quality_chart(
    curves: Mapping[str, tuple[str, Pairs]],
    *,
    below: str,
    label: str,
    point: tuple[float, Interval] | None = None,
) -> Markup:
    """Quality against what it takes, one line a router.

    Args:
        curves: style class and pairs of share (of calls, or of the dearest cost) and quality, by name.
        below: name of the horizontal axis.
        label: what the picture shows, for those who can't see it.
        point: share and quality of a policy, drawn as a square with its interval; None without one.
    """
    pairs = [pair for _, line in curves.values() for pair in line]
    heights = [y for _, y in pairs] + ([point[1].low, point[1].high] if point else [])
    low, high = min(heights), max(heights)
    margin = 0.06 * (high - low) or 0.01
    right = max([1.0, *(x for x, _ in pairs)])
    frame = _Frame(left=78, top=16, right=612, bottom=304, x=(0.0, right), y=(low - margin, min(1.0, high + margin)))
    svg = _svg(640, 368, label)
    _axes(svg, frame, below, "quality")
    for name, (style, line) in curves.items():
        _titled(_add(svg, "path", d=frame.path(line), **{"class": f"line {style}"}), name)
    if point is not None:
        _whisker(svg, frame, *point)
    return _markup(svg)


def reliability_chart(bins: Sequence[Mapping[str, Any]], *, threshold: float | None) -> Markup:
    """How often answers of similar scores are right, against what the score promises.

    Args:
        bins: `confidence`, `accuracy` and `rows` of each group of rows.
        threshold: score from which on answers are used; None when none are.
    """
    lows = [min(float(b["confidence"]), float(b["accuracy"])) for b in bins]
    low = max(0.0, math.floor(min([*lows, 0.9]) * 10 - 0.5) / 10)
    frame = _Frame(left=78, top=16, right=452, bottom=390, x=(low, 1.0), y=(low, 1.0))
    svg = _svg(480, 454, "Share of answers that were right against the score of the gate, in groups of rows")
    _axes(svg, frame, "score of the gate", "answers that were right")
    _add(svg, "path", d=frame.path([(low, low), (1, 1)]), **{"class": "line ideal"})
    if threshold is not None and low <= threshold <= 1:
        line = _add(svg, "path", d=frame.path([(threshold, low), (threshold, 1)]), **{"class": "line bound"})
        _titled(line, f"threshold {threshold:.3f}: answers to the right of it are used")
    for group in bins:
        _reliability_point(svg, frame, float(group["confidence"]), float(group["accuracy"]), int(group["rows"]))
    return _markup(svg)


def money_chart(today: float, escalated: float, own: float) -> Markup:
    """What the same requests cost today and under the policy, as two bars.

    Args:
        today: cost of the frontier for all requests.
        escalated: cost of the frontier for what is escalated, in the same unit.
        own: cost of the machines that run the student, in the same unit.
    """
    svg = _svg(640, 160, "Cost of the same requests today and with the policy")
    most, wide = max(today, escalated + own) or 1.0, 636.0
    _add(svg, "text", "today", x=0, y=20)
    _bar(svg, 2, 30, today / most * wide, "frontier", "the frontier, today")
    _add(svg, "text", "with the policy", x=0, y=104)
    _bar(svg, 2, 114, escalated / most * wide, "frontier", "the frontier, for what is escalated")
    begin = 2 + escalated / most * wide
    mine = max(own / most * wide, 3.0) if own else 0.0
    _bar(svg, min(begin, 638 - mine), 114, mine, "own", "own machines")
    if today > escalated + own:
        _bar(svg, begin + mine, 114, max(0.0, 638 - begin - mine), "saved", "saved")
    return _markup(svg)


def _svg(width: int, height: int, label: str) -> ElementTree.Element:
    attributes = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label, "class": "chart"}
    return _titled(ElementTree.Element("svg", attributes), label)


def _add(parent: ElementTree.Element, tag: str, text: str = "", **attributes: str | float) -> ElementTree.Element:
    shown = {k: v if isinstance(v, str) else f"{v:.5g}" for k, v in attributes.items()}
    element = ElementTree.SubElement(parent, tag, shown)
    element.text = text or None
    return element


def _titled(element: ElementTree.Element, title: str) -> ElementTree.Element:
    """Name an element for pointers and screen readers."""
    ElementTree.SubElement(element, "title").text = title
    return element


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from `low` to `high`, `most` at the most, in steps of 1, 2 or 5."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * s for s in (1, 2, 5, 10, 20) if (high - low) / (power * s) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _axes(svg: ElementTree.Element, frame: _Frame, below: str, beside: str) -> None:
    """Grid, tick labels and names of both axes; the values are shares."""
    for value in _ticks(*frame.y):
        height = frame.up(value)
        _add(svg, "path", d=frame.path([(frame.x[0], value), (frame.x[1], value)]), **{"class": "grid"})
        _add(svg, "text", _share(value, frame.y), x=frame.left - 10, y=height + 5, **{"class": "tick right"})
    for value in _ticks(*frame.x):
        place = frame.across(value)
        _add(svg, "text", _share(value, frame.x), x=place, y=frame.bottom + 24, **{"class": "tick middle"})
    base = max(0.0, frame.y[0])
    _add(svg, "path", d=frame.path([(frame.x[0], base), (frame.x[1], base)]), **{"class": "axis"})
    middle, centre = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
    _add(svg, "text", below, x=middle, y=frame.bottom + 54, **{"class": "name middle"})
    turned = f"translate(16 {centre:.1f}) rotate(-90)"
    _add(svg, "text", beside, transform=turned, **{"class": "name middle"})


def _share(value: float, around: tuple[float, float]) -> str:
    span = around[1] - around[0]
    return percent(value, 0 if span > 0.04 else 1 if span > 0.004 else 2)


def _whisker(svg: ElementTree.Element, frame: _Frame, x: float, interval: Interval) -> None:
    """A square with its interval, kept within the picture."""
    values = (interval.value, interval.low, interval.high)
    if not all(map(math.isfinite, values)):
        return
    group = _titled(_add(svg, "g", **{"class": "tested"}), f"test: {percent(interval.value, 2)} at {percent(x)}")
    low, high = (min(max(v, frame.y[0]), frame.y[1]) for v in values[1:])
    _add(group, "path", d=frame.path([(x, low), (x, high)]), **{"class": "whisker"})
    for end in (low, high):
        across = frame.across(x)
        _add(group, "path", d=f"M{across - 5:.1f},{frame.up(end):.1f}h10", **{"class": "whisker"})
    if frame.y[0] <= interval.value <= frame.y[1]:
        _add(group, "rect", x=frame.across(x) - 5, y=frame.up(interval.value) - 5, width=10, height=10)


def _certified(svg: ElementTree.Element, frame: _Frame, x: float, y: float) -> None:
    """A diamond at the certified point, with a line down to the share that it moves."""
    across, up = frame.across(x), frame.up(min(max(y, frame.y[0]), frame.y[1]))
    group = _titled(_add(svg, "g", **{"class": "certified"}), f"certified: {percent(x)} moves, {percent(y, 2)} is lost")
    _add(group, "path", d=f"M{across:.1f},{up:.1f}V{frame.bottom:.1f}", **{"class": "drop"})
    _add(group, "path", d=f"M{across:.1f},{up - 10:.1f}l10,10l-10,10l-10,-10z", **{"class": "diamond"})


def _reliability_point(svg: ElementTree.Element, frame: _Frame, score: float, share: float, rows: int) -> None:
    """A dot for a group of rows, with the 95 % interval of its share."""
    if not (math.isfinite(score) and math.isfinite(share)):
        return
    sure = rate_interval(round(share * rows), rows)
    title = f"score {score:.2f}: {percent(share)} of {rows:,} rows were right"
    group = _titled(_add(svg, "g", **{"class": "group"}), title)
    ends: Iterable[float] = (max(sure.low, frame.y[0]), min(sure.high, frame.y[1]))
    _add(group, "path", d=frame.path([(score, end) for end in ends]), **{"class": "whisker"})
    _add(group, "circle", cx=frame.across(score), cy=frame.up(share), r=5)


def _bar(svg: ElementTree.Element, x: float, y: float, width: float, kind: str, title: str) -> None:
    if width > 0:
        _titled(_add(svg, "rect", x=x, y=y, width=width, height=34, **{"class": kind}), title)
