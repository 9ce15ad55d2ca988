"""Chat formats of the model families that the slm rung is for: template, special tokens, tokenizer and end token.

The templates are written after each family's public format, in the fewest lines that still write it.
"""

# ruff: noqa: RUF001 - DeepSeek writes its tokens with a wide bar.

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family chats.

    Attributes:
        template: in Jinja.
        signs: special tokens that the prompt of a user's message holds, besides BOS.
        end: token that ends an answer.
        eos: token that the tokenizer names EOS; the model stops at it too.
        bos: token that comes first; None where there is none.
        more: further tokens of the family, such as those of thoughts.
        cut: "sentencepiece", or the pattern that cuts text before byte-level merges: "qwen2", "dbrx", "llama-bpe".
        tokenizer: class that config files of the family name.
        strips: whether its special tokens swallow the blanks behind them.
    """

    template: str
    signs: tuple[str, ...]
    end: str
    eos: str
    bos: str | None = None
    more: tuple[str, ...] = ()
    cut: str = "sentencepiece"
    tokenizer: str = "TokenizersBackend"
    strips: bool = False

    @property
    def bos_in_prompt(self) -> str | None:
        """BOS, where the template writes it."""
        return self.bos if "bos_token" in self.template else None

    @property
    def special(self) -> tuple[str, ...]:
        """All of its special tokens but BOS and EOS."""
        return tuple(dict.fromkeys(t for t in (*self.signs, self.end, *self.more) if t not in (self.bos, self.eos)))


LLAMA_3 = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    signs=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    end="<|eot_id|>",
    eos="<|end_of_text|>",
    bos="<|begin_of_text|>",
    cut="llama-bpe",
    tokenizer="PreTrainedTokenizerFast",
)
PHI_3 = Family(
    template=(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
    ),
    signs=("<|user|>", "<|assistant|>", "<|end|>"),
    end="<|end|>",
    eos="<|endoftext|>",
    bos="<s>",
    # llama.cpp looks for the end token of Llama 2 in every model that is called Phi-3.
    more=("<|system|>", "</s>"),
    tokenizer="LlamaTokenizer",
    strips=True,
)
PHI_4 = Family(
    template=(
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    ),
    signs=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    end="<|im_end|>",
    eos="<|im_end|>",
    bos="<|endoftext|>",
    cut="dbrx",
    tokenizer="GPT2Tokenizer",
)
GEMMA = Family(
    template=(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ bos_token }}{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    signs=("<start_of_turn>", "<end_of_turn>"),
    end="<end_of_turn>",
    eos="<eos>",
    bos="<bos>",
    tokenizer="GemmaTokenizer",
)
_INST = (
    "{{ bos_token }}{% set told = namespace(first='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set told.first = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}[INST]BLANK{{ told.first }}{{ m.content }}[/INST]{% set told.first = '' %}"
    "{% else %}BLANK{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = Family(template=_INST.replace("BLANK", " "), signs=("[INST]", "[/INST]"), end="</s>", eos="</s>", bos="<s>")
MINISTRAL = Family(
    template=_INST.replace("BLANK", ""), signs=("[INST]", "[/INST]"), end="</s>", eos="</s>", bos="<s>", cut="qwen2"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "THOUGHTS{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_2 = Family(
    template=(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        + _CHATML.replace("THOUGHTS", "")
    ),
    signs=("<|im_start|>", "<|im_end|>"),
    end="<|im_end|>",
    eos="<|im_end|>",
    more=("<|endoftext|>",),
    cut="qwen2",
    tokenizer="Qwen2Tokenizer",
)
QWEN_3 = Family(
    template=_CHATML.replace("THOUGHTS", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"),
    signs=("<|im_start|>", "<|im_end|>"),
    end="<|im_end|>",
    eos="<|im_end|>",
    more=("<|endoftext|>", "<think>", "</think>"),
    cut="qwen2",
    tokenizer="Qwen2Tokenizer",
)
DEEPSEEK_2 = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n\n"
        "{% elif m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}"
        "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    signs=(),
    end="<｜end▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    cut="qwen2",
)
DEEPSEEK_3 = Family(
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}{{ eos_token }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
    ),
    signs=("<｜User｜>", "<｜Assistant｜>"),
    end="<｜end▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    cut="qwen2",
)
FAMILIES = {
    "Llama-3": LLAMA_3,
    "Phi-3": PHI_3,
    "Phi-4": PHI_4,
    "Gemma-2": GEMMA,
    "Gemma-3": GEMMA,
    "Mistral": MISTRAL,
    "Mixtral": MISTRAL,
    "Ministral-8B": MINISTRAL,
    "Ministral-3": MINISTRAL,
    "Qwen2.5": QWEN_2,
    "Qwen2-MoE": QWEN_2,
    "Qwen3": QWEN_3,
    "Qwen3-MoE": QWEN_3,
    "DeepSeek-V2-MoE": DEEPSEEK_2,
    "DeepSeek-V3-MoE": DEEPSEEK_3,
}
"""By the names of architectures in `slm_models`."""
