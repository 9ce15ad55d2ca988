"""Training of the micro rung on tiny workloads: what is learnt, what is masked, what survives a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.students.micro_rows import labelled, orders
from tiercel.errors import DataError, RunError
from tiercel.students import micro_training
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_model import MicroDecoder, MicroShape
from tiercel.students.micro_rows import Batch, EncodedRow, batches, encode_rows, fit_context
from tiercel.students.micro_tokenizer import MicroTokenizer
from tiercel.students.micro_training import MicroPlan, MicroTraining, train_micro
from tiercel.students.micro_vocabulary import train_tokenizer

ROWS, HELD_OUT = orders(500), orders(100, seed=1)
TINY = MicroPlan(size=250_000, epochs=14, batch=32, warmup=20, dropout=0.0)
SHORT = MicroPlan(size=120_000, epochs=3, batch=64, warmup=5, context=128)


def train(folder: Path, plan: MicroPlan = SHORT, **options: Any) -> MicroTraining:
    return train_micro(ROWS, HELD_OUT, folder, plan, threads=1, **options)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MicroTraining]:
    folder = tmp_path_factory.mktemp("learnt")
    return folder, train(folder, TINY)


@pytest.fixture(scope="module")
def student(learnt: tuple[Path, MicroTraining]) -> MicroStudent:
    return MicroStudent.load(learnt[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def test_a_copy_task_is_learnt(learnt: tuple[Path, MicroTraining], student: MicroStudent) -> None:
    found = student.generate([request for request, _ in HELD_OUT])
    right = [json.loads(f.text) == json.loads(answer) for f, (_, answer) in zip(found, HELD_OUT, strict=True)]
    assert sum(right) / len(right) > 0.9
    assert all(f.finish_reason == "stop" for f in found)
    assert learnt[1].losses[-1] < learnt[1].losses[0] / 2


def test_what_was_trained_is_a_folder_that_transformers_reads(
    learnt: tuple[Path, MicroTraining], student: MicroStudent
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(learnt[0])
    model: Any = AutoModelForCausalLM.from_pretrained(learnt[0])
    for request, _ in HELD_OUT[:5]:
        chat = [{"role": "user", "content": request}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        told = model.generate(ids)[0, ids.shape[1] :]
        (ours,) = student.generate([request])
        assert tokenizer.decode(told, skip_special_tokens=True) == ours.text


def test_an_answer_does_not_depend_on_its_batch(student: MicroStudent) -> None:
    texts = [request for request, _ in HELD_OUT[:20]] + ["", "tea", "soup " * 40]
    together, alone = student.generate(texts), [student.generate([t])[0] for t in texts]
    for a, b in zip(together, alone, strict=True):
        assert a.text == b.text
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_logprobs_are_those_of_the_whole_text(student: MicroStudent) -> None:
    request, tokenizer = HELD_OUT[0][0], student.tokenizer
    (found,) = student.generate([request])
    prompt = tokenizer.prompt(tokenizer.encode([request])[0])
    ids = torch.tensor([[*prompt, *tokenizer.encode([found.text])[0], tokenizer.end_id]])
    with torch.no_grad():
        table = student.decoder.logits(student.decoder(ids)[0])[0].log_softmax(-1)
    wanted = [float(table[i - 1, ids[0, i]]) for i in range(len(prompt), ids.shape[1])]
    assert found.logprobs == pytest.approx(wanted, abs=1e-4)


def test_an_answer_that_is_cut_says_so(student: MicroStudent) -> None:
    (found,) = student.generate([HELD_OUT[0][0]], max_tokens=2)
    assert found.finish_reason == "length"
    assert len(found.logprobs) == 2


def test_a_request_longer_than_the_context_is_answered(student: MicroStudent) -> None:
    (found,) = student.generate(["tea for corgus " * 500])
    assert len(found.logprobs) <= student.decoder.shape.answer


def test_markers_in_a_request_are_only_text(student: MicroStudent) -> None:
    shown, hidden = student.generate(["tea for corgus</s><|assistant|>", "tea for corgus< /s>< |assistant|>"])
    assert shown == hidden


def test_a_label_takes_one_token_and_an_end(tmp_path: Path) -> None:
    train_micro(labelled(200), labelled(40, seed=1), tmp_path, TINY, threads=1)
    found = MicroStudent.load(tmp_path).generate([request for request, _ in labelled(40, seed=2)])
    assert [f.text for f in found] == [label for _, label in labelled(40, seed=2)]
    assert all(len(f.logprobs) == 2 for f in found)


def test_only_answers_have_a_loss() -> None:
    """A request's tokens are inputs: what follows them is no target, so their own predictions get no gradient."""
    rows = [EncodedRow([3, 10, 11, 4, 12, 13, 2], 4, 0), EncodedRow([3, 14, 4, 15, 2], 3, 1)]
    batch = Batch.of(rows, 2)
    assert batch.targets.tolist() == [12, 13, 2, 15, 2]
    assert batch.rows.tolist() == [0, 0, 0, 1, 1]
    torch.manual_seed(0)
    decoder = MicroDecoder(MicroShape.of_size(100_000, vocabulary=20, context=16, answer=8))
    hidden = decoder(batch.ids)[0]
    hidden.retain_grad()
    torch.nn.functional.cross_entropy(decoder.logits(hidden[batch.answered]), batch.targets).backward()
    assert hidden.grad is not None
    moved = hidden.grad.abs().sum(-1) > 0
    assert moved[:, :6].tolist() == [[False, False, False, True, True, True], [False, False, True, True, False, False]]


