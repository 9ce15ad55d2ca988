"""Certifying answers that a judge has scored, with the help of the few of them that somebody verified.

A judge (a model, as a rule) scores many answers for little, and may be wrong in one direction. So its scores alone
certify nothing. With y the verified loss of a row and j the judged one, E[y] = w E[j] + E[y - w j] for any weight w:
the judge's mean over many rows, and its error on the verified ones. What certifies bounds both parts in finite samples:

    upper limit of E[y] = w (upper limit of E[j], all rows, a fifth of the error)
                          + upper limit of E[y - w j], verified rows, the rest of the error

A judge that is too kind makes the second part large, and the bound holds whatever the judge does. The weight is chosen
on a slice of the verified rows that is then left out; it is 0 where the judge is of no use, and the verified rows then
speak alone. They must be drawn at random from all.

The interval of prediction-powered inference (PPI++) stands beside it: narrower, and true only as rows become many. It
never certifies.

Sources: Angelopoulos et al., "Prediction-powered inference", 2023; Angelopoulos, Duchi and Zrnic, "PPI++", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import CertificateError
from tiercel.routing.calibration import choose_method
from tiercel.routing.certificate import digest_of
from tiercel.stats.bounds import betting_pvalue, hoeffding_bentkus_pvalue
from tiercel.stats.intervals import Interval, mean_interval, rate_interval, rate_upper
from tiercel.stats.ranking import ks_pvalue

__all__ = [
    "KIND",
    "Asymptotic",
    "JudgeError",
    "JudgedCertificate",
    "JudgedRow",
    "asymptotic_interval",
    "certify_judged",
    "judge_error",
    "verify_judged",
]

Floats = NDArray[np.float64]

KIND = "judged"
FORMAT = 1
JUDGE_SHARE = 0.2
"""Share of the error that goes to the judge's mean, which many rows make narrow anyway."""
SLICE = 0.2
"""Share of the verified rows on which the weight is chosen."""
FEWEST_SLICE = 10
STEP = 0.05
"""Weights are multiples of it."""
GAIN = 0.8
"""A judge is used where the limit promises to lie so much closer: a slice often shows a judge better than it is."""
PROJECTIONS = 5
MOST_PROJECTED = 1_000
"""Verified rows of one projection; beyond, what is best for so many is best for more."""
UNLIKE = 1e-3
"""P-value below which verified rows are not taken for a random draw."""


class JudgedRow(Struct, frozen=True, array_like=True):
    """One answer."""

    key: str
    """Hash of the row's id."""
    judged: float
    """Loss in the judge's eyes, in [0, 1]; 0 is right."""
    verified: float | None
    """Loss as verified, in [0, 1]; None where nobody has looked."""


class JudgeError(Struct, frozen=True, kw_only=True):
    """How wrong the judge is on the verified rows."""

    rows: int
    distance: Interval
    """Mean distance of judged from verified loss."""
    bias: Interval
    """Mean of judged less verified loss; below 0 the judge is too kind."""
    missed: Interval | None
    """Share of answers with a verified loss above 1/2 that the judge lets pass (at most 1/2); None where there are
    none."""
    unjust: Interval | None
    """Share of answers with a verified loss of at most 1/2 that the judge takes for wrong; None where there
    are none."""


class Asymptotic(Struct, frozen=True, kw_only=True):
    """The interval of PPI++, which holds as rows become many and certifies nothing."""

    estimate: float
    low: float
    high: float
    weight: float
    guarantee: str = "asymptotic: true only as rows become many; it certifies nothing"


