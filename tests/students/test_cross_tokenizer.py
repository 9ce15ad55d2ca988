"""Losses across tokenizers: real tokenizers that are trained here, scipy, and trl's alignment."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import wasserstein_distance
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from tiercel.students.cross_tokenizer import (
    Alignment,
    align_spans,
    byte_ends,
    shared_token_loss,
    shared_tokens,
    span_logprobs,
    span_loss,
    universal_logit_loss,
)
from tiercel.students.distillation import jensen_shannon, reverse_kl
from tiercel.students.teacher_logprobs import top_k_of

TEXTS = [
    "the parcel is late",
    "where is the parcel now",
    "später käme das Paket, später",
    "価格は上がる 🙂 the price",
] * 5


def tokenizer(size: int) -> Tokenizer:
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        TEXTS,
        BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False),
    )
    return made


SMALL, LARGE = tokenizer(262), tokenizer(320)


def pieces(text: str, made: Tokenizer) -> tuple[list[int], list[int]]:
    encoded = made.encode(text)
    return encoded.ids, byte_ends(text, encoded.offsets)


def logits(seed: int, *shape: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape) * 2)


def texts_of(ends: list[int], spans: Tensor, text: str, count: int) -> list[bytes]:
    """The text of each span, put together from its tokens."""
    data, starts = text.encode(), [0, *ends[:-1]]
    found = [b""] * count
    for a, b, span in zip(starts, ends, spans.tolist(), strict=True):
        if span >= 0:
            found[span] += data[a:b]
    return found


@settings(max_examples=120, deadline=None)
@given(st.text(st.sampled_from("the parcel is late später 価格🙂x"), min_size=1, max_size=24))
def test_spans_of_real_tokenizers_hold_the_same_text(text: str) -> None:
    (_, mine), (_, theirs) = pieces(text, SMALL), pieces(text, LARGE)
    found = align_spans(mine, theirs)
    one, two = texts_of(mine, found.student, text, found.spans), texts_of(theirs, found.teacher, text, found.spans)
    assert one == two
    assert b"".join(one) == text.encode()
    assert all(one)
    borders = set(mine) & set(theirs)
    assert found.spans == len(borders - {0})
    for spans, starts in zip((found.student, found.teacher), found.starts(), strict=True):
        assert (spans.diff() >= 0).all()
        assert starts.tolist() == [spans.tolist().index(g) for g in range(found.spans)]


def test_small_cases_by_hand() -> None:
    found = align_spans([1, 3, 4, 6], [3, 5, 6])
    assert found.student.tolist() == [0, 0, 1, 1]
    assert found.teacher.tolist() == [0, 1, 1]
    cut = align_spans([2, 4, 5], [2, 3])
    assert (cut.student.tolist(), cut.teacher.tolist(), cut.spans) == ([0, -1, -1], [0, -1], 1)
    assert [s.tolist() for s in cut.starts()] == [[0], [0]]
    end_token = align_spans([2, 4, 4], [2, 4])
    assert end_token.student.tolist() == [0, 1, 1]
    assert align_spans([], []).spans == 0
    for bad in ([2, 1], [-1, 1]):
        with pytest.raises(ValueError, match="rise"):
            align_spans(bad, [1])


def test_byte_ends_count_bytes_and_parts_of_a_character_end_with_it() -> None:
    text = "aé🙂b"
    encoded = SMALL.encode(text)
    assert len(encoded.ids) == 8
    assert byte_ends(text, encoded.offsets) == [1, 3, 3, 7, 7, 7, 7, 8]
    assert byte_ends("", []) == []


def trl_loss() -> Any:
    pytest.importorskip("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gold.gold_trainer import ULDLoss
    return ULDLoss


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12, unique=True).map(sorted),
    st.lists(st.integers(1, 30), min_size=1, max_size=12, unique=True).map(sorted),
)
def test_alignment_is_trls(mine: list[int], theirs: list[int]) -> None:
    end = max(mine[-1], theirs[-1]) + 1
    mine, theirs = [*mine, end], [*theirs, end]
    expected = trl_loss()._align_by_byte_offsets([(0, e) for e in mine], [(0, e) for e in theirs])
    found = align_spans(mine, theirs)
    for spans, groups in zip((found.student, found.teacher), expected, strict=True):
        assert [[i for i, s in enumerate(spans.tolist()) if s == g] for g in range(found.spans)] == groups


def one_to_one(n: int) -> Alignment:
    return align_spans(list(range(1, n + 1)), list(range(1, n + 1)))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_universal_loss_is_the_wasserstein_distance_of_the_probabilities(temperature: float) -> None:
    mine, theirs = logits(0, 4, 9), logits(1, 4, 13)
    got = universal_logit_loss(mine, theirs, one_to_one(4), temperature=temperature).item()
    p, q = softmax(mine.numpy() / temperature, -1), softmax(theirs.numpy() / temperature, -1)
    p = np.pad(p, ((0, 0), (0, 4)))
    # scipy gives each of the v values a weight of 1 / v.
    expected = np.mean([13 * wasserstein_distance(a, b) for a, b in zip(p, q, strict=True)])
    assert got == pytest.approx(expected, rel=1e-10)


def test_universal_loss_is_trls_where_tokens_are_the_same() -> None:
    class Plan:
        uld_crossentropy_weight, uld_distillation_weight = 0.0, 1.0
        uld_student_temperature = uld_teacher_temperature = 1.5
        uld_skip_student_eos = uld_skip_teacher_eos = False
        use_extended_uld, uld_token_merge_strategy = True, "bayesian"

    mine, theirs = logits(2, 1, 6, 9), logits(3, 1, 6, 13)
    labels = torch.tensor([[-100, -100, 1, 2, 3, 4]])
    offsets = torch.tensor([[[0, 0], [0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]])
    theirs_said = trl_loss()(Plan())(mine, theirs, labels, labels, labels, labels, offsets, offsets)
    got = universal_logit_loss(mine[0, 1:5], theirs[0, 1:5], one_to_one(4), temperature=1.5)
    torch.testing.assert_close(got, theirs_said)


def test_universal_loss_does_not_care_what_tokens_are_called_and_reads_the_starts_of_spans() -> None:
    mine = logits(4, 5, 8)
    found = align_spans([1, 3, 4, 6, 7], [3, 4, 7])
    starts = found.starts()[0]
    theirs = mine[starts][:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])]
    assert universal_logit_loss(mine, theirs, found).item() < 1e-12
    assert universal_logit_loss(mine, theirs + logits(5, 3, 8), found).item() > 0.05


@pytest.mark.parametrize("k", [1, 3, 13])
def test_universal_loss_from_top_k_is_a_lower_bound_and_exact_when_all_are_kept(k: int) -> None:
    mine, theirs = logits(6, 4, 9), logits(7, 4, 13)
    full = universal_logit_loss(mine, theirs, one_to_one(4)).item()
    got = universal_logit_loss(mine, top_k_of(theirs, k), one_to_one(4)).item()
    assert 0 <= got <= full + 1e-12
    if k == 13:
        assert got == pytest.approx(full, rel=1e-9)


def test_shared_tokens_are_compared_by_name() -> None:
    found = shared_tokens({"a": 0, "b": 1, "c": 2, "d": 3}, {"c": 0, "x": 1, "a": 4, "y": 2, "z": 3})
    assert (found.student.tolist(), found.teacher.tolist()) == ([0, 2], [4, 0])
    mine, theirs = logits(8, 2, 4), logits(9, 2, 5)
    got = shared_token_loss(mine, theirs, one_to_one(2), found).item()
    p, q = softmax(mine.numpy(), -1), softmax(theirs.numpy(), -1)
    one = np.stack([p[:, 0], p[:, 2], p[:, 1] + p[:, 3]], 1)
    two = np.stack([q[:, 4], q[:, 0], q[:, 1] + q[:, 2] + q[:, 3]], 1)
    assert got == pytest.approx(rel_entr(two, one).sum(-1).mean(), rel=1e-10)
    with pytest.raises(ValueError, match="share no token"):
        shared_tokens({"a": 0}, {"b": 0})


def test_a_vocabulary_within_the_other_is_compared_on_what_is_shared() -> None:
    found = shared_tokens({"a": 0, "b": 1}, {"b": 0, "x": 1, "a": 2})
    mine, theirs = logits(10, 3, 2), logits(11, 3, 3)
    for divergence in (reverse_kl, jensen_shannon):
        got = shared_token_loss(mine, theirs, one_to_one(3), found, divergence=divergence)
        same = divergence(mine.log_softmax(-1), theirs[:, [2, 0]].log_softmax(-1)).mean()
        torch.testing.assert_close(got, same)


def test_spans_weigh_the_product_over_their_tokens() -> None:
    mine, theirs = logits(12, 5, 6), logits(13, 3, 7)
    ids, their_ids = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([6, 0, 1])
    found = align_spans([1, 3, 4, 6, 8], [3, 6, 7])
    assert found.student.tolist() == [0, 0, 1, 1, -1]
    log_p, log_q = log_softmax(mine.numpy(), -1), log_softmax(theirs.numpy(), -1)
    p = [log_p[0, 1] + log_p[1, 2], log_p[2, 3] + log_p[3, 4]]
    q = [log_q[0, 6], log_q[1, 0]]
    np.testing.assert_allclose(span_logprobs(mine, ids, found.student, 2).numpy(), p, rtol=1e-12)
    got = span_loss(mine, ids, theirs, their_ids, found).item()
    one, two = np.exp(p), np.exp(q)
    expected = rel_entr(two, one) + rel_entr(1 - two, 1 - one)
    assert got == pytest.approx(expected.mean(), rel=1e-9)


def test_span_loss_is_finite_where_a_model_is_certain() -> None:
    sure = torch.tensor([[60.0, 0.0]], requires_grad=True)
    unsure = torch.tensor([[0.0, 0.0]])
    one = torch.tensor([0])
    for divergence in (reverse_kl, jensen_shannon):
        loss = span_loss(sure, one, unsure, one, one_to_one(1), divergence=divergence)
        loss.backward()
        assert math.isfinite(loss.item())
        assert torch.isfinite(sure.grad).all()


def test_gradients_are_those_of_finite_differences() -> None:
    found = align_spans([1, 3, 4, 6], [3, 4, 6])
    theirs, x = logits(14, 3, 7), logits(15, 4, 6).requires_grad_()
    shared = shared_tokens({"a": 0, "b": 1, "c": 5}, {"a": 3, "b": 0, "c": 1})
    ids, their_ids = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2])
    for loss in (
        lambda v: universal_logit_loss(v, theirs, found, temperature=1.3),
        lambda v: universal_logit_loss(v, top_k_of(theirs, 3), found),
        lambda v: shared_token_loss(v, theirs, found, shared, divergence=partial(jensen_shannon, beta=0.3)),
        lambda v: span_loss(v, ids, theirs, their_ids, found, divergence=reverse_kl),
    ):
        assert torch.autograd.gradcheck(loss, (x,))


def test_no_common_border_costs_nothing_and_bad_shapes_are_refused() -> None:
    none = align_spans([1, 2], [3])
    x = logits(16, 2, 5).requires_grad_()
    ids = torch.tensor([0, 1])
    total = universal_logit_loss(x, logits(17, 1, 4), none) + span_loss(x, ids, logits(17, 1, 4), ids[:1], none)
    total.backward()
    assert total.item() == 0
    assert (x.grad == 0).all()
    with pytest.raises(ValueError, match="do not fit"):
        universal_logit_loss(x, logits(18, 2, 4), none)
    with pytest.raises(ValueError, match="temperature"):
        universal_logit_loss(x, top_k_of(logits(18, 1, 4), 2), none, temperature=2.0)


def test_learning_across_real_tokenizers_brings_beliefs_together() -> None:
    """Free logits of the student's own tokens move until both models believe alike in each piece of the answer."""
    text = "später is the parcel now 🙂"
    (ids, mine), (their_ids, theirs) = pieces(text, SMALL), pieces(text, LARGE)
    found = align_spans(mine, theirs)
    assert len(ids) > len(their_ids)
    teacher = logits(19, len(their_ids), 320)
    teacher[torch.arange(len(their_ids)), torch.tensor(their_ids)] += 5
    student = torch.zeros(len(ids), 262, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([student], lr=0.2)
    for _ in range(150):
        loss = span_loss(student, torch.tensor(ids), teacher, torch.tensor(their_ids), found)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    got = span_logprobs(student, torch.tensor(ids), found.student, found.spans).exp()
    wanted = span_logprobs(teacher, torch.tensor(their_ids), found.teacher, found.spans).exp()
    np.testing.assert_allclose(got.detach(), wanted, atol=0.03)
