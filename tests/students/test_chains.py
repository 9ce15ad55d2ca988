from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiercel.students.answer_form import Span
from tiercel.students.chains import IMPOSSIBLE, best_tags, forbidden, spans_of, tags_of
from tiercel.students.tagger_training import chain_loss


def random_chain(words: int, fields: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    steps, start = forbidden(fields)
    size = len(start)
    noise = rng.normal(size=(size, size)), rng.normal(size=size)
    emission = rng.normal(size=(words, size)) * 2
    return emission.astype(np.float32), (steps + noise[0]).astype(np.float32), (start + noise[1]).astype(np.float32)


def every_score(emission: np.ndarray, steps: np.ndarray, start: np.ndarray) -> dict[tuple[int, ...], float]:
    scores = {}
    for tags in itertools.product(range(len(start)), repeat=len(emission)):
        score = start[tags[0]] + sum(emission[i, t] for i, t in enumerate(tags))
        scores[tags] = float(score + sum(steps[a, b] for a, b in itertools.pairwise(tags)))
    return scores


@pytest.mark.parametrize("seed", range(6))
def test_best_tags_their_probability_and_gap_are_those_of_all_sequences(seed: int) -> None:
    emission, steps, start = random_chain(4, 2, seed)
    scores = every_score(emission, steps, start)
    [(tags, log_probability, gap)] = best_tags([emission], steps, start)
    best = max(scores, key=scores.__getitem__)
    assert tuple(tags) == best
    everything = np.logaddexp.reduce(list(scores.values()))
    assert log_probability == pytest.approx(scores[best] - everything, abs=1e-3)
    second = max(s for t, s in scores.items() if t != best)
    assert gap == pytest.approx(scores[best] - second, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_chain_loss_is_the_negative_log_likelihood(seed: int) -> None:
    emission, steps, start = random_chain(4, 1, seed)
    scores = every_score(emission, steps, start)
    shorter = every_score(emission[:2], steps, start)
    wanted = [(0, 1, 2, 0), (1, 2)]
    expected = [
        np.logaddexp.reduce(list(scores.values())) - scores[wanted[0]],
        np.logaddexp.reduce(list(shorter.values())) - shorter[wanted[1]],
    ]
    batch = torch.tensor(np.stack([emission, emission]))
    tags = torch.tensor([wanted[0], (*wanted[1], 0, 0)])
    present = torch.tensor([[True] * 4, [True, True, False, False]])
    loss = chain_loss(batch, tags, present, torch.tensor(steps), torch.tensor(start))
    assert loss.numpy() == pytest.approx(np.array(expected), abs=1e-3)


def test_what_bio_forbids_is_never_chosen() -> None:
    steps, start = forbidden(3)
    rng = np.random.default_rng(0)
    emissions = [(rng.normal(size=(9, 7)) * 30).astype(np.float32) for _ in range(50)]
    for tags, _, _ in best_tags(emissions, steps, start):
        assert start[tags[0]] > IMPOSSIBLE / 2
        assert all(steps[a, b] > IMPOSSIBLE / 2 for a, b in itertools.pairwise(tags))
        assert (tags_of(spans_of(tags), 9) == tags).all()


def test_a_request_without_words_has_no_tags() -> None:
    steps, start = forbidden(1)
    [(tags, log_probability, _)] = best_tags([np.zeros((0, 3), np.float32)], steps, start)
    assert tags.size == 0
    assert log_probability == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)), max_size=5))
def test_spans_survive_tagging(parts: list[tuple[int, int, int]]) -> None:
    spans, at = list[Span](), 0
    for field, length, pause in parts:
        spans.append(Span(field, at, at + length - 1))
        at += length + pause
    assert spans_of(tags_of(spans, at)) == tuple(spans)