class JudgedCertificate(Struct, frozen=True, kw_only=True):
    """The claim, and every number that is needed to make it again."""

    kind: str
    """`judged`, which tells this record from others."""
    format: int
    statement: str
    max_loss: float
    confidence: float
    seed: int
    """Of the order of rows and of the slice."""
    rows: tuple[JudgedRow, ...]
    """In the order in which a bet sees them."""
    slice: int
    """The first so many verified rows chose weight and method and are left out of the bound."""
    weight: float
    """What the judge's scores count; 0 leaves the judge out."""
    method: str
    """Of the bound on the verified rows: "binomial" counts what is above 0 as 1, "betting" takes it as it is."""
    certified: bool
    upper: float
    """Upper limit of the mean loss at the confidence; the smallest bound that these rows certify."""
    estimate: float
    """Mean loss: the judge's mean corrected by its mean error."""
    alike: float
    """P-value of verified rows being drawn like the others, by their judged losses; far below 0.001 nothing is
    certified."""
    judge: JudgeError
    asymptotic: Asymptotic | None
    """None where all rows are verified, or fewer than two."""
    digest: str = ""
    """SHA-256 of all the rest."""


def certify_judged(
    rows: Sequence[JudgedRow], *, max_loss: float, confidence: float, seed: int = 0
) -> JudgedCertificate:
    """Certify that the mean loss of answers like these is at most `max_loss`, or say that it can't be.

    Args:
        rows: independent answers with one key each, some verified; which ones was drawn at random.
        max_loss: the bound, in (0, 1).
        confidence: in (0, 1).
        seed: of the order of rows.

    Raises:
        ValueError: no row is verified, a key stands there twice, or a loss is outside [0, 1].
    """
    _check(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    return _certificate(tuple(rows[i] for i in order), max_loss=max_loss, confidence=confidence, seed=seed)


def verify_judged(certificate: JudgedCertificate) -> JudgedCertificate:
    """Make the certificate again from its rows.

    Returns:
        The certificate made again, which equals the one that was given.

    Raises:
        CertificateError: the record does not lead to the claim.
    """
    c = certificate
    if c.kind != KIND or c.format != FORMAT:
        raise CertificateError(f"its form is {c.kind} {c.format}, this program reads {KIND} {FORMAT}; upgrade tiercel")
    if not (0 < c.max_loss < 1 and 0 < c.confidence < 1):
        raise CertificateError("its bound or its confidence is not between 0 and 1")
    try:
        _check(c.rows)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    made = _certificate(c.rows, max_loss=c.max_loss, confidence=c.confidence, seed=c.seed)
    for name in ("slice", "weight", "method", "certified"):
        if getattr(made, name) != getattr(c, name):
            raise CertificateError(f"its rows give {name} = {getattr(made, name)}, not {getattr(c, name)}")
    for name in ("upper", "estimate", "alike"):
        if not math.isclose(getattr(made, name), getattr(c, name), abs_tol=1e-9):
            raise CertificateError(f"its rows give {name} = {getattr(made, name):.6f}, not {getattr(c, name):.6f}")
    if made.statement != c.statement:
        raise CertificateError("its statement is not what its numbers say")
    if c.digest != digest_of(c):
        raise CertificateError("it was changed after it was issued")
    return made


def judge_error(judged: Floats, verified: Floats, confidence: float = 0.95) -> JudgeError:
    """The judge's own error, with intervals that hold in finite samples.

    Args:
        judged: losses of n verified rows in the judge's eyes, shape (n,).
        verified: their verified losses, shape (n,).
        confidence: of each interval.
    """
    wrong, passed = verified > 0.5, judged <= 0.5
    return JudgeError(
        rows=judged.size,
        distance=mean_interval(np.abs(judged - verified), 0.0, 1.0, confidence),
        bias=mean_interval(judged - verified, -1.0, 1.0, confidence),
        missed=rate_interval(int((wrong & passed).sum()), int(wrong.sum()), confidence) if wrong.any() else None,
        unjust=rate_interval(int((~wrong & ~passed).sum()), int((~wrong).sum()), confidence) if ~wrong.all() else None,
    )


def asymptotic_interval(judged: Floats, verified: Floats, unlabelled: Floats, confidence: float = 0.95) -> Asymptotic:
    """The PPI++ interval of the mean loss with its power-tuned weight; asymptotic, so it certifies nothing.

    Args:
        judged: losses of n verified rows in the judge's eyes, shape (n,), n at least 2.
        verified: their verified losses, shape (n,).
        unlabelled: judged losses of the other m rows, shape (m,), m at least 1.
        confidence: in (0, 1).
    """
    n, m = verified.size, unlabelled.size
    spread = float(np.concatenate([judged, unlabelled]).var(ddof=1))
    weight = _tuned(judged, verified, spread, n / m)
    rest = verified - weight * judged
    estimate = weight * float(unlabelled.mean()) + float(rest.mean())
    error = math.sqrt(weight**2 * spread / m + float(rest.var(ddof=1)) / n)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Asymptotic(estimate=estimate, low=estimate - reach, high=estimate + reach, weight=weight)


def _tuned(judged: Floats, verified: Floats, spread: float, ratio: float) -> float:
    """The weight of least variance, within [0, 1] (PPI++, section 6)."""
    if spread <= 1e-12 or verified.size < 2:
        return 0.0
    together = float(np.cov(verified, judged)[0, 1])
    return float(np.clip(together / ((1 + ratio) * spread), 0.0, 1.0))


def _check(rows: Sequence[JudgedRow]) -> None:
    for number, row in enumerate(rows, start=1):
        for value in (row.judged, row.verified):
            if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"row {number} has a loss outside [0, 1]")
    if len({row.key for row in rows}) != len(rows):
        raise ValueError("a row stands in it twice")
    if all(row.verified is None for row in rows):
        raise ValueError("no row is verified, and a judge alone certifies nothing")


