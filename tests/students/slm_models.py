"""Tiny random models of the architectures that the slm rung is for, with tokenizers that are trained here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.engines import tiny_llama
from tests.engines.tiny_llama import TEMPLATE, sentences

__all__ = ["ARCHITECTURES", "BYTE_LEVEL", "make_model", "make_tokenizers"]

SPECIAL = [*tiny_llama.SPECIAL, "<|endoftext|>"]
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
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
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3": ("LlamaConfig", {"rope_parameters": LLAMA_3_ROPE}),
    "Phi-3": ("Phi3Config", {}),
    "Gemma-2": ("Gemma2Config", {**HEADS, "query_pre_attn_scalar": 16, "sliding_window": 256}),
    "Gemma-3": ("Gemma3TextConfig", {**HEADS, "query_pre_attn_scalar": 16, "sliding_window": 256}),
    "Mistral": ("MistralConfig", {}),
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
BYTE_LEVEL = {"Qwen2.5", "Qwen3", "Qwen2-MoE", "Qwen3-MoE", "DeepSeek-V2-MoE", "DeepSeek-V3-MoE"}
"""Architectures whose tokenizers are byte-level BPE; the others have SentencePiece."""


def make_tokenizers(folder: Path) -> Path:
    """Train both kinds of tokenizer into `folder`/sentencepiece and `folder`/byte-level."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    plain, tiny_llama.SPECIAL = tiny_llama.SPECIAL, SPECIAL
    try:
        tiny_llama.make_llama(folder / "sentencepiece")
    finally:
        tiny_llama.SPECIAL = plain
    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bytes_.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<unk>", "<s>", "</s>", *SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bytes_.train_from_iterator([f"{asked} {answer}" for asked, answer in sentences()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder / "byte-level")
    return folder


def make_model(name: str, tokenizers: Path, folder: Path, *, seed: int = 0) -> Path:
    """Make a random model of an architecture and save it with its tokenizer in `folder`."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    kind, special = ARCHITECTURES[name]
    config = getattr(transformers, kind)(
        **{
            "vocab_size": 488,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "initializer_range": 0.15,
            **special,
        }
    )
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    source = tokenizers / ("byte-level" if name in BYTE_LEVEL else "sentencepiece")
    for file in TOKENIZER:
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    # A family's own class would put its own special tokens beside these.
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "tokenizer_class": "TokenizersBackend"}))
    return folder
