"""Losses against numpy and scipy in double precision, torch's own kl_div and trl; gradients against differences."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor
from torch.nn import functional

from tiercel.students.distillation import (
    IGNORED,
    Divergence,
    answer_and_rationale,
    answer_cross_entropy,
    bucketed,
    distillation_loss,
    forward_kl,
    jensen_shannon,
    next_token,
    reverse_kl,
    student_objective,
)
from tiercel.students.teacher_logprobs import TopK, top_k_of

B, T, V = 3, 5, 11
DIVERGENCES: dict[str, Divergence] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "js": jensen_shannon,
    "js .1": partial(jensen_shannon, beta=0.1),
    "js .9": partial(jensen_shannon, beta=0.9),
}


def logits(seed: int, *shape: int, spread: float = 2.0) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape or (B, T, V)) * spread
    return torch.tensor(values, dtype=torch.float64)


def some_mask(seed: int = 9) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).random((B, T)) < 0.6)


def by_scipy(name: str, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Divergence of probability rows by scipy's relative entropy."""
    if name == "forward":
        return rel_entr(teacher, student).sum(-1)
    if name == "reverse":
        return rel_entr(student, teacher).sum(-1)
    beta = float(name.partition(" ")[2] or 0.5)
    mix = beta * teacher + (1 - beta) * student
    return beta * rel_entr(teacher, mix).sum(-1) + (1 - beta) * rel_entr(student, mix).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_full_divergences_are_scipys(name: str, temperature: float) -> None:
    student, teacher, mask = logits(1), logits(2), some_mask()
    got = distillation_loss(student, teacher, mask, divergence=DIVERGENCES[name], temperature=temperature)
    p, q = softmax(student.numpy() / temperature, -1), softmax(teacher.numpy() / temperature, -1)
    assert got.item() == pytest.approx(by_scipy(name, p, q)[mask.numpy()].mean(), rel=1e-10)


