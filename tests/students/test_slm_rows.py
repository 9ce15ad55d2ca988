from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_llama import TEMPLATE, make_llama
from tiercel.errors import ConfigurationError
from tiercel.students.distillation import IGNORED
from tiercel.students.slm_rows import WHY, ChatRow, encode_chat_rows, pad_rows, rationale_rows
from tiercel.types import Message

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("rows") / "model")


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def row(asked: str, answer: str) -> ChatRow:
    return ChatRow((Message(role="system", content="Be brief."), Message(role="user", content=asked)), answer)


def test_only_the_answer_and_its_end_are_learnt(tokenizer: Any) -> None:
    fit, ends = encode_chat_rows(
        tokenizer, [row("the parcel", "delivery"), row("an invoice", "a b")], context=99, ends=[2]
    )
    assert ends == (2,)
    assert fit.answer == max(len(r.ids) - r.start for r in fit.rows)
    for encoded, answer in zip(fit.rows, ("delivery", "a b"), strict=True):
        assert tokenizer.decode(encoded.ids[: encoded.start]).endswith("<|assistant|>")
        assert tokenizer.decode(encoded.ids[encoded.start : -1]).strip() == answer
        assert encoded.ids[-1] == 2
    ids, mask, labels = pad_rows(fit.rows, 0)
    assert ids.shape == mask.shape == labels.shape == (2, fit.longest)
    for encoded, label, there in zip(fit.rows, labels.tolist(), mask.tolist(), strict=True):
        learnt = [i for i, x in enumerate(label) if x != IGNORED]
        assert learnt == list(range(encoded.start, len(encoded.ids)))
        assert sum(there) == len(encoded.ids)


def test_rows_that_can_not_be_learnt_are_counted(tokenizer: Any) -> None:
    rows = [row("x", "short"), row("x", " "), row("x", "an answer " * 40), row("long " * 60, "short")]
    fit, _ = encode_chat_rows(tokenizer, rows, context=60, ends=[2])
    assert (fit.numbers, fit.empty, fit.long) == ((0,), 1, 2)
    assert [w.split()[0] for w in fit.warnings(60)] == ["1", "2"]


def test_the_question_why_stands_behind_the_request_in_a_row_of_its_own(tokenizer: Any) -> None:
    rows = [row("the parcel", "delivery"), row("an invoice", "refund")]
    found = rationale_rows(rows, ["it is late", ""])
    assert [m.role for m in found[0].messages] == ["system", "user"]
    assert found[0].messages[1].text == f"the parcel\n\n{WHY}"
    assert [r.answer for r in found] == ["it is late", ""]
    assert rows[0].messages[1].text == "the parcel", "the row itself stays as it was"
    fit, _ = encode_chat_rows(tokenizer, found, context=200, ends=[2])
    assert (fit.numbers, fit.empty) == ((0,), 1)


def test_what_a_template_puts_before_an_answer_alone_is_not_learnt(tokenizer: Any) -> None:
    plain, _ = encode_chat_rows(tokenizer, [row("the parcel", "delivery")], context=99, ends=[2])
    tokenizer.chat_template = TEMPLATE.replace(
        "<|{{ m.role }}|>", "<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    )
    thought, _ = encode_chat_rows(tokenizer, [row("the parcel", "delivery")], context=99, ends=[2])
    assert thought.rows == plain.rows


def test_an_end_that_is_not_the_models_own_is_found(tokenizer: Any) -> None:
    over = tokenizer.convert_tokens_to_ids("<|over|>")
    tokenizer.chat_template = TEMPLATE.replace("{{ eos_token }}", "<|over|>\n")
    fit, ends = encode_chat_rows(tokenizer, [row("the parcel", "delivery")], context=99, ends=[2])
    assert ends == (over,)
    assert fit.rows[0].ids[-1] == over


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("{% if add_generation_prompt %}<|assistant|>", "{% if add_generation_prompt %}<|tool|>"), "begins with its"),
        (("{{ eos_token }}", "."), "does not end an answer with a token of its own.*mend"),
        (("{{ m.content }}", "{{ m.content | upper }}"), "does not write the answer 'delivery' as it is; mend"),
    ],
)
def test_a_template_that_can_not_be_trained_with_is_refused(tokenizer: Any, change: tuple[str, str], says: str) -> None:
    tokenizer.chat_template = TEMPLATE.replace(*change)
    with pytest.raises(ConfigurationError, match=says):
        encode_chat_rows(tokenizer, [row("the parcel", "delivery")], context=99, ends=[2])
