"""Teachers of the tuned encoder: none has seen the rows that it speaks of, and a fold that is done is not done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import rows, write_rows
from tests.flows.test_doubts import prepared_from
from tests.flows.tiny import make_encoder
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Silent
from tiercel.flows.tuned_view import FOLDS, tuned_view
from tiercel.students.encoder_training import EncoderTrainer, TrainingPlan

PLAN = TrainingPlan(epochs=8, learning_rate=1e-3, batch=16)


class Stages(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base"), [r["messages"][1]["content"] for r in rows(240)])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("traffic") / "traffic.jsonl"
    write_rows(path, rows(400))
    return prepared_from(path)


def view(base: Path, prepared: Prepared, labels: np.ndarray, work: Path, progress: Silent | None = None) -> np.ndarray:
    work.mkdir(exist_ok=True)
    settings = LadderSettings(
        students=None, encoder=str(base), max_loss=0.05, confidence=0.95, seed=0, threads=1, work=work
    )

    def trainer(seed: int) -> EncoderTrainer:
        return EncoderTrainer(base, max_tokens=32, seed=seed, threads=1)

    return tuned_view(trainer, labels, PLAN, prepared, settings, progress or Silent())


def test_a_row_does_not_vouch_for_its_own_label(base: Path, prepared: Prepared, tmp_path: Path) -> None:
    labels = prepared.train.targets
    changed = labels.copy()
    changed[7] = np.roll(changed[7], 1)
    before, after = (view(base, prepared, x, tmp_path / n) for x, n in ((labels, "before"), (changed, "after")))
    np.testing.assert_allclose(before.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(after[7], before[7])
    assert (after != before).any(), "the other folds learn from it"


def test_what_it_says_of_rows_is_mostly_right(base: Path, prepared: Prepared, tmp_path: Path) -> None:
    told = view(base, prepared, prepared.train.targets, tmp_path / "work")
    assert (told.argmax(1) == prepared.train.targets.argmax(1)).mean() > 0.7


def test_a_fold_that_is_done_is_not_done_again(base: Path, prepared: Prepared, tmp_path: Path) -> None:
    first = view(base, prepared, prepared.train.targets, tmp_path / "work")
    (tmp_path / "work" / "tuned_view-1.npy").unlink()
    progress = Stages()
    again = view(base, prepared, prepared.train.targets, tmp_path / "work", progress)
    assert [s for s in progress.stages if "teacher" in s] == [
        f"fine-tuning a teacher on {len(first) - len(first[1::FOLDS]):,} rows, 2 of {FOLDS}"
    ]
    np.testing.assert_array_equal(again, first)
    assert not list((tmp_path / "work").glob("*.checkpoint"))