def test_kl_is_torchs_and_all_are_trls() -> None:
    student, teacher, mask = logits(3), logits(4), some_mask()
    log_p, log_q = student.log_softmax(-1)[mask], teacher.log_softmax(-1)[mask]
    expected = functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    torch.testing.assert_close(distillation_loss(student, teacher, mask), expected)
    pytest.importorskip("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd.gkd_trainer import GKDTrainer
    labels = torch.where(mask, 1, IGNORED)
    ours: list[tuple[float, Divergence]] = [(0.0, forward_kl), (1.0, reverse_kl), (0.5, jensen_shannon)]
    ours += [(beta, partial(jensen_shannon, beta=beta)) for beta in (0.1, 0.9)]
    for beta, divergence in ours:
        theirs = GKDTrainer.generalized_jsd_loss(student, teacher, labels=labels, beta=beta, temperature=2.0)
        got = distillation_loss(student, teacher, mask, divergence=divergence, temperature=2.0)
        # trl keeps beta in single precision.
        assert got.item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    teacher, mask = logits(5, 2, 3, 6), torch.tensor([[True, False, True], [False, True, True]])
    kept = top_k_of(teacher, 3)
    for wanted in (teacher, kept):

        def loss(x: Tensor, wanted: Tensor | TopK = wanted) -> Tensor:
            return distillation_loss(x, wanted, mask, divergence=DIVERGENCES[name], temperature=1.7)

        assert torch.autograd.gradcheck(loss, (logits(6, 2, 3, 6).requires_grad_(),))


def test_other_losses_gradients_are_those_of_finite_differences() -> None:
    x = logits(7, 2, 4, 6).requires_grad_()
    labels = torch.tensor([[IGNORED, 2, 3, 1], [IGNORED, IGNORED, 0, 5]])
    rationale = torch.tensor([[False, True, True, False], [False, False, True, False]])
    teacher = logits(8, 2, 4, 6)
    for loss in (
        lambda v: answer_cross_entropy(v, labels),
        lambda v: answer_and_rationale(v, labels, rationale, weight=0.3),
        lambda v: student_objective(v, labels, teacher, weight=0.4, divergence=reverse_kl, temperature=2.0),
    ):
        assert torch.autograd.gradcheck(loss, (x,))


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_top_k_is_the_divergence_of_k_buckets_and_the_rest(name: str, temperature: float) -> None:
    student, teacher, mask = logits(10), logits(11), some_mask()
    got = distillation_loss(
        student, top_k_of(teacher, 4), mask, divergence=DIVERGENCES[name], temperature=temperature
    ).item()
    p, q = softmax(student.numpy(), -1)[mask.numpy()], softmax(teacher.numpy(), -1)[mask.numpy()]
    found = []
    for one, two in zip(p, q, strict=True):
        best = np.argsort(-two)[:4]
        buckets = [np.append(side[best], np.delete(side, best).sum()) ** (1 / temperature) for side in (one, two)]
        found.append(by_scipy(name, *(b / b.sum() for b in buckets)))
    assert got == pytest.approx(np.mean(found), rel=1e-9)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_all_tokens_kept_is_the_full_form_and_fewer_never_say_more(name: str) -> None:
    student, teacher, mask = logits(12), logits(13), some_mask()
    loss = partial(distillation_loss, student, mask=mask, divergence=DIVERGENCES[name])
    full = loss(teacher=teacher).item()
    coarse = [loss(teacher=top_k_of(teacher, k)).item() for k in range(1, V + 1)]
    assert coarse[-1] == pytest.approx(full, rel=1e-12)
    warm = partial(loss, temperature=3.0)
    assert warm(teacher=top_k_of(teacher, V)).item() == pytest.approx(warm(teacher=teacher).item(), rel=1e-12)
    # The kept tokens are nested, so each further one refines the partition.
    assert np.diff([0.0, *coarse]).min() > -1e-12


def test_a_place_of_the_list_that_is_not_filled_is_as_if_it_were_not_there() -> None:
    student, teacher = logits(14, 4, V), logits(15, 4, V)
    short = top_k_of(teacher, 3)
    pads = torch.tensor([[0, V - 1]]).expand(4, 2)
    empty = torch.full((4, 2), -math.inf, dtype=torch.float64)
    padded = TopK(
        ids=torch.cat([short.ids, pads], 1),
        logprobs=torch.cat([short.logprobs, empty], 1),
        tail=short.tail,
        vocabulary=V,
    )
    mask = torch.ones(4, dtype=torch.bool)
    for divergence in DIVERGENCES.values():
        got = distillation_loss(student, padded, mask, divergence=divergence)
        torch.testing.assert_close(got, distillation_loss(student, short, mask, divergence=divergence))
    sides = bucketed(student, padded)
    for side in sides:
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(4, dtype=torch.float64))


def test_the_mass_of_the_rest_keeps_its_gradient_where_one_minus_the_kept_is_noise() -> None:
    student = torch.tensor([[30.0, 0.0, -1.0, -2.0]], requires_grad=True)
    teacher = TopK(
        ids=torch.tensor([[0]]),
        logprobs=torch.log(torch.tensor([[0.9]])),
        tail=torch.log(torch.tensor([0.1])),
        vocabulary=4,
    )
    loss = distillation_loss(student, teacher, torch.tensor([True]))
    loss.backward()
    exact = student.detach().double().numpy()[0]
    log_p = log_softmax(exact)
    rest = np.log(np.exp(log_p[1:]).sum())
    assert loss.item() == pytest.approx(0.9 * (np.log(0.9) - log_p[0]) + 0.1 * (np.log(0.1) - rest), rel=1e-5)
    inside = 0.1 * softmax(exact[1:])
    np.testing.assert_allclose(student.grad.numpy()[0], [0.1, *-inside], rtol=1e-4)


