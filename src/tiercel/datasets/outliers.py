"""Rows whose length or language is not that of the workload.

What counts as usual is taken from the rows themselves, with medians, so that the outliers do not move it.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

__all__ = ["LanguageFit", "language_fit", "length_scores", "main_script", "robust_z"]

Floats = NDArray[np.float64]

_LONGEST = 600
"""Characters of a text whose language is judged; more of the same language says nothing new."""
_FEW = 40.0
"""Characters at which half of a text's distance from the usual is believed; shorter texts are pulled to the middle."""
_SMOOTHING = 4.0


def robust_z(values: Floats, measure: Floats | None = None) -> Floats:
    """Distance of each value from the median in standard deviations, estimated without the outliers' help.

    The deviation is 1.4826 times the median distance from the median. Where more than half of the values are equal
    it falls back on the quartiles, then on the plain deviation; where all are equal every distance is 0.

    Args:
        values: float array of shape (n,), finite.
        measure: shape (m,), the values whose median and deviation are taken; None for `values`.

    Returns:
        Shape (n,). Iglewicz and Hoaglin ("How to detect and handle outliers", 1993) call 3.5 an outlier.
    """
    usual = values if measure is None else measure
    if not values.size or not usual.size:
        return np.zeros(values.size)
    middle = np.median(usual)
    scale = 1.4826 * float(np.median(np.abs(usual - middle)))
    if scale <= 0:
        low, high = np.quantile(usual, [0.25, 0.75])
        scale = float(high - low) / 1.349
    if scale <= 0:
        scale = float(usual.std())
    return (values - middle) / scale if scale > 0 else np.zeros(values.size)


def length_scores(texts: Sequence[str], *, recurring: int | None = None) -> Floats:
    """Robust z of the log length of each text, in characters; shape (n,).

    Args:
        texts: n requests or answers.
        recurring: texts that occur at least so often get 0 and do not say what is usual: a label that a hundred rows
            have is no outlier, however long its name is. None judges all.
    """
    counts = Counter(texts)
    judged = np.array([recurring is None or counts[t] < recurring for t in texts], dtype=bool)
    found = np.zeros(len(texts))
    found[judged] = robust_z(np.log1p([len(t) for t, j in zip(texts, judged, strict=True) if j]))
    return found


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """The first word of a letter's Unicode name, which is its script; empty for what is no letter."""
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


def main_script(text: str) -> str:
    """The script of most letters of `text`, such as LATIN, CYRILLIC or CJK; empty where there are no letters."""
    counts = Counter(filter(None, map(_script, text[:_LONGEST])))
    return counts.most_common(1)[0][0] if counts else ""


@dataclass(frozen=True, kw_only=True)
class LanguageFit:
    """How far the language of each of n texts is that of all.

    Attributes:
        script_share: shape (n,), share of the texts with the main script of this one; 1 where there are no letters.
        likelihood: shape (n,), robust z of the mean log likelihood of a character; far below 0 is unlike the others.
    """

    script_share: Floats
    likelihood: Floats


def language_fit(texts: Sequence[str], *, measure: int | None = None) -> LanguageFit:
    """Compare the letters and letter sequences of each text with those of all others.

    The likelihood is that of a character after the two before it, counted over the other texts (each text's own counts
    are taken away: it would else explain itself), with back-off to one character and none. A mix of languages is its
    own measure: in traffic that is half German, German is usual.

    Args:
        texts: n requests.
        measure: how many of them, from the first on, say what is usual; None for all.
    """
    known = len(texts) if measure is None else measure
    scripts = [main_script(t) for t in texts]
    counts = Counter(scripts[:known])
    lettered = max(1, known - counts[""])
    share = np.array([counts[s] / lettered if s else 1.0 for s in scripts])
    return LanguageFit(script_share=share, likelihood=_likelihood([_plain(t) for t in texts], known))


def _plain(text: str) -> str:
    """Lower-cased letters with single spaces; digits and signs say nothing of a language."""
    letters = "".join(c if c.isalpha() else " " for c in text[:_LONGEST].lower())
    return f"  {' '.join(letters.split())} "


def _grams(text: str, size: int) -> list[str]:
    """Runs of `size` characters, one for each character from the third on, which it ends with."""
    return [text[i - size + 1 : i + 1] for i in range(2, len(text))]


def _likelihood(texts: Sequence[str], known: int) -> Floats:
    """Robust z of each text's mean log likelihood under the first `known`, pulled towards 0 where it is short.

    Returns:
        Shape (n,).
    """
    measure = texts[:known]
    counts = [Counter(chain.from_iterable(_grams(t, size) for t in measure)) for size in (1, 2, 3)]
    contexts = [Counter(chain.from_iterable((g[:-1] for g in _grams(t, size)) for t in measure)) for size in (2, 3)]
    total, kinds = counts[0].total(), len(counts[0]) + 1
    means, lengths = np.zeros(len(texts)), np.zeros(len(texts))
    for row, text in enumerate(texts):
        singles, pairs, triples = (_grams(text, size) for size in (1, 2, 3))
        counted = row < known
        own = [Counter(grams if counted else ()) for grams in (singles, pairs, triples)]
        own_contexts = [Counter(g[:-1] for g in grams) if counted else Counter() for grams in (pairs, triples)]
        others = total - len(singles) if counted else total
        summed = 0.0
        for one, two, three in zip(singles, pairs, triples, strict=True):
            p = (counts[0][one] - own[0][one] + 1) / (others + kinds)
            for level, gram in enumerate((two, three)):
                seen = counts[level + 1][gram] - own[level + 1][gram]
                before = contexts[level][gram[:-1]] - own_contexts[level][gram[:-1]]
                p = (seen + _SMOOTHING * p) / (before + _SMOOTHING)
            summed += math.log(p)
        lengths[row] = len(singles)
        means[row] = summed / max(1, len(singles))
    judged = lengths > 1
    found = np.zeros(len(texts))
    if judged.any():
        # The mean of few characters scatters more: without the pull all short texts would be outliers.
        pull = np.sqrt(lengths / (lengths + _FEW))
        usual = judged & (np.arange(len(texts)) < known)
        middle = np.median(means[usual]) if usual.any() else 0.0
        pulled = (means - middle) * pull
        found[judged] = robust_z(pulled[judged], pulled[usual])
    return found
