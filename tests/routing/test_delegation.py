"""The gate of delegation value: it learns what there is, stores without loss, and says when there is nothing to learn."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tiercel.errors import DataError
from tiercel.routing.delegation import DelegationGate, GateState, Target
from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.signal import Signal, Stage, make_signals
from tiercel.stats.ranking import auroc


class Numbers(Signal):
    """Reads the numbers that a made-up request holds."""

    name = "numbers"
    stage = Stage.PRE

    def columns(self) -> tuple[str, ...]:
        return ("a", "b", "noise")

    def transform(self, exchanges: Exchanges) -> np.ndarray:
        return np.array([[float(v) for v in e.request.split()] for e in exchanges.items]).reshape(len(exchanges), 3)


def _world(n: int, seed: int) -> tuple[Exchanges, Outcomes]:
    """The weak model fails where a is high, the strong one where b is."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    weak = rng.random(n) > 1 / (1 + np.exp(1.0 - 2.5 * x[:, 0]))
    strong = rng.random(n) > 1 / (1 + np.exp(2.0 - 4.0 * (x[:, 1] > 0.3)))
    items = [Exchange(request=f"{a:.4f} {b:.4f} {c:.4f}") for a, b, c in x]
    return Exchanges(items), Outcomes(weak=weak.astype(float), strong=strong.astype(float))


@pytest.fixture(scope="module")
def fitted() -> DelegationGate:
    return DelegationGate([Numbers()]).fit(*_world(500, 1))


def test_scores_are_probabilities_that_the_strong_answer_is_better(fitted: DelegationGate) -> None:
    exchanges, outcomes = _world(3_000, 2)
    scores = fitted.score(exchanges)
    better = outcomes.value > 0
    assert ((scores > 0) & (scores < 1)).all()
    assert auroc(scores, better) > 0.72
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
        part = (scores >= low) & (scores < high)
        assert part.sum() > 50
        assert better[part].mean() == pytest.approx(scores[part].mean(), abs=0.09)


def test_a_gate_of_value_gains_more_than_a_gate_of_error_where_both_models_fail_together(
    fitted: DelegationGate,
) -> None:
    exchanges, outcomes = _world(3_000, 3)
    error = DelegationGate([Numbers()], target=Target.ERROR).fit(*_world(500, 1))
    by_value, by_error = fitted.score(exchanges), error.score(exchanges)
    assert auroc(by_value, outcomes.value > 0) > auroc(by_error, outcomes.value > 0) + 0.01
    assert auroc(by_error, outcomes.weak < 0.5) > auroc(by_value, outcomes.weak < 0.5)


def test_cross_scores_are_of_gates_that_did_not_see_the_row() -> None:
    exchanges, outcomes = _world(400, 4)
    rng = np.random.default_rng(5)
    noise = Outcomes(weak=rng.permutation(outcomes.weak), strong=rng.permutation(outcomes.strong))
    gate = DelegationGate([Numbers()]).fit(exchanges, noise)
    # Outcomes that have nothing to do with the requests can be fitted, but not foreseen.
    assert abs(auroc(gate.cross_scores_, noise.value > 0) - 0.5) < 0.09


def test_a_stored_gate_scores_as_it_did_and_its_state_is_plain() -> None:
    rng = np.random.default_rng(6)
    words = ["add", "prove", "list", "explain", "why"]
    items, weak = list[Exchange](), list[float]()
    for _ in range(240):
        word = words[int(rng.integers(5))]
        items.append(
            Exchange(request=f"{word} the {int(rng.integers(99))} things", answer=f"It is {word} {rng.random():.2f}")
        )
        weak.append(float(rng.random() < (0.3 if word == "prove" else 0.85)))
    exchanges = Exchanges(items)
    names = ["length", "structure", "request_words", "answer_form", "answer_words"]
    outcomes = Outcomes(weak=np.array(weak), strong=np.ones(240))
    gate = DelegationGate(make_signals(names)).fit(exchanges, outcomes)
    assert gate.stage == Stage.POST and not gate.needs_embeddings
    state = gate.state()
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(state.values))
    again = DelegationGate.restore(GateState(values=values, arrays=state.arrays), make_signals(names))
    assert again.score(exchanges) == pytest.approx(gate.score(exchanges), abs=1e-12)
    assert len(gate.columns()) == len(state.arrays["centre"])
    with pytest.raises(ValueError, match="not those"):
        DelegationGate.restore(state, make_signals(names[1:]))


@pytest.mark.parametrize(
    ("weak", "strong", "problem"),
    [
        (np.ones(100), np.ones(100), "better on 0 of 100"),
        (np.ones(100), np.zeros(100), "better on 0 of 100"),
        (np.zeros(100), np.ones(100), "all but 0 of 100"),
        (np.full(100, 0.5), np.full(100, 0.5), "stay with the weak model"),
    ],
)
def test_scores_without_a_contrast_are_refused_with_what_to_do(weak: Any, strong: Any, problem: str) -> None:
    exchanges, _ = _world(100, 7)
    with pytest.raises(DataError, match=problem):
        DelegationGate([Numbers()]).fit(exchanges, Outcomes(weak=weak, strong=strong))


def test_columns_that_say_nothing_leave_a_gate_that_says_the_rate() -> None:
    exchanges, outcomes = _world(300, 8)
    same = Exchanges([Exchange(request="1 1 1")] * 300)
    scores = DelegationGate([Numbers()]).fit(same, outcomes).score(exchanges.take(np.arange(3)))
    assert np.isfinite(scores).all()
    gate = DelegationGate([Numbers()]).fit(same, outcomes)
    assert gate.score(same)[0] == pytest.approx((outcomes.value > 0).mean(), abs=0.02)
    assert gate.score(Exchanges([])).shape == (0,)