def test_tokens_that_one_side_rules_out() -> None:
    out = torch.tensor([[0.0, 1.0, -math.inf, 2.0]], dtype=torch.float64)
    without = torch.tensor([[1.0, 0.0, 0.5, -math.inf]], dtype=torch.float64)
    mask = torch.tensor([True])
    assert distillation_loss(out, without, mask, divergence=forward_kl).item() == math.inf
    assert distillation_loss(out, without, mask, divergence=reverse_kl).item() == math.inf
    assert 0 < distillation_loss(out, without, mask, divergence=jensen_shannon).item() < math.log(2)
    both = torch.tensor([[1.0, 3.0, -math.inf, 0.0]], dtype=torch.float64)
    for divergence in DIVERGENCES.values():
        x = out.clone().requires_grad_()
        loss = distillation_loss(x, both, mask, divergence=divergence)
        loss.backward()
        cut = distillation_loss(out[:, [0, 1, 3]], both[:, [0, 1, 3]], mask, divergence=divergence)
        assert loss.item() == pytest.approx(cut.item(), rel=1e-12)
        assert torch.isfinite(x.grad).all()
        assert x.grad[0, 2] == 0
        assert x.grad.abs().sum() > 0
    y = out.clone().requires_grad_()
    distillation_loss(y, without, mask, divergence=jensen_shannon).backward()
    assert torch.isfinite(y.grad).all()
    # Everything outside the kept tokens is ruled out: the bucket of the rest is empty on both sides.
    z = torch.tensor([[1.0, 2.0, -math.inf, -math.inf]], dtype=torch.float64, requires_grad=True)
    kept = top_k_of(torch.tensor([[0.0, 1.0, -math.inf, -math.inf]], dtype=torch.float64), 2)
    for divergence in DIVERGENCES.values():
        distillation_loss(z, kept, mask, divergence=divergence).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("kept", [False, True])
def test_what_does_not_count_is_not_read(kept: bool) -> None:
    student, teacher, mask = logits(16), logits(17), some_mask()
    wanted: Tensor | TopK = top_k_of(teacher, 3) if kept else teacher
    clean = distillation_loss(student, wanted, mask)
    dirty = student.clone()
    dirty[~mask] = math.nan
    dirty.requires_grad_()
    loss = distillation_loss(dirty, wanted, mask)
    loss.backward()
    assert loss.item() == clean.item()
    assert (dirty.grad[~mask] == 0).all()
    nothing = distillation_loss(dirty, wanted, torch.zeros_like(mask))
    dirty.grad = None
    nothing.backward()
    assert nothing.item() == 0
    assert (dirty.grad == 0).all()


def test_cross_entropy_is_that_of_scipy_and_nothing_to_learn_costs_nothing() -> None:
    x = logits(18)
    labels = torch.tensor(np.random.default_rng(0).integers(0, V, (B, T)))
    labels[~some_mask()] = IGNORED
    log_p = log_softmax(x.numpy(), -1)
    wanted = [-log_p[i, j, labels[i, j]] for i in range(B) for j in range(T) if labels[i, j] != IGNORED]
    assert answer_cross_entropy(x, labels).item() == pytest.approx(np.mean(wanted), rel=1e-12)
    assert answer_cross_entropy(x, labels, tokens=40).item() == pytest.approx(np.sum(wanted) / 40, rel=1e-12)
    empty = x.clone().requires_grad_()
    loss = answer_cross_entropy(empty, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert (empty.grad == 0).all()


def test_steps_of_accumulated_gradients_add_up_to_one_batch() -> None:
    student, teacher, mask = logits(19), logits(20), some_mask()
    whole = distillation_loss(student, teacher, mask)
    n = int(mask.sum())
    parts = [distillation_loss(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1], tokens=n) for i in range(B)]
    torch.testing.assert_close(sum(parts), whole)


def test_answer_and_rationale_are_weighed_apart() -> None:
    x, labels = logits(21, 1, 6, V), torch.tensor([[IGNORED, 1, 2, 3, 4, 5]])
    rationale = torch.tensor([[False, True, True, True, True, False]])
    got = answer_and_rationale(x, labels, rationale, weight=0.25)
    log_p = x.log_softmax(-1)[0]
    told = -log_p[range(1, 6), range(1, 6)]
    torch.testing.assert_close(got, told[4] + 0.25 * told[:4].mean())
    only = answer_and_rationale(x, labels, torch.ones_like(rationale), weight=2.0)
    torch.testing.assert_close(only, 2 * told.mean())
    # As in a step of several parts, of which this one holds but some of the tokens.
    part = answer_and_rationale(x, labels, rationale, weight=0.25, tokens=3, rationale_tokens=8)
    torch.testing.assert_close(part, told[4] / 3 + 0.25 * told[:4].sum() / 8)
    with pytest.raises(ValueError, match="-1"):
        answer_and_rationale(x, labels, rationale, weight=-1)


