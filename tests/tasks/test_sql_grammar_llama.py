"""The grammar in llama.cpp itself: a model of random weights writes what the grammar lets it write."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tasks.conftest import SHOP
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.sql_grammar import sql_grammar
from tiercel.tasks.sql_schema import read_schema

gguf = pytest.importorskip("gguf", reason="gguf is not installed")
xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

WIDTH, HIDDEN = 32, 64
CONTROL, BYTE, NORMAL = 3, 6, 1
END = 2


def _vocabulary() -> list[tuple[str, float, int]]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "SELECT",
        "FROM",
        "WHERE",
        "ORDER",
        "BY",
        "LIMIT",
        "AND",
        "AS",
        "JOIN",
        "customer",
        "orders",
        "name",
        "city",
    ]
    pieces = [*map(chr, range(33, 127)), "\u2581", *words, *(f"\u2581{w}" for w in words)]
    pieces += ["".join(pair) for pair in itertools.product(letters, "aeiou")]
    return [
        *(("<unk>", 0.0, 2), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)),
        *((f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)),
        *((p, -float(len(p)), NORMAL) for p in dict.fromkeys(pieces)),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    _write_model(path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 512, 1, False, -1
    params.cpuparams.n_threads = 1
    return xllamacpp.Server(params)


def _write_model(path: Path) -> None:
    rng, vocabulary = np.random.default_rng(0), _vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    shapes = {"token_embd": (len(vocabulary), WIDTH), "output": (len(vocabulary), WIDTH)}
    shapes |= {f"blk.0.attn_{n}": (WIDTH, WIDTH) for n in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (HIDDEN, WIDTH), "blk.0.ffn_up": (HIDDEN, WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.5, shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _complete(server: Any, grammar: str, seed: int) -> tuple[str, bool]:
    """A text and whether the model ended it; `<s>` is banned, for the grammar takes it for the signs < s >."""
    bias = [[1, -100.0], [END, 4.0]]
    request = {"prompt": "SELECT", "max_tokens": 60, "temperature": 1.0, "seed": seed, "logit_bias": bias}
    answer = server.handle_completions({**request, "grammar": grammar})
    assert "choices" in answer, answer
    return answer["choices"][0]["text"], answer["choices"][0]["finish_reason"] == "stop"


def test_llama_cpp_reads_the_grammar_and_writes_what_it_allows(server: Any) -> None:
    source = sql_grammar(read_schema(SHOP))
    grammar, ended = Grammar(source), 0
    for seed in range(24):
        text, done = _complete(server, source, seed)
        assert grammar.reached(text) == len(text), text
        if done:
            ended += 1
            assert grammar.accepts(text)
    assert ended > 0


def test_llama_cpp_refuses_a_grammar_that_names_a_missing_rule(server: Any) -> None:
    answer = server.handle_completions({"prompt": "x", "max_tokens": 2, "grammar": "root ::= missing"})
    assert "grammar" in str(answer["error"])
