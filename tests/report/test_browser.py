"""The report in a real browser: on a phone's width and a desk's, light and dark."""

from __future__ import annotations

import re
import struct

import pytest
from tests.report.chromium import PROGRAM, Opened, Scheme, open_pages
from tests.report.test_page import EXAMPLE, built, details, skipped, student

from tiercel.report.page import render_page
from tiercel.tasks.metrics import Confusion, LabelMetrics

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

SCHEMES = [Scheme(width=width, colours=colours) for width in (360, 1280) for colours in ("light", "dark")]
LONG = "a_label_that_goes_on_and_on_without_a_blank_" * 4


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[Scheme, Opened]:
    """A crowded report, with words that no line holds, opened in every scheme."""
    folder = tmp_path_factory.mktemp("browser")
    crowded = details(
        labels=[LabelMetrics(label=f"{LONG}{i}", precision=0.9, recall=0.5, f1=0.64, rows=12) for i in range(40)],
        confusions=[Confusion(actual=LONG, predicted=f"{LONG}b", rows=97)],
        accepted_wrongly=[EXAMPLE | {"text": "x" * 400, "student": LONG, "frontier": LONG * 2, "id": LONG}],
    )
    students = (student(), skipped(), student(name="encoder-tuned", precision="int8 + int8", parity=0.9961, note=LONG))
    page = folder / "report.html"
    page.write_text(render_page(built(details=crowded, students=students, warnings=(LONG,))), encoding="utf-8")
    return dict(zip(SCHEMES, open_pages(page, SCHEMES, folder / "profile"), strict=True))


def luminance(colour: str) -> float:
    """Of a CSS colour, from 0 (black) to 1 (white)."""
    red, green, blue = (float(x) for x in re.findall(r"[\d.]+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.width}-{s.colours}")
def test_nothing_runs_out_of_the_window(opened: dict[Scheme, Opened], scheme: Scheme) -> None:
    measured = opened[scheme].measured
    assert measured["title"].strip()
    assert measured["inner"] == scheme.width
    assert measured["wide"] <= scheme.width
    assert struct.unpack(">I", opened[scheme].picture[16:20]) == (scheme.width,), "the picture is as wide as the window"


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.width}-{s.colours}")
def test_the_page_complains_of_nothing_and_asks_for_nothing_else(opened: dict[Scheme, Opened], scheme: Scheme) -> None:
    assert opened[scheme].complaints == []
    assert [url.rpartition("/")[2] for url in opened[scheme].requests] == ["report.html"]


@pytest.mark.parametrize("width", [360, 1280])
def test_dark_is_dark_and_light_is_light(opened: dict[Scheme, Opened], width: int) -> None:
    light, dark = (opened[Scheme(width=width, colours=c)] for c in ("light", "dark"))
    assert luminance(light.measured["background"]) > 0.8 > 0.4 > luminance(light.measured["colour"])
    assert luminance(dark.measured["background"]) < 0.2 < 0.6 < luminance(dark.measured["colour"])
    assert light.picture != dark.picture
