"""The encoder rung on a tiny model made here: training, resuming, export, int8, parity."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import rows
from tests.flows.tiny import make_encoder
from tiercel.compress.onnx_export import export_encoder, quantise_encoder, smallest_precision
from tiercel.errors import BundleError, ConfigurationError
from tiercel.students.base_models import locate_encoder
from tiercel.students.encoder import EncoderStudent
from tiercel.students.encoder_training import EncoderTrainer, TrainingPlan

TEXTS = [r["messages"][1]["content"] for r in rows(240)]
ANSWERS = [r["messages"][2]["content"] for r in rows(240)]
TARGETS = np.eye(4, dtype=np.float32)[[sorted(set(ANSWERS)).index(a) for a in ANSWERS]]
PLAN = TrainingPlan(epochs=3, learning_rate=1e-3, batch=16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base"), TEXTS)


def trainer(base: Path, seed: int = 0) -> EncoderTrainer:
    return EncoderTrainer(base, max_tokens=32, seed=seed, threads=1)


@pytest.fixture(scope="module")
def trained(base: Path) -> EncoderTrainer:
    found = trainer(base)
    found.fine_tune(TEXTS, TARGETS, PLAN)
    return found


@pytest.fixture(scope="module")
def served(trained: EncoderTrainer, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, EncoderStudent]:
    folder = tmp_path_factory.mktemp("served")
    students = {}
    for precision in ("fp32", "int8"):
        (folder / precision).mkdir()
        export_encoder(trained, folder / precision / "encoder.onnx")
        if precision == "int8":
            quantise_encoder(folder / precision / "encoder.onnx", folder / precision / "encoder.onnx")
        shutil.copyfile(base / "tokenizer.json", folder / precision / "tokenizer.json")
        weights, bias = trained.head_arrays()
        students[precision] = EncoderStudent(folder / precision, weights, bias, max_tokens=32, threads=1)
    return students


def test_training_learns_and_is_the_same_for_a_seed(base: Path, trained: EncoderTrainer) -> None:
    weights, bias = trained.head_arrays()
    told = (trained.embed(TEXTS) @ weights + bias).argmax(1)
    assert (told == TARGETS.argmax(1)).mean() > 0.9
    again = trainer(base)
    again.fine_tune(TEXTS, TARGETS, PLAN)
    np.testing.assert_array_equal(again.head_arrays()[0], weights)


def test_training_that_was_cut_off_ends_as_if_it_was_not(base: Path, trained: EncoderTrainer, tmp_path: Path) -> None:
    class CutOff(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total * 2 // 3:
            raise CutOff

    checkpoint = tmp_path / "state"
    with pytest.raises(CutOff):
        trainer(base).fine_tune(TEXTS, TARGETS, PLAN, checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists()
    resumed = trainer(base)
    resumed.fine_tune(TEXTS, TARGETS, PLAN, checkpoint=checkpoint)
    assert not checkpoint.exists()
    np.testing.assert_array_equal(resumed.head_arrays()[0], trained.head_arrays()[0])


def test_a_checkpoint_that_was_cut_is_not_used(base: Path, trained: EncoderTrainer, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"half a file")
    found = trainer(base)
    found.fine_tune(TEXTS, TARGETS, PLAN, checkpoint=tmp_path / "state")
    np.testing.assert_array_equal(found.head_arrays()[0], trained.head_arrays()[0])


def test_quick_embeddings_are_nearly_those_of_full_precision(trained: EncoderTrainer) -> None:
    quick, full = trained.embed(TEXTS, quick=True), trained.embed(TEXTS)
    cosine = (quick * full).sum(1) / np.linalg.norm(quick, axis=1) / np.linalg.norm(full, axis=1)
    assert cosine.min() > 0.999


def test_the_graph_gives_what_torch_gives(trained: EncoderTrainer, served: dict[str, EncoderStudent]) -> None:
    texts = [*TEXTS[:40], "", "a", "unheard of words entirely"]
    np.testing.assert_allclose(served["fp32"].engine.embed(texts)[0], trained.embed(texts), atol=1e-4)


def test_int8_decides_as_full_precision(served: dict[str, EncoderStudent]) -> None:
    small, full = (served[p].predict(TEXTS).probabilities for p in ("int8", "fp32"))

    assert (small.argmax(1) == full.argmax(1)).mean() >= 0.995
    size = {p: (served[p].folder / "encoder.onnx").stat().st_size for p in served}
    assert size["int8"] < 0.6 * size["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_embedding_does_not_depend_on_its_batch(served: dict[str, EncoderStudent], precision: str) -> None:
    """Dynamic quantisation by the batch, the usual way to int8, fails this by orders of magnitude."""
    engine = served[precision].engine
    texts = [*TEXTS[:30], "one", " ".join(TEXTS[:6])]
    together = engine.embed(texts)[0]
    alone = np.concatenate([engine.embed([t])[0] for t in texts])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_a_long_request_is_cut_and_says_so(served: dict[str, EncoderStudent]) -> None:
    kept = served["int8"].predict(["short one", " ".join(TEXTS[:20]), "x" * 200_000]).familiarity
    assert kept[0] == 1
    assert -1 < kept[1] < -0.5
    # One unknown word, so that few tokens stand for it; but not all of it was read.
    assert kept[2] == pytest.approx(20_000 / 200_000 - 1)


def test_saving_and_loading_change_nothing(served: dict[str, EncoderStudent], tmp_path: Path) -> None:
    served["int8"].save(tmp_path)
    before, after = (s.predict(TEXTS[:20]) for s in (served["int8"], EncoderStudent.load(tmp_path, threads=1)))
    np.testing.assert_array_equal(before.probabilities, after.probabilities)


def test_a_damaged_graph_is_one_clear_error(served: dict[str, EncoderStudent], tmp_path: Path) -> None:
    served["int8"].save(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="can't be read"):
        EncoderStudent.load(tmp_path)


@pytest.mark.parametrize(("agreed", "kept"), [(0.995, "int8"), (0.99, "fp32")])
def test_int8_is_kept_where_it_answers_as_full_precision(
    trained: EncoderTrainer, tmp_path: Path, agreed: float, kept: str
) -> None:
    full, target = tmp_path / "full.onnx", tmp_path / "encoder.onnx"
    export_encoder(trained, full)
    size = full.stat().st_size
    student, precision, agreement, note = smallest_precision(
        full, target, str, lambda built: agreed if built == "int8" else 1.0
    )
    assert (student, precision) == (kept, kept)
    assert not full.exists()
    assert (target.stat().st_size == size) == (kept == "fp32")
    assert agreement == (agreed if kept == "int8" else 1.0)
    assert ("99.00%" in note) == (kept == "fp32")


def test_an_encoder_is_found_as_folder_or_installed_package(base: Path, tmp_path: Path) -> None:
    assert locate_encoder(str(base)) == base
    assert (locate_encoder() / "tokenizer.json").is_file(), (
        "all-MiniLM-L6-v2 comes with the package of the extra minilm"
    )
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"no tokenizer\.json"):
        locate_encoder(str(tmp_path))
