from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.compress.conftest import Trained
from tests.engines.tiny_llama import TEMPLATE, TOOLS, rows
from tests.students.slm_models import make_model
from tiercel.compress.gguf import convert_to_gguf
from tiercel.compress.gguf_edit import edit_gguf
from tiercel.compress.serving_parity import (
    LIMITS,
    Difference,
    ParityRow,
    ServingParity,
    compare_serving,
    require_parity,
)
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.errors import BundleError, ParityError
from tiercel.types import Message

ASKED = rows(6)
ROWS = [ParityRow(messages=(Message(role="user", content=text),)) for text, _ in ASKED]


@contextmanager
def serving(gguf: Path, **more: object) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(gguf, context=1024, slots=1, threads=1, **more) as engine:  # type: ignore[arg-type]
        yield engine


def compared(trained: Trained, gguf: Path, **more: object) -> ServingParity:
    with serving(gguf) as engine:
        return compare_serving(trained.folder, engine, ROWS, max_tokens=12, **more)  # type: ignore[arg-type]


def test_what_was_converted_is_what_was_trained(trained: Trained) -> None:
    found = compared(trained, trained.gguf)
    assert found.first_difference is None
    assert found.rows == found.same_answers == len(ROWS)
    assert found.tokens >= len(ROWS)
    assert found.kl < 1e-4
    require_parity(found)
    with serving(trained.gguf) as engine:
        answers = [engine.generate_many([_request(row)])[0].answer.text for row in ROWS]  # type: ignore[union-attr]
    # The model did learn: parity of a model that answers at random would say less.
    assert sum(a == b for a, (_, b) in zip(answers, ASKED, strict=True)) >= len(ASKED) - 1


def test_tools_and_several_turns_are_compared_too(trained: Trained) -> None:
    talk = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="a café, 東京 & <b>"),
        Message(role="assistant", content="noted"),
        Message(role="user", content="  two  blanks\nand a line "),
    )
    with serving(trained.gguf) as engine:
        found = compare_serving(
            trained.folder, engine, [ParityRow(messages=talk), ParityRow(messages=talk[:2], tools=TOOLS)], max_tokens=4
        )
    assert found.first_difference is None


def test_a_tool_that_the_server_rewrites_is_caught(trained: Trained) -> None:
    # llama.cpp gives a tool without a description an empty one, which the model never saw in training.
    bare = [{"type": "function", "function": {"name": "ring", "parameters": {"type": "object", "properties": {}}}}]
    with serving(trained.gguf) as engine:
        found = compare_serving(trained.folder, engine, [ParityRow(messages=ROWS[0].messages, tools=bare)])
    assert found.first_difference is not None
    assert found.first_difference.kind == "chat template"
    assert "description" in found.first_difference.served


def test_eight_bits_are_close(trained: Trained, tmp_path: Path) -> None:
    found = compared(trained, convert_to_gguf(trained.folder, tmp_path / "q8.gguf", "q8_0"))
    assert found.first_difference is None
    assert 0 < found.kl < 0.01
    assert found.largest_gap < 0.1


def _another_template(trained: Trained, path: Path) -> None:
    edit_gguf(
        trained.gguf, path, {"tokenizer.chat_template": TEMPLATE.replace("<|user|>", "x").replace("<|over|>", "\n")}
    )


def lost_eos(trained: Trained, path: Path) -> None:
    import gguf

    tokens = gguf.GGUFReader(str(trained.gguf)).fields["tokenizer.ggml.tokens"].contents()
    # llama.cpp also knows an EOS by its text.
    tokens[2] = "<gone>"
    edit_gguf(trained.gguf, path, {"tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.tokens": tokens})


def _second_bos(trained: Trained, path: Path) -> None:
    edit_gguf(trained.gguf, path, {"tokenizer.chat_template": "{{ bos_token }}" + TEMPLATE})


def _no_bos(trained: Trained, path: Path) -> None:
    bare = TEMPLATE.removeprefix("{{ bos_token }}")
    edit_gguf(trained.gguf, path, {"tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": bare})


def _rope_base(trained: Trained, path: Path) -> None:
    edit_gguf(trained.gguf, path, {"llama.rope.freq_base": 300.0})


def _special_tokens_as_text(trained: Trained, path: Path) -> None:
    import gguf

    kinds = gguf.GGUFReader(str(trained.gguf)).fields["tokenizer.ggml.token_type"].contents()
    edit_gguf(trained.gguf, path, {"tokenizer.ggml.token_type": [k if k not in (3, 4) else 1 for k in kinds]})