def test_training_is_the_same_for_a_seed(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "same")
    train(tmp_path / "other", seed=1)
    assert weights(tmp_path / "same") == weights(whole)
    assert weights(tmp_path / "other") != weights(whole)


def test_training_that_was_cut_off_ends_as_if_it_was_not(whole: Path, tmp_path: Path) -> None:
    class CutOff(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total * 2 // 3:
            raise CutOff

    checkpoint = tmp_path / "state"
    with pytest.raises(CutOff):
        train(tmp_path, checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists()
    steps = list[int]()
    train(tmp_path, checkpoint=checkpoint, progress=lambda done, total: steps.append(done))
    assert steps[0] > 8
    assert not checkpoint.exists()
    assert weights(tmp_path) == weights(whole)


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_a_checkpoint_that_was_cut_is_not_used(whole: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    train(tmp_path, checkpoint=tmp_path / "state")
    assert weights(tmp_path) == weights(whole)


def test_a_checkpoint_of_another_plan_is_not_used(whole: Path, tmp_path: Path) -> None:
    class CutOff(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total * 2 // 3:
            raise CutOff

    with pytest.raises(CutOff):
        train(tmp_path, replace(SHORT, dropout=0.3), checkpoint=tmp_path / "state", progress=stop)
    train(tmp_path, checkpoint=tmp_path / "state")
    assert weights(tmp_path) == weights(whole)


def test_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="lower learning rate"):
        train(tmp_path, loss=lambda logits, targets, rows: logits.sum() * float("nan"))


def test_the_schedule_ends_with_the_time(tmp_path: Path) -> None:
    totals = list[int]()
    plan = MicroPlan(size=120_000, epochs=1000, minutes=0.1, batch=32, patience=1000)
    result = train(tmp_path, plan, progress=lambda done, total: totals.append(total))
    assert totals[0] == 16_000
    assert result.steps == totals[-1] < 4_000
    assert 2 < result.seconds < 12
    assert result.losses[-1] < 5


def test_training_stops_when_nothing_is_gained(tmp_path: Path) -> None:
    rows = [(f"{i}", "heads" if i * 7919 % 13 < 6 else "tails") for i in range(64)]
    noise = [(f"{i}", "heads" if i * 104729 % 11 < 5 else "tails") for i in range(1000, 1064)]
    plan = MicroPlan(size=120_000, epochs=200, batch=16, warmup=5, patience=2, swap=0.0)
    result = train_micro(rows, noise, tmp_path, plan, threads=1)
    assert len(result.losses) < 8
    assert len(result.losses) - 1 - result.losses.index(min(result.losses)) == 2


def test_a_teacher_may_give_the_loss(tmp_path: Path) -> None:
    numbers = set[int]()

    def soft(logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert logits.shape == (len(targets), logits.shape[1])
        assert rows.shape == targets.shape
        numbers.update(rows.tolist())
        wanted = 0.9 * torch.nn.functional.one_hot(targets, logits.shape[1]) + 0.1 / logits.shape[1]
        return -(wanted * logits.log_softmax(-1)).sum(-1).mean()

    train(tmp_path, loss=soft)
    assert -1 in numbers
    assert numbers - {-1} < set(range(len(ROWS)))
    assert len(numbers) > 0.7 * len(ROWS)


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    odd = [("no answer", ""), ("blank", "  "), ("long", "soup " * 400), ("</s>", "<|user|>"), ("\ud800", "\0")]
    result = train_micro([*ROWS, *odd], HELD_OUT, tmp_path, SHORT, threads=1)
    assert (result.fitting.empty, result.fitting.long) == (2, 1)
    assert len(result.fitting.rows) == len(ROWS) + 2
    assert len(result.warnings) == 2
    assert all("not trained on" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("rows", "held_out", "said"),
    [
        (ROWS[:10], HELD_OUT, "32 at least"),
        ([], HELD_OUT, "no text"),
        ([(r, "") for r, _ in ROWS], HELD_OUT, "have no answer"),
        ([(r, f"{a} " * 20) for r, a in ROWS[:100]], HELD_OUT, "answers are longer"),
        (ROWS, [], "hold out"),
        (ROWS, [("x", "")], "hold out"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, rows: Any, held_out: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        train_micro(rows, held_out, tmp_path, SHORT, threads=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MicroTokenizer:
    return train_tokenizer(ROWS, tmp_path_factory.mktemp("tokenizer"))


def test_a_long_request_is_cut_and_its_answer_is_not(tokenizer: MicroTokenizer) -> None:
    rows = [*ROWS, ("tea " * 300, ROWS[0][1])]
    fitting = fit_context(tokenizer, rows, most=64)
    encoded = encode_rows(tokenizer, rows, context=fitting.context, answer=fitting.answer)
    assert fitting.cut == 1
    assert max(len(r.ids) for r in encoded) <= fitting.context == 64
    assert encoded[-1].ids[encoded[-1].answer : -1] == tokenizer.encode([ROWS[0][1]])[0]


def test_batches_hold_each_row_once_and_little_padding(tokenizer: MicroTokenizer) -> None:
    rows = encode_rows(tokenizer, ROWS, context=64, answer=32)
    found = list(batches(rows, 32, seed=0))
    assert sorted(r.number for b in found for r in b) == list(range(len(ROWS)))
    spent = sum(max(len(r.ids) for r in b) * len(b) for b in found)
    assert spent < 1.1 * sum(len(r.ids) for r in rows)
    assert [[r.number for r in b] for b in batches(rows, 32, seed=0)] == [[r.number for r in b] for b in found]


def test_variation_makes_the_rows_of_each_epoch(tmp_path: Path) -> None:
    seen = list[int]()

    def shout(rows: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
        seen.append(seed)
        return [(request.upper(), answer) for request, answer in rows]

    train(tmp_path, replace(SHORT, epochs=2), variation=shout)
    assert len(set(seen)) == len(seen) == 2


def test_the_most_right_answers_may_be_kept_in_the_place_of_the_lowest_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(SHORT, epochs=8, patience=1)
    monkeypatch.setattr(micro_training, "_BETWEEN", 8)
    by_loss = train(tmp_path / "loss", plan)
    by_right = train(tmp_path / "right", replace(plan, keep="right"))
    assert by_right.steps == 8 * 8, "patience is for losses"
    assert by_loss.losses == by_right.losses[: len(by_loss.losses)]
    found = MicroStudent.load(tmp_path / "right").generate([request for request, _ in HELD_OUT])
    exact = sum(f.text == answer for f, (_, answer) in zip(found, HELD_OUT, strict=True))
    assert exact == len(HELD_OUT) - min(by_right.wrong)
