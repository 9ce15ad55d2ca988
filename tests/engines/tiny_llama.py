"""A tiny Llama in Hugging Face's form, made here: two layers, 64 wide, a SentencePiece tokenizer with byte fallback."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ANSWERS", "TEMPLATE", "TOOLS", "make_llama", "make_lora", "make_tokenizer", "rows", "sentences", "train"]

TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}<|system|>Tools:{% for t in tools %} {{ t | tojson }}{% endfor %}<|over|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<call>"
    '{"name": {{ c.function.name | tojson }}, "arguments": '
    "{% if c.function.arguments is string %}{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}}"
    "</call>{% endfor %}{% if m.role == 'assistant' %}{{ eos_token }}{% else %}<|over|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|over|>"]
ANSWERS = {"lost": "delivery", "paid for": "billing", "sent back": "returns", "opened": "account"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Find an order.",
            "parameters": {
                "type": "object",
                "properties": {
                    "order": {"type": "integer", "minimum": 1, "maximum": 99},
                    "by": {"enum": ["id", "name"]},
                },
                "required": ["order", "by"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "ring", "description": "Ring.", "parameters": {"type": "object", "properties": {}}},
    },
]


def sentences() -> list[tuple[str, str]]:
    """A few hundred questions and the word that answers each."""
    draw = random.Random(0)
    who = ["the courier", "a customer", "our driver", "the clerk", "my neighbour", "her brother"]
    what = ["the parcel", "an invoice", "a broken lamp", "two tickets", "the blue coat", "a receipt", "the account"]
    when = [
        "on Monday",
        "last week",
        "before noon",
        "after 18:30",
        "in May 2024",
        "twice",
        "without a word",
        "at a café",
    ]
    made = {
        f"{draw.choice(who)} {did} {draw.choice(what)} {draw.choice(when)}": answer
        for did, answer in ANSWERS.items()
        for _ in range(120)
    }
    return sorted(made.items())


def rows(n: int) -> list[tuple[str, str]]:
    """Some of the sentences, from all answers."""
    return random.Random(1).sample(sentences(), n)


def make_tokenizer(
    folder: Path,
    *,
    special: Sequence[str] = SPECIAL,
    bos: str = "<s>",
    eos: str = "</s>",
    template: str = TEMPLATE,
) -> Any:
    """Train a SentencePiece tokenizer of 480 tokens with byte fallback into `folder`."""
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"{asked} {answer}" for asked, answer in sentences()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=480,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        user_defined_symbols=list(special),
        bos_piece=bos,
        eos_piece=eos,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = LlamaTokenizer.from_pretrained(str(folder), bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_llama(folder: Path, *, seed: int = 0, width: int = 64, layers: int = 2, tied: bool = False) -> Path:
    """Train a tokenizer, make a random Llama for it, and save both with a chat template in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(make_tokenizer(folder)),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def train(folder: Path, steps: int = 80) -> Path:
    """Teach the model of `folder` to answer the sentences."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = LlamaForCausalLM.from_pretrained(str(folder))
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for asked, answer in sentences()
    ]
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = draw.sample(ids, 16)
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=0)
        lengths = torch.tensor([len(b) for b in batch])
        there = torch.arange(padded.shape[1]) < lengths[:, None]
        loss = model(input_ids=padded, attention_mask=there, labels=padded.masked_fill(~there, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def make_lora(path: Path, *, seed: int, width: int = 64, layers: int = 2) -> Path:
    """A random LoRA adapter in GGUF form."""
    import gguf

    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(layers):
        for name, shape in (("attn_q", (width, width)), ("ffn_down", (width, 2 * width))):
            for half, size in (("a", (4, shape[1])), ("b", (shape[0], 4))):
                values = draw.standard_normal(size).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.{name}.weight.lora_{half}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
