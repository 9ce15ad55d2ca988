"""The pages' templates, and how pages write numbers; what is not known is a dash."""

from __future__ import annotations

import math
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from tiercel.report.verdict import exact_percent, percent, usd

__all__ = ["exact", "load_template"]

UNKNOWN = "—"


def load_template(name: str) -> Template:
    """A template of this folder, with all filters."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tiercel", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "bytes": _bytes,
        "exact": exact,
        "milliseconds": _milliseconds,
        "number": _number,
        "pvalue": _pvalue,
        "ratio": _ratio,
        "saving": _saving,
        "share": _share,
        "span": _span,
        "tied": _tied,
        "usd": _usd,
    }
    return environment


def exact(value: float, fewest: int = 0) -> str:
    """A share that was set, such as a bound, with as many digits as it takes not to round it."""
    return _tied(exact_percent(value, fewest))


def _tied(text: str) -> str:
    """Keep a number and its per cent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _share(value: float | None, digits: int = 1) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else _tied(percent(value, digits))


def _number(value: float | None) -> str:
    """A count, with commas."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else UNKNOWN


def _saving(value: float) -> str:
    return _tied(f"{percent(abs(value), 0)} {'less' if value >= 0 else 'more'}")


def _breakable(label: str) -> Markup:
    """Let a long label break after its separators."""
    return Markup("<wbr>").join(part for part in re.split(r"(?<=[_./:-])", label) if part)


def _usd(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return usd(value)


def _pvalue(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _milliseconds(value: float) -> str:
    return f"{value:.2g} ms" if value < 9.95 else f"{value:,.0f} ms"


def _bytes(value: int) -> str:
    """A size in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 999.5 * size else f"{value / size:,.0f} {unit}"
    return f"{value} B"


def _span(seconds: float) -> str:
    """A time in the unit that people would use for it."""
    for unit, size in (("years", 365 * 86_400), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
