"""Tiny random models of the architectures that the slm rung is for, each with its family's chat format and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engines import tiny_llama
from tests.engines.tiny_llama import TEMPLATE, make_tokenizer, sentences
from tests.students.slm_families import FAMILIES, Family

__all__ = ["ARCHITECTURES", "make_model", "make_tokenizers"]

SPECIAL = [*tiny_llama.SPECIAL, "<|endoftext|>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HEADS = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
MINISTRAL_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "max_position_embeddings": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3": ("LlamaConfig", {"rope_parameters": LLAMA_3_ROPE}),
    "Phi-3": ("Phi3Config", {}),
    "Phi-4": ("Phi3Config", {"tie_word_embeddings": False}),
    "Gemma-2": ("Gemma2Config", {**HEADS, "query_pre_attn_scalar": 16, "sliding_window": 256}),
    "Gemma-3": ("Gemma3TextConfig", {**HEADS, "query_pre_attn_scalar": 16, "sliding_window": 256}),
    "Mistral": ("MistralConfig", {}),
    # The one of 2024 calls itself a Mistral on the hub; that of 2025 has an architecture of its own.
    "Ministral-8B": ("MistralConfig", {**HEADS, "sliding_window": 256}),
    "Ministral-3": ("Ministral3Config", {**HEADS, "rope_parameters": MINISTRAL_ROPE}),
    "Qwen2.5": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", HEADS),
    "Mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2-MoE": ("Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 64}),
    "Qwen3-MoE": ("Qwen3MoeConfig", {**HEADS, **EXPERTS, "norm_topk_prob": True}),
    "DeepSeek-V2-MoE": ("DeepseekV2Config", {**LATENT, "topk_method": "greedy"}),
    # Models on the hub say how experts are scored; transformers takes the sigmoid for granted, llama.cpp does not.
    "DeepSeek-V3-MoE": ("DeepseekV3Config", {**LATENT, "scoring_func": "sigmoid"}),
}
"""Names as on the hub, configuration classes of transformers, and what is special about them."""


def make_tokenizers(folder: Path) -> Path:
    """Train both kinds of tokenizer into `folder`/sentencepiece and `folder`/byte-level, with a plain chat format."""
    make_tokenizer(folder / "sentencepiece", special=SPECIAL)
    _byte_level(folder / "byte-level", "qwen2", SPECIAL, bos="<s>", eos="</s>", template=TEMPLATE)
    return folder


def _byte_level(folder: Path, cut: str, special: Sequence[str], *, bos: str | None, eos: str, template: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    digits = r"\p{N}" if cut == "qwen2" else r"\p{N}{1,3}"
    bytes_ = Tokenizer(models.BPE(ignore_merges=cut == "llama-bpe"))
    bytes_.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN.replace("DIGITS", digits)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bytes_.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<unk>", *([bos] if bos else []), eos, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bytes_.train_from_iterator([f"{asked} {answer}" for asked, answer in sentences()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token=bos, eos_token=eos, unk_token="<unk>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def _family_tokenizer(family: Family, folder: Path) -> None:
    """The tokenizer of a family in `folder`, with the class that its own files name."""
    if family.cut == "sentencepiece":
        assert family.bos is not None
        make_tokenizer(folder, special=family.special, bos=family.bos, eos=family.eos, template=family.template)
    else:
        _byte_level(folder, family.cut, family.special, bos=family.bos, eos=family.eos, template=family.template)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": family.tokenizer}))
    if family.strips:
        path = folder / "tokenizer.json"
        told = json.loads(path.read_text())
        for token in told["added_tokens"]:
            token["rstrip"] = token["content"] in (*family.special, "</s>")
        path.write_text(json.dumps(told))


def make_model(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Make a random model of an architecture and save it with its family's tokenizer in `folder`."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, special = ARCHITECTURES[name]
    family = FAMILIES[name]
    _family_tokenizer(family, folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    eos, end = (tokenizer.convert_tokens_to_ids(token) for token in (family.eos, family.end))
    config = getattr(transformers, kind)(
        **{
            "vocab_size": 488,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": 0,
            "initializer_range": 0.15,
            **special,
        }
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    # As on the hub: the model stops at its EOS and at what ends a turn.
    model.generation_config.eos_token_id = eos if eos == end else [eos, end]
    model.save_pretrained(folder)
    return folder