def _certificate(rows: tuple[JudgedRow, ...], *, max_loss: float, confidence: float, seed: int) -> JudgedCertificate:
    everyone = np.array([r.judged for r in rows], dtype=np.float64)
    pairs = [(r.judged, r.verified) for r in rows if r.verified is not None]
    judged, verified = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    unlabelled = np.array([r.judged for r in rows if r.verified is None], dtype=np.float64)
    cut = _slice(verified.size, unlabelled.size)
    # Neither weight nor method may hang on the verified rows that carry the bound, nor on what the judge says there.
    weight, method = _choose(judged[:cut], verified[:cut], unlabelled, verified.size - cut, 1 - confidence)
    counted = bool(np.isin(judged[:cut], (0.0, 1.0)).all()) if cut else False
    upper = _bound(judged[cut:], verified[cut:], everyone, weight, method, 1 - confidence, counted=counted)
    alike = ks_pvalue(judged, unlabelled)
    certified = upper <= max_loss and alike >= UNLIKE
    certificate = JudgedCertificate(
        kind=KIND,
        format=FORMAT,
        statement=_statement(certified, max_loss, confidence, len(rows), verified.size, alike),
        max_loss=max_loss,
        confidence=confidence,
        seed=seed,
        rows=rows,
        slice=cut,
        weight=weight,
        method=method,
        certified=certified,
        upper=min(1.0, upper),
        estimate=weight * float(everyone.mean()) + float((verified - weight * judged).mean()),
        alike=alike,
        judge=judge_error(judged, verified, confidence),
        asymptotic=(
            asymptotic_interval(judged, verified, unlabelled, confidence)
            if unlabelled.size and verified.size > 1
            else None
        ),
    )
    return msgspec.structs.replace(certificate, digest=digest_of(certificate))


def _slice(verified: int, others: int) -> int:
    """Verified rows on which weight and method are chosen: few where a judge can't help, none where few are left."""
    if verified < 5 * FEWEST_SLICE:
        return 0
    return max(FEWEST_SLICE, round(SLICE * verified)) if others >= verified else FEWEST_SLICE


