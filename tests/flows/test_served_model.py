"""The precision that is served: the one that is asked for, or the next larger that answers as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.engines.tiny_llama import make_llama
from tests.flows.conftest import rows
from tiercel.compress import gguf as conversion
from tiercel.datasets.contract import example_from
from tiercel.datasets.templates import TemplateIndex
from tiercel.errors import StorageError
from tiercel.flows import served_model
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.generating import GeneratorRecord
from tiercel.flows.preparation import Prepared, prepare
from tiercel.flows.progress import Silent
from tiercel.flows.served_model import convert_and_check
from tiercel.students.known_words import KnownWords
from tiercel.types import Message

pytest.importorskip("xllamacpp")
pytest.importorskip("auto_round")

ANYTHING = {"most_kl": 1e9, "most_gap": 1e9, "same_answers": False}
NOTHING = {"most_kl": 0.0, "most_gap": 0.0, "same_answers": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("model") / "Tiny-Llama", layers=1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    examples = [example_from(row) for row in rows(120)]
    index = TemplateIndex()
    for example in examples:
        index.add(example)
    return prepare(
        index.keys[0],
        examples,
        None,
        task="generation",
        labels=None,
        shape="text",
        max_loss=0.5,
        seed=0,
        progress=Silent(),
    )


def converted(model: Path, prepared: Prepared, folder: Path, precision: str) -> tuple[GeneratorRecord, float, str]:
    settings = LadderSettings(
        students=None,
        encoder=None,
        max_loss=0.5,
        confidence=0.95,
        seed=0,
        threads=1,
        work=folder,
        precision=precision,
    )
    answers = [answer.text for answer in prepared.train.reference]
    record = GeneratorRecord(task="generation", rung="slm", context=128, max_tokens=4, precision="", slots=1)
    return convert_and_check(
        model,
        folder / "aside",
        record,
        KnownWords.of(prepared.train.texts),
        prepared,
        settings,
        Silent(),
        rows=2,
        same_answers=False,
        taught=[((Message(role="user", content=t),), a) for t, a in zip(prepared.train.texts, answers, strict=True)],
    )


def test_four_bits_are_calibrated_on_training_rows_and_served(
    model: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = list[str](), conversion.convert_to_gguf

    def listening(*args: Any, texts: Any = (), **more: Any) -> Path:
        seen.extend(texts)
        return real(*args, texts=texts, **more)

    monkeypatch.setattr(conversion, "convert_to_gguf", listening)
    monkeypatch.setattr(served_model, "FOUR_BITS", ANYTHING)
    record, _, note = converted(model, prepared, tmp_path, "q4_0")
    assert record.precision == "q4_0"
    assert note.startswith("; loss ")
    made = gguf.GGUFReader(str(tmp_path / "aside" / "generator" / "model.gguf"))
    kinds = {tensor.name: tensor.tensor_type for tensor in made.tensors}
    assert kinds["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.Q4_0
    written = "\n".join(seen)
    assert len(seen) == len(prepared.train)
    assert all(text in written for text in prepared.train.texts)
    kept = [*prepared.gate.texts, *prepared.calibration.texts, *prepared.test.texts]
    assert not any(text in written for text in kept)


def test_what_differs_gives_way_to_the_next_larger_with_the_reason(
    model: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "FOUR_BITS", NOTHING)
    record, _, note = converted(model, prepared, tmp_path, "q4_k_m")
    assert record.precision in ("q8_0", "f16")
    assert note.startswith("; q4_k_m differs (what would be served is not what was trained: probabilities differs")
    assert f": {record.precision} is kept; loss " in note


def test_a_full_disk_is_no_reason_to_try_more_bits(
    model: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise StorageError("no space left")

    monkeypatch.setattr(conversion, "convert_to_gguf", full)
    with pytest.raises(StorageError, match="no space left"):
        converted(model, prepared, tmp_path, "q8_0")
