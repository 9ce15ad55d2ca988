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
        super().__init__()
        self.stages: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base"), [r["messages"][1]["content"] for r in rows(240)])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("traffic") / "traffic.jsonl"
    write_rows(path, rows(400))
    return prepared_from(path)


def view(base: Path, prepared: Prepared, labels: np.ndarray, work: Path, progress: Silent | None = None) -> np.ndarray:
    settings = LadderSettings(
        students=None, encoder=str(base), max_loss=0.05, confidence=0.95, seed=0, threads=1, work=work
    )

    def trainer(seed: int) -> EncoderTrainer:
        return EncoderTrainer(base, max_tokens=32, seed=seed, threads=1)

    return tuned_view(trainer, labels, PLAN, prepared, settings, progress or Silent())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def told(base: Path, prepared: Prepared, work: Path) -> np.ndarray:
    return view(base, prepared, prepared.train.targets, work)


def test_what_is_said_of_rows_is_mostly_right(prepared: Prepared, told: np.ndarray) -> None:
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)
    assert (told.argmax(1) == prepared.train.targets.argmax(1)).mean() > 0.7


def test_a_row_does_not_vouch_for_its_own_label(
    base: Path, prepared: Prepared, told: np.ndarray, tmp_path: Path
) -> None:
    changed = prepared.train.targets.copy()
    changed[7] = np.roll(changed[7], 1)
    after = view(base, prepared, changed, tmp_path)
    np.testing.assert_array_equal(after[7], told[7])
    assert (after != told).any(), "the other folds learn from it"


def test_a_fold_that_is_done_is_not_done_again(base: Path, prepared: Prepared, told: np.ndarray, work: Path) -> None:
    (work / "tuned_view-1.npy").unlink()
    progress = Stages()
    again = view(base, prepared, prepared.train.targets, work, progress)
    inside = len(told) - len(told[1::FOLDS])
    assert progress.stages == [f"fine-tuning a teacher on {inside:,} rows, 2 of {FOLDS}"]
    np.testing.assert_array_equal(again, told)
    assert not list(work.glob("*.checkpoint"))
