"""Signals on texts: what each column says of requests and answers that people would judge alike."""

from __future__ import annotations

import numpy as np
import pytest

from tiercel.routing.answer_signals import final_answer
from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.learned_signals import Neighbours, RequestReader, RequestWords
from tiercel.routing.signal import make_signals


def columns(name: str, **fields: object) -> dict[str, float]:
    signal = make_signals([name])[0]
    row = signal.transform(Exchanges([Exchange(**{"request": "", **fields})]))[0]  # pyright: ignore
    return dict(zip(signal.columns(), row.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("so 9 * 2 = 18\n#### 18", "18"),
        ("#### $1,250.50", "1250.50"),
        ('{"reasoning": "3 + 4", "answer": "-7"}', "-7"),
        ("The answer is: Paris.", "paris"),
        ("He has 5 pens and 7 books", "7"),
        ("\\boxed{42} is it", "42"),
        ("No number here", ""),
        ("", ""),
    ],
)
def test_the_final_answer_is_the_marked_one_or_the_last_number(text: str, final: str) -> None:
    assert final_answer(text) == final


def test_options_of_a_question_are_told_from_its_stem() -> None:
    found = columns("structure", request="Which is larger?\nA. the red sun\nB. the moon\nC. 7\nD. 12")
    assert (found["options"], found["longest_option"], found["option_spread"]) == (4, 3, 2)
    assert found["numeric_options"] == pytest.approx(0.5)
    assert found["asks"] == 1 and found["log_stem"] == pytest.approx(np.log1p(len("Which is larger?\n")))
    assert columns("structure", request="Which is larger, the sun or the moon?")["options"] == 0


def test_signs_of_difficulty_are_counted_whatever_their_case() -> None:
    found = columns(
        "difficulty", request="HOW MANY were NOT sold? Each costs $3, twice as much as before; 20% are left."
    )
    for name in ("how_many", "negations", "rates", "money", "multiples", "percent", "remainders", "steps"):
        assert found[name] > 0, name
    assert found["prove"] == found["write"] == 0


def test_the_form_of_an_answer_tells_refusal_truncation_and_repetition() -> None:
    assert columns("answer_form", answer="I'm sorry, but I can't help with that.")["refused"] == 1
    assert columns("answer_form", answer="She then multiplies the rest of")["truncated"] == 1
    whole = columns("answer_form", answer="She has 8 pens.\n#### 8")
    assert (whole["truncated"], whole["marked"], whole["final_number"], whole["empty"]) == (0, 1, 1, 0)
    assert columns("answer_form", answer="the red pen " * 30)["repetition"] > 0.9 > whole["repetition"]
    assert columns("answer_form", answer="#### -2.5")["final_negative"] == 1
    assert columns("answer_form", answer=None)["empty"] == 1
    assert columns("answer_form", answer="Perhaps it is about 7.")["hedges"] > 0


def test_an_answer_that_misses_the_form_it_was_asked_for_is_seen() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    for answer, missed in (('{"a": 1}', 0), ('{"b": 1}', 1), ("{", 1), (None, 1)):
        assert columns("answer_form", answer=answer, response_format=form)["not_as_asked"] == missed
    assert columns("answer_form", answer="plain")["not_as_asked"] == 0


def test_sums_are_checked_and_the_final_number_is_looked_for_among_them() -> None:
    good = columns("arithmetic", answer="3 * 4 = 12, 12 + 1 = 13\n#### 13")
    bad = columns("arithmetic", answer="3 * 4 = 13, 13 + 1 = 14\n#### 99")
    assert (good["wrong"], good["final_is_last"]) == (0, 1)
    assert (bad["wrong_share"], bad["final_is_last"], bad["final_is_any"]) == (0.5, 0, 0)


def test_numbers_and_names_that_the_request_does_not_support_are_counted() -> None:
    request = "Ann buys twelve pens at $3 and gives 5 away."
    good = columns("support", request=request, answer="Ann pays 12 * 3 = 36 and keeps 12 - 5 = 7 pens.")
    bad = columns("support", request=request, answer="The pens of Robert cost 41 for all 19.")
    assert good["unsupported_numbers"] == good["unsupported_names"] == good["unused_numbers"] == 0
    assert bad["unsupported_share"] == 1 and bad["unused_share"] == 1 and bad["unsupported_names"] > 0


def test_logprobs_and_agreement_are_silent_where_nothing_was_recorded() -> None:
    assert set(columns("logprobs", answer="x").values()) == set(columns("agreement", answer="x").values()) == {0.0}
    sure = columns("logprobs", answer="x", logprobs=(-0.01,) * 20)
    unsure = columns("logprobs", answer="x", logprobs=(-0.01, -3.0, float("-inf")))
    assert sure["mean"] > unsure["mean"] and unsure["unsure_share"] == pytest.approx(2 / 3)
    agreed = columns("agreement", answer="#### 18", others=("so 18.0", "It is 18", "#### 20"))
    assert agreed["same_final"] == pytest.approx(2 / 3) and agreed["majority"] == 1


def _split_world(n: int = 120) -> tuple[Exchanges, Outcomes]:
    rng = np.random.default_rng(0)
    hard = rng.random(n) < 0.5
    items = [Exchange(request=f"{'prove' if h else 'list'} {' '.join(rng.choice(list('abcdef'), 5))}") for h in hard]
    weak = np.where(hard, rng.random(n) < 0.1, rng.random(n) < 0.9).astype(float)

    def embed(texts: object) -> np.ndarray:
        return np.array([[t.startswith("prove"), len(t) / 50, 1.0] for t in texts], dtype=np.float32)  # pyright: ignore

    return Exchanges(items, embed), Outcomes(weak=weak, strong=np.ones(n))


@pytest.mark.parametrize("signal", [RequestWords, RequestReader, Neighbours])
def test_learned_signals_foresee_value_on_requests_that_they_have_not_seen(signal: type) -> None:
    exchanges, outcomes = _split_world()
    fitted = signal().fit(exchanges, outcomes)
    new = Exchanges([Exchange(request="prove a c c f b"), Exchange(request="list d d a f b")], exchanges.embed)
    found = fitted.transform(new)
    value = fitted.columns().index("value_many" if signal is Neighbours else "value")
    assert found[0, value] > found[1, value] + 0.4


def test_exchanges_embed_once_and_their_parts_not_again() -> None:
    exchanges, _ = _split_world(30)
    asked: list[int] = []
    inner = exchanges.embed
    assert inner is not None
    exchanges.embed = lambda texts: asked.append(len(texts)) or inner(texts)
    whole = exchanges.request_embeddings
    part = exchanges.take(np.array([3, 1]))
    assert np.array_equal(part.request_embeddings, whole[[3, 1]]) and asked == [30]
    with pytest.raises(ValueError, match="no encoder"):
        _ = Exchanges([Exchange(request="a")]).request_embeddings