def _first_space(trained: Trained, path: Path) -> None:
    edit_gguf(trained.gguf, path, {"tokenizer.ggml.add_space_prefix": True})


def _untied(trained: Trained, path: Path) -> None:
    """The output matrix is the embedding of before the training, as if tying had been lost on saving."""
    import torch
    from transformers import LlamaForCausalLM

    folder = path.parent / "untied"
    shutil.copytree(trained.folder, folder)
    model = LlamaForCausalLM.from_pretrained(str(folder))
    torch.manual_seed(5)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight + 0.1 * torch.randn(480, 64))
    model.save_pretrained(folder)
    assert not json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    convert_to_gguf(folder, path)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (_another_template, "chat template"),
        (lost_eos, "stop"),
        (_second_bos, "bos"),
        (_no_bos, "bos"),
        (_rope_base, "probabilities"),
        (_untied, "probabilities"),
        (_special_tokens_as_text, "tokens"),
        (_first_space, "tokens"),
    ],
)
def test_a_planted_fault_is_caught_and_named(
    trained: Trained, tmp_path: Path, plant: Callable[[Trained, Path], None], kind: str
) -> None:
    path = tmp_path / "faulty.gguf"
    plant(trained, path)
    found = compared(trained, path)
    assert found.first_difference is not None
    assert found.first_difference.kind == kind
    with pytest.raises(ParityError, match=kind) as caught:
        require_parity(found)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_the_difference_says_what_and_where(trained: Trained, tmp_path: Path) -> None:
    _second_bos(trained, tmp_path / "faulty.gguf")
    first = compared(trained, tmp_path / "faulty.gguf").first_difference
    assert first == Difference(kind="bos", row=0, position=0, served="2 times", trained="1 times")
    assert msgspec.json.decode(msgspec.json.encode(first), type=Difference) == first


def test_another_template_given_to_the_engine_is_caught(trained: Trained) -> None:
    with serving(trained.gguf, chat_template=TEMPLATE.replace("<|assistant|>", "<|tool|>")) as engine:
        found = compare_serving(trained.folder, engine, ROWS)
    assert found.first_difference is not None
    assert (found.first_difference.kind, found.rows) == ("chat template", 1)


def test_characters_of_several_tokens_are_no_difference(tmp_path: Path) -> None:
    # A random byte-level model writes halves of characters; llama.cpp shows their last token alone, as if it were all.
    folder = make_model("Qwen3", tmp_path / "Qwen3")
    with serving(convert_to_gguf(folder, tmp_path / "made.gguf")) as engine:
        found = compare_serving(folder, engine, ROWS, max_tokens=12, same_answers=False, **LIMITS["f16"])
        seen = [engine.generate(_request(row)) for row in ROWS]  # type: ignore[arg-type]
    assert any(len(g.tokens) < g.output_tokens - 1 for g in seen)
    assert found.first_difference is None
    assert found.tokens >= len(ROWS)


def test_limits_are_twenty_times_what_is_served_right_and_catch_a_lost_window(trained: Trained, tmp_path: Path) -> None:
    right = compared(trained, trained.gguf)
    assert 20 * right.largest_kl < LIMITS["f16"]["most_kl"]
    assert 20 * right.largest_gap < LIMITS["f16"]["most_gap"]
    # llama.cpp serves the same weights without the window that transformers keeps to.
    windowed = Path(shutil.copytree(trained.folder, tmp_path / "windowed"))
    config = json.loads((windowed / "config.json").read_text())
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 8}
    (windowed / "config.json").write_text(json.dumps(config))
    with serving(trained.gguf) as engine:
        found = compare_serving(windowed, engine, ROWS, max_tokens=12, same_answers=False, **LIMITS["f16"])
    assert found.first_difference is not None
    assert found.first_difference.kind == "probabilities"


def test_nothing_compared_is_no_parity(trained: Trained) -> None:
    with serving(trained.gguf) as engine, pytest.raises(ParityError, match="no token was compared"):
        require_parity(compare_serving(trained.folder, engine, []))


def test_a_folder_without_a_model_is_named(trained: Trained, tmp_path: Path) -> None:
    with serving(trained.gguf) as engine, pytest.raises(BundleError, match=tmp_path.name):
        compare_serving(tmp_path, engine, ROWS)


def _request(row: ParityRow) -> object:
    from tiercel.engines.protocol import GenerationRequest

    return GenerationRequest(messages=row.messages, max_tokens=12)
