from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from tiercel.datasets.outliers import language_fit, length_scores, main_script, robust_z

ENGLISH = [
    f"{start} {middle} {end}"
    for start in ("where is", "please tell me about", "i want to change", "can you cancel", "when will you send")
    for middle in ("my order of last week", "the parcel that i bought", "the booking for tomorrow", "this payment")
    for end in ("today", "as soon as possible", "since it is late", "for my brother", "to the new address", "thanks")
]
FOREIGN = [
    "wo bleibt denn mein Paket, ich warte schon seit gestern darauf",
    "je voudrais changer la date de ma réservation s'il vous plaît",
    "kde je moje zásilka, čekám na ni už několik dní doma",
    "haluaisin peruuttaa tilaukseni mahdollisimman pian kiitos",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=40))
def test_robust_z_is_scipys_where_values_scatter(values: list[float]) -> None:
    x = np.array(values)
    scale = median_abs_deviation(x, scale="normal")
    found = robust_z(x)
    assert np.isfinite(found).all()
    if scale > 1e-6:
        np.testing.assert_allclose(found, (x - np.median(x)) / scale, rtol=1e-3, atol=1e-9)


def test_robust_z_of_normal_values_is_the_usual_z_and_an_outlier_does_not_hide_itself() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, 20_000)
    assert robust_z(x).std() == pytest.approx(1, abs=0.02)
    x[:4000] = 1000
    assert robust_z(x)[:4000].min() > 100


def test_robust_z_without_scatter() -> None:
    assert robust_z(np.zeros(0)).tolist() == []
    assert robust_z(np.full(5, 3.0)).tolist() == [0.0] * 5
    mostly = robust_z(np.array([1.0] * 20 + [9.0]))
    assert mostly[-1] > 3.5
    assert mostly[0] == 0


def test_lengths_are_judged_on_a_log_scale_and_recurring_answers_are_not() -> None:
    texts = ["x" * n for n in (20, 25, 30, 35, 40, 28, 33, 2000, 1)]
    found = length_scores(texts)
    assert set(np.flatnonzero(np.abs(found) > 3.5)) == {7, 8}
    labels = ["yes", "no", "a very long label indeed, of which there are many"] * 5 + ["yes " * 300]
    assert length_scores(labels, recurring=3)[:15].tolist() == [0.0] * 15
    free = [*labels[:-1], *("a" * n for n in (40, 45, 50, 55, 60, 44, 52)), "b" * 9000]
    judged = length_scores(free, recurring=3)
    assert judged[-1] > 3.5
    assert not judged[:15].any()


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello, 12!", "LATIN"),
        ("привет all", "CYRILLIC"),
        ("مرحبا", "ARABIC"),
        ("123 !?", ""),
        ("", ""),
        ("漢字かな漢字", "CJK"),
    ],
)
def test_main_script(text: str, script: str) -> None:
    assert main_script(text) == script


def test_foreign_requests_stand_out_and_native_ones_do_not() -> None:
    texts = ENGLISH + FOREIGN
    fit = language_fit(texts)
    assert fit.likelihood[len(ENGLISH) :].max() < -4.5
    assert (fit.likelihood[: len(ENGLISH)] < -4.5).mean() < 0.01
    assert fit.script_share.min() == 1


def test_a_mix_of_languages_is_its_own_measure() -> None:
    half = [f"{a} {b}" for a in FOREIGN for b in ("bitte", "danke", "jetzt", "merci", "dnes", "heti", "ok", "asap")] * 4
    fit = language_fit(ENGLISH + half)
    assert (fit.likelihood < -4.5).sum() == 0


def test_other_letters_are_counted_by_rows() -> None:
    texts = [*ENGLISH, "где моя посылка", "12345"]
    fit = language_fit(texts)
    assert fit.script_share[-2] == pytest.approx(1 / (len(ENGLISH) + 1))
    assert fit.script_share[-1] == 1
    assert fit.likelihood[-1] == 0


def test_a_text_does_not_speak_for_itself() -> None:
    """A long foreign text would be likely under counts in which it makes up most."""
    fit = language_fit([*ENGLISH, FOREIGN[0] * 8])
    assert fit.likelihood[-1] < -8


def test_few_and_empty_texts() -> None:
    for texts in ([], [""], ["a"], ["", " ", "?"], ["hello there"]):
        fit = language_fit(texts)
        assert fit.likelihood.shape == (len(texts),)
        assert np.isfinite(fit.likelihood).all()
        assert length_scores(texts).shape == (len(texts),)