def test_the_objective_at_its_ends_and_its_gradient_over_temperatures() -> None:
    x, teacher = logits(22, spread=0.1), logits(23, spread=0.1)
    labels = torch.where(some_mask(), 3, IGNORED)
    torch.testing.assert_close(student_objective(x, labels, teacher, weight=0.0), answer_cross_entropy(x, labels))
    torch.testing.assert_close(
        student_objective(x, labels, teacher, weight=1.0), distillation_loss(x, teacher, labels != IGNORED)
    )
    sizes = []
    for temperature in (1.0, 8.0):
        y = x.clone().requires_grad_()
        student_objective(y, labels, teacher, weight=1.0, temperature=temperature).backward()
        sizes.append(y.grad.norm().item())
    # Without the square the second would be a 64th of the first.
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_next_token_puts_places_side_by_side() -> None:
    x, ids = logits(24), torch.arange(B * T).reshape(B, T)
    ahead, wanted = next_token(x, ids)
    assert ahead.shape == (B, T - 1, V)
    assert wanted[1].tolist() == [6, 7, 8, 9]
    torch.testing.assert_close(ahead[:, 2], x[:, 2])


def test_half_precision_is_computed_in_single() -> None:
    student, teacher, mask = logits(25).to(torch.bfloat16), logits(26).to(torch.bfloat16), some_mask()
    for wanted in (teacher, top_k_of(teacher, 4)):
        got = distillation_loss(student, wanted, mask)
        double = distillation_loss(student.double(), wanted.double() if wanted is teacher else wanted, mask)
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(double.item(), rel=1e-4)


rows = st.lists(st.floats(-12, 12), min_size=5, max_size=5)


@settings(max_examples=150, deadline=None)
@given(rows, rows, st.floats(0.05, 0.95), st.floats(0.3, 5), st.integers(1, 5))
def test_divergences_are_never_negative_bounded_and_zero_only_for_equals(
    one: list[float], two: list[float], beta: float, temperature: float, k: int
) -> None:
    student, teacher = (torch.tensor([r], dtype=torch.float64) for r in (one, two))
    mask = torch.tensor([True])
    most = -beta * math.log(beta) - (1 - beta) * math.log1p(-beta)
    # A difference in what has hardly any mass is lost in rounding.
    heated = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    gap = heated.abs().max().item()
    for wanted in (teacher, top_k_of(teacher, k)):
        for divergence in (forward_kl, reverse_kl, jensen_shannon, partial(jensen_shannon, beta=beta)):
            value = distillation_loss(student, wanted, mask, divergence=divergence, temperature=temperature).item()
            assert value >= -1e-9
            if wanted is teacher and gap > 1e-3:
                assert value > 0
        mixed = partial(distillation_loss, student, wanted, mask, temperature=temperature)
        assert mixed(divergence=partial(jensen_shannon, beta=beta)).item() <= most + 1e-6
        assert mixed(divergence=jensen_shannon).item() <= math.log(2) + 1e-6
    shifted = teacher + 3.25
    for divergence in (forward_kl, reverse_kl, jensen_shannon):
        for wanted in (teacher, top_k_of(teacher, k)):
            loss = distillation_loss(shifted, wanted, mask, divergence=divergence, temperature=temperature)
            assert abs(loss.item()) < 1e-12


def test_the_generalised_divergence_tends_to_the_two_others() -> None:
    student, teacher, mask = logits(27), logits(28), some_mask()
    loss = partial(distillation_loss, student, teacher, mask)
    low, high = 1e-6, 1 - 1e-6
    near = loss(divergence=partial(jensen_shannon, beta=low)).item() / low
    far = loss(divergence=partial(jensen_shannon, beta=high)).item() / (1 - high)
    assert near == pytest.approx(loss(divergence=forward_kl).item(), rel=1e-3)
    assert far == pytest.approx(loss(divergence=reverse_kl).item(), rel=1e-3)


def test_bad_settings_are_refused() -> None:
    student, teacher, mask = logits(29), logits(30), some_mask()
    for beta in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="beta"):
            jensen_shannon(student, teacher, beta)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            distillation_loss(student, teacher, mask, temperature=temperature)
    with pytest.raises(ValueError, match="11 and 10 tokens"):
        distillation_loss(student, teacher[..., :10], mask)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        student_objective(student, torch.ones(B, T, dtype=torch.int64), teacher, weight=1.5)
