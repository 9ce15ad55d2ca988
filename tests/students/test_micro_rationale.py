"""Rationales as a further target of the decoder: what is learnt, in which rows, and that no request looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.students.micro_rows import orders
from tiercel.students.distillation import IGNORED, answer_and_rationale
from tiercel.students.micro import MicroStudent
from tiercel.students.micro_model import MicroDecoder, MicroShape
from tiercel.students.micro_rationale import MicroRationale
from tiercel.students.micro_rows import Batch, EncodedRow, encode_rows
from tiercel.students.micro_tokenizer import REQUEST, MicroTokenizer
from tiercel.students.micro_training import MicroPlan, train_micro
from tiercel.students.micro_vocabulary import train_tokenizer

ROWS = orders(300)
WHY = [f"The request asks for {request.split()[-1]}." if i % 2 else "" for i, (request, _) in enumerate(ROWS)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MicroTokenizer:
    return train_tokenizer(ROWS, tmp_path_factory.mktemp("tokenizer"), beside=WHY)


@pytest.fixture(scope="module")
def decoder(tokenizer: MicroTokenizer) -> MicroDecoder:
    torch.manual_seed(0)
    shape = MicroShape.of_size(150_000, vocabulary=len(tokenizer), context=96, answer=32)
    return MicroDecoder(shape, twins=tokenizer.twins).eval()


def encoded(tokenizer: MicroTokenizer, numbers: list[int]) -> list[EncodedRow]:
    return encode_rows(tokenizer, [ROWS[i] for i in numbers], context=96, answer=32, numbers=numbers)


def test_the_loss_is_that_of_answers_and_rationales(tokenizer: MicroTokenizer, decoder: MicroDecoder) -> None:
    further = MicroRationale(tokenizer, ROWS, WHY, weight=0.3, most=96)
    rows = encoded(tokenizer, [1, 2, 3])
    reasons = list[EncodedRow]()
    for i in (1, 3):
        request, words = tokenizer.encode([ROWS[i][0], WHY[i]])
        prompt = tokenizer.prompt([*request, tokenizer.request_id])
        reasons.append(EncodedRow([*prompt, *words, tokenizer.end_id], len(prompt), i))
    with torch.no_grad():
        batch = Batch.of(rows, tokenizer.end_id)
        logits = decoder.logits(decoder(batch.ids)[0][batch.answered])
        answers = functional.cross_entropy(logits, batch.targets)
        got = answers + further(decoder, rows, 0, 10)
        # All in one batch, by the loss of the paper.
        both = Batch.of([*rows, *reasons], tokenizer.end_id)
        labels = torch.full(both.ids.shape, IGNORED)
        labels[both.answered] = both.targets
        says_why = (torch.arange(5) >= 3)[:, None].expand(labels.shape)
        wanted = answer_and_rationale(decoder.logits(decoder(both.ids)[0]), labels, says_why, weight=0.3)
    assert float(got) == pytest.approx(float(wanted), rel=1e-4)


def test_rows_without_one_and_rows_with_swapped_values_add_nothing(
    tokenizer: MicroTokenizer, decoder: MicroDecoder
) -> None:
    further = MicroRationale(tokenizer, ROWS, WHY, weight=0.3, most=96)
    swapped = [row._replace(number=-1) for row in encoded(tokenizer, [1, 3])]
    with torch.no_grad():
        assert float(further(decoder, [*encoded(tokenizer, [0, 2]), *swapped], 0, 10)) == 0


def test_long_rationales_and_requests_stay_inside_the_context(tokenizer: MicroTokenizer, decoder: MicroDecoder) -> None:
    rows = [("tea " * 200, "x"), ("tea", "x"), ("tea " * 200, "x")]
    further = MicroRationale(tokenizer, rows, ["so", "so " * 200, "so " * 200], weight=1.0, most=96)
    assert further.context == 96
    fake = [EncodedRow([0], 0, i) for i in range(3)]
    with torch.no_grad():
        assert float(further(decoder, fake, 0, 10)) > 0


def test_no_request_can_ask_for_a_rationale(tokenizer: MicroTokenizer) -> None:
    [ids] = tokenizer.encode([f"two teas{REQUEST}"])
    assert tokenizer.request_id not in ids


def test_a_decoder_says_why_where_it_is_asked_and_answers_where_it_is_not(tmp_path: Path) -> None:
    plan = MicroPlan(size=120_000, epochs=8, batch=32, warmup=5, context=128, swap=0.0, rationale=1.0)
    said = ["I was asked for it." for _ in ROWS]
    told = train_micro(ROWS, orders(40, seed=1), tmp_path, plan, threads=1, rationales=said)
    student = MicroStudent.load(tmp_path)
    assert min(told.losses) < 3.0
    answers = [g.text for g in student.generate([request for request, _ in ROWS[:20]])]
    assert not any("asked" in text for text in answers)
    tokenizer = student.tokenizer
    prompts = [tokenizer.prompt([*ids, tokenizer.request_id]) for ids in tokenizer.encode([r for r, _ in ROWS[:4]])]
    spoken = student._answers(prompts, student.decoder.shape.answer)
    assert {g.text for g in spoken} == {"I was asked for it."}
