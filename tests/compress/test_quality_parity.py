"""What is served is judged by its answers: a right conversion passes, one that costs answers or their ranking does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.compress.conftest import Trained
from tests.compress.test_serving_parity import lost_eos
from tests.engines.tiny_llama import rows
from tiercel.compress.quality_parity import Judged, QualityParity, compare_quality, require_quality
from tiercel.compress.trained_model import TrainedModel
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import Generated, GenerationRequest
from tiercel.errors import ParityError
from tiercel.types import Message

ASKED = rows(60)
MESSAGES = [(Message(role="user", content=text),) for text, _ in ASKED]


@pytest.fixture(scope="module")
def model(trained: Trained) -> TrainedModel:
    return TrainedModel(trained.folder)


def judged(said: list[str], logprobs: list[float]) -> Judged:
    right = np.array([a == b for a, (_, b) in zip(said, ASKED, strict=True)])
    return Judged(losses=1.0 - right, right=right, logprobs=np.array(logprobs))


def of_model(model: TrainedModel) -> Judged:
    found = model.answer_many([model.prompt(m)[1] for m in MESSAGES], 12)
    return judged([a.text for a in found], [a.logprob for a in found])


def of_engine(gguf: Path) -> Judged:
    with LlamaCppEngine(gguf, context=256, slots=4, threads=1) as engine:
        asked = [GenerationRequest(messages=m, max_tokens=12, logprobs=0) for m in MESSAGES]
        found = [g for g in engine.generate_many(asked) if isinstance(g, Generated)]
    return judged([g.answer.text for g in found], [sum(t.logprob for t in g.tokens) for g in found])


def test_answers_that_are_batched_are_those_of_each_prompt_alone(model: TrainedModel, trained: Trained) -> None:
    prompts = [model.prompt(m)[1] for m in MESSAGES[:6]]
    together, alone = model.answer_many(prompts, 12), TrainedModel(trained.folder)
    for prompt, answer in zip(prompts, together, strict=True):
        [single] = alone.answer_many([prompt], 12)
        assert msgspec.structs.replace(single, logprob=0.0) == msgspec.structs.replace(answer, logprob=0.0)
        assert single.logprob == pytest.approx(answer.logprob, abs=1e-3)
        known = alone.logprobs(prompt, single.ids)
        assert float(known[np.arange(len(single.ids)), list(single.ids)].sum()) == pytest.approx(
            single.logprob, abs=1e-3
        )


def test_a_right_conversion_answers_and_ranks_as_the_model(model: TrainedModel, trained: Trained) -> None:
    own, served = of_model(model), of_engine(trained.gguf)
    assert served.logprobs == pytest.approx(own.logprobs, abs=0.02)
    found = compare_quality(served, own)
    assert found.served_loss == found.trained_loss < 0.2
    assert found.loss_pvalue == 1.0
    require_quality(found)
    assert f"loss {found.served_loss:.3f} served" in str(found)


def test_a_conversion_that_loses_answers_is_refused_with_figures(
    model: TrainedModel, trained: Trained, tmp_path: Path
) -> None:
    lost_eos(trained, tmp_path / "faulty.gguf")
    found = compare_quality(of_engine(tmp_path / "faulty.gguf"), of_model(model))
    assert found.served_loss > found.trained_loss + 0.2
    with pytest.raises(ParityError, match=r"loss 0\.\d+ served, 0\.\d+ trained.* on 60 rows.*it loses more.*p = "):
        require_quality(found)


def test_a_probability_that_no_longer_ranks_is_refused_where_answers_are_the_same() -> None:
    rng = np.random.default_rng(0)
    ease = rng.normal(size=200)
    right = ease + 0.5 * rng.normal(size=200) > -1
    own = Judged(losses=1.0 - right, right=right, logprobs=ease)
    served = Judged(losses=1.0 - right, right=right, logprobs=ease + 4 * rng.normal(size=200))
    found = compare_quality(served, own)
    assert found.loss_pvalue == 1.0
    with pytest.raises(ParityError, match=r"AUROC of the log probability 0\.\d+ and 0\.9\d+.*tells right answers less"):
        require_quality(found)
    require_quality(compare_quality(own, served))


FINE = QualityParity(
    rows=300,
    served_loss=0.05,
    trained_loss=0.05,
    loss_pvalue=1.0,
    served_auroc=0.905,
    trained_auroc=0.91,
    auroc_pvalue=0.001,
)


def test_a_fall_too_small_for_a_gate_refuses_nothing() -> None:
    require_quality(FINE)
    with pytest.raises(ParityError):
        require_quality(msgspec.structs.replace(FINE, served_auroc=0.89))


def test_without_wrong_answers_there_is_no_area_to_compare() -> None:
    right = np.ones(20, dtype=np.bool_)
    side = Judged(losses=np.zeros(20), right=right, logprobs=np.arange(20.0))
    found = compare_quality(side, side)
    assert (found.served_auroc, found.trained_auroc) == (None, None)
    assert "AUROC" not in str(found)
    require_quality(found)