def _choose(judged: Floats, verified: Floats, unlabelled: Floats, rows: int, delta: float) -> tuple[float, str]:
    """Weight and method that promise the closest limit, tried on draws from the slice.

    Args:
        judged: of the slice, shape (n,).
        verified: of the slice, shape (n,).
        unlabelled: judged losses of the rows that nobody verified.
        rows: verified rows that will carry the bound.
        delta: allowed error.
    """
    if not judged.size:
        return 0.0, "betting"
    choices = [(0.0, choose_method(verified))]
    if unlabelled.size:
        spread = float(np.concatenate([judged, unlabelled]).var())
        tuned = _tuned(judged, verified, spread, (rows + judged.size) / unlabelled.size)
        weights = {round(round(tuned / STEP) * STEP, 2), 1.0} - {0.0}
        choices += [(w, m) for w in sorted(weights) for m in ("betting", "binomial")]
    rng, counted = np.random.default_rng(0), bool(np.isin(judged, (0.0, 1.0)).all())
    totals = np.zeros(len(choices))
    for _ in range(PROJECTIONS):
        drawn = rng.integers(0, judged.size, min(rows, MOST_PROJECTED))
        many = np.concatenate([judged[drawn], unlabelled])
        # How far the limit lies above the estimate: the estimates differ by the luck of the slice alone.
        totals += [
            _bound(judged[drawn], verified[drawn], many, w, m, delta, counted=counted)
            - w * float(many.mean())
            - float((verified[drawn] - w * judged[drawn]).mean())
            for w, m in choices
        ]
    totals[1:] /= GAIN
    return choices[int(np.argmin(totals))]


def _bound(
    judged: Floats, verified: Floats, everyone: Floats, weight: float, method: str, delta: float, *, counted: bool
) -> float:
    """Upper limit of the mean verified loss at level `1 - delta`; arrays of n verified rows, and of all.

    `counted` says that the judge is expected to give 0 and 1 alone: what it gives above 0 then counts as 1.
    """
    rest = verified - weight * judged
    if not weight:
        return _upper(rest, method, delta, low=0.0)
    if counted:
        part = rate_upper(int((everyone > 0).sum()), everyone.size, JUDGE_SHARE * delta)
    else:
        part = _mean_upper(float(everyone.mean()), everyone.size, JUDGE_SHARE * delta)
    return weight * part + _upper(rest, method, (1 - JUDGE_SHARE) * delta, low=-weight)


def _upper(values: Floats, method: str, delta: float, *, low: float) -> float:
    """Upper limit of the mean of values in [low, 1] at level `1 - delta`; 1 where nothing can be said."""
    if not values.size:
        return 1.0
    if method == "binomial":
        # What is above 0 counts as 1, what is below as 0, so the rate is at least the mean.
        return rate_upper(int((values > 0).sum()), values.size, delta)
    return _smallest(lambda bound: betting_pvalue(values, bound, low, 1.0) <= delta, max(low, float(values.mean())))


def _mean_upper(mean: float, n: int, delta: float) -> float:
    """Upper limit of the mean of n values in [0, 1], from their mean alone, so that a million rows take no time."""
    return _smallest(lambda bound: hoeffding_bentkus_pvalue(mean, n, bound) <= delta, mean)


def _smallest(excluded: Callable[[float], bool], low: float) -> float:
    """The smallest bound in [low, 1] that is excluded, from above."""
    high = 1.0
    for _ in range(26):
        middle = (low + high) / 2
        low, high = (low, middle) if excluded(middle) else (middle, high)
    return high


def _statement(certified: bool, max_loss: float, confidence: float, rows: int, verified: int, alike: float) -> str:
    if not certified:
        why = " The verified rows are not drawn like the others: verify rows drawn at random." if alike < UNLIKE else ""
        return f"It could not be certified that the mean loss is at most {max_loss:.4g}.{why}"
    return (
        f"Answers like these {rows} have a mean loss of at most {max_loss:.4g}, whatever the judge's errors, if the "
        f"{verified} verified ones were drawn at random; the procedure that says so is wrong with probability at most "
        f"{1 - confidence:.4g}."
    )
