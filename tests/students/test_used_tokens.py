"""Training with the table of the tokens that are used: the same answers, and a whole table afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from tests.flows.conftest import rows
from tests.flows.tiny import make_encoder
from tiercel.students.encoder_training import EncoderTrainer, TrainingPlan
from tiercel.students.used_tokens import used_tokens_alone

TEXTS = [r["messages"][1]["content"] for r in rows(120)]
TARGETS = np.eye(2, dtype=np.float32)[np.arange(120) % 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base"), TEXTS)


def test_a_model_with_the_used_tokens_alone_says_the_same(base: Path) -> None:
    model = AutoModel.from_pretrained(base).eval()
    ids, mask = torch.tensor([[7, 31, 9, 0], [12, 7, 40, 31]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).last_hidden_state
        with used_tokens_alone(model, torch.tensor([7, 9, 12, 31, 40])):
            assert model.get_input_embeddings().weight.shape == (5, 32)
            alone = model(input_ids=ids, attention_mask=mask).last_hidden_state
    kept = mask.bool()
    torch.testing.assert_close(alone[kept], whole[kept])


def test_what_was_learnt_is_in_the_whole_table_even_after_an_error(base: Path) -> None:
    model = AutoModel.from_pretrained(base)
    before = model.get_input_embeddings().weight.detach().clone()
    with pytest.raises(RuntimeError, match="cut off"), used_tokens_alone(model, torch.tensor([9, 3])):
        with torch.no_grad():
            model.get_input_embeddings().weight += 1.0
        raise RuntimeError("cut off")
    after = model.get_input_embeddings().weight.detach()
    changed = (after != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [3, 9]
    torch.testing.assert_close(after[[3, 9]], before[[3, 9]] + 1.0)


def test_fine_tuning_changes_embeddings_of_its_own_tokens_and_no_others(base: Path) -> None:
    trainer = EncoderTrainer(base, max_tokens=32, threads=1)
    before = trainer.model.get_input_embeddings().weight.detach().clone()
    trainer.fine_tune(TEXTS[:20], TARGETS[:20], TrainingPlan(epochs=1, learning_rate=1e-3, batch=10))
    after = trainer.model.get_input_embeddings().weight.detach()
    seen = np.unique(np.concatenate(trainer.tokenizer(TEXTS[:20])["input_ids"]))
    changed = (after != before).any(dim=1).nonzero().flatten().tolist()
    assert set(changed) <= set(seen.tolist())
    assert len(changed) > 0.9 * len(seen)
