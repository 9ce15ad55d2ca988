"""The decoder of the micro rung: a small Llama (RMSNorm, RoPE, grouped-query attention, SwiGLU), one dial: its size.

Names of its parameters are those of Hugging Face's Llama, so that its folder is read by `AutoModelForCausalLM` and by
whatever converts Llamas. Training uses this code since it is short, computes logits only where a loss is, and costs
little beside the matrix products, which counts where those are small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiercel.errors import BundleError, ConfigurationError

__all__ = ["GRAIN", "KeyValues", "MicroDecoder", "MicroShape", "load_decoder", "save_decoder"]

GRAIN = 8
"""Lengths of training's batches are multiples of it."""
_HEAD = 32
_SMALLEST = 50_000

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, shape (b, heads, t, head width)."""


@dataclass(frozen=True, kw_only=True)
class MicroShape:
    """Sizes of a decoder.

    Attributes:
        vocabulary: tokens.
        width: of the residual stream.
        depth: layers.
        heads: of queries, each 32 wide.
        groups: heads of keys and values.
        inner: width of the gated layer.
        context: tokens of request and answer together.
        answer: tokens of an answer, its end included; the request gets the rest.
        window: tokens back that a token sees; None for all.
        rope: base of the rotary angles; short contexts do better with a small one.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    groups: int
    inner: int
    context: int
    answer: int
    window: int | None = None
    rope: float = 10_000.0

    @classmethod
    def of_size(
        cls,
        size: int,
        *,
        vocabulary: int,
        context: int,
        answer: int,
        window: int | None = None,
        rope: float = 10_000.0,
    ) -> MicroShape:
        """The shape with at most `size` parameters, embeddings included.

        Depth goes with width at about 1 : 40, between 4 and 8: a layer fewer and copying, which takes two layers that
        work together, is learnt late.

        Raises:
            ConfigurationError: the vocabulary alone is larger than `size` allows.
        """
        fitting = list[MicroShape]()
        for width in range(_HEAD, 1025, _HEAD):
            heads = width // _HEAD
            usual = min(8, max(4, round(width / 40)))
            for depth in (usual, usual + 1):
                shape = cls(
                    vocabulary=vocabulary,
                    width=width,
                    depth=depth,
                    heads=heads,
                    groups=max(g for g in range(1, max(1, heads // 2) + 1) if heads % g == 0),
                    inner=_HEAD * math.ceil(width * 8 / 3 / _HEAD),
                    context=context,
                    answer=answer,
                    window=window,
                    rope=rope,
                )
                if shape.parameters <= size:
                    fitting.append(shape)
        if size < _SMALLEST or not fitting:
            raise ConfigurationError(
                f"a decoder of {size:,} parameters has no room for {vocabulary:,} tokens; give a larger --micro-size"
            )
        return max(fitting, key=lambda shape: shape.parameters)

    @property
    def parameters(self) -> int:
        """Parameters in all; the output shares the embeddings of the input."""
        attention = 2 * self.width * (self.heads + self.groups) * _HEAD
        return (self.vocabulary + 1 + 2 * self.depth) * self.width + self.depth * (
            attention + 3 * self.width * self.inner
        )

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters: {self.depth} layers, width {self.width}, "
            f"{self.heads} heads over {self.groups}, {self.vocabulary:,} tokens, context {self.context:,}"
        )


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-5)


class _Attention(nn.Module):
    def __init__(self, shape: MicroShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.heads * _HEAD, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.groups * _HEAD, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.groups * _HEAD, bias=False)
        self.o_proj = nn.Linear(shape.heads * _HEAD, shape.width, bias=False)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        b, t, _ = x.shape
        weights = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        mixed = functional.linear(x, weights).view(b, t, -1, _HEAD).transpose(1, 2)
        rotating = self.shape.heads + self.shape.groups
        rotated = _rotate(mixed[:, :rotating], angles)
        q, k, v = rotated[:, : self.shape.heads], rotated[:, self.shape.heads :], mixed[:, rotating:]
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        found = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.shape.groups != self.shape.heads
        )
        return self.o_proj(found.transpose(1, 2).reshape(b, t, -1)), (k, v)


class _Gated(nn.Module):
    def __init__(self, shape: MicroShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, shape: MicroShape) -> None:
        super().__init__()
        self.self_attn = _Attention(shape)
        self.mlp = _Gated(shape)
        self.input_layernorm = _Norm(shape.width)
        self.post_attention_layernorm = _Norm(shape.width)


class _Stack(nn.Module):
    def __init__(self, shape: MicroShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.depth))
        self.norm = _Norm(shape.width)


class MicroDecoder(nn.Module):
    """The decoder.

    Args:
        shape: its sizes.
        dropout: share of values dropped after embeddings, attention and gated layer in training.
        twins: the last tokens of the vocabulary and those whose embeddings they share but for one vector that says
            "after a space"; what a model learns of copying one, it then knows of the other. None shares nothing.
    """

    def __init__(
        self, shape: MicroShape, *, dropout: float = 0.0, twins: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.model = _Stack(shape)
        self.shared: Tensor | None
        self.register_buffer("shared", torch.tensor([other for _, other in twins]) if twins else None, persistent=False)
        if twins:
            first = shape.vocabulary - len(twins)
            assert [t for t, _ in twins] == list(range(first, shape.vocabulary))
            self.model.embed_tokens = nn.Embedding(first, shape.width)
            self.after_space = nn.Parameter(torch.zeros(shape.width))
        self._angles: tuple[Tensor, Tensor] | None = None
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                # A layer starts by adding nothing: what a token is stays readable above, which copying needs.
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def forward(
        self, ids: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None, past: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Last hidden states of shape (b, t, d), and keys and values for a next call.

        Args:
            ids: tokens, shape (b, t).
            mask: True where a token may look, shape (b, 1, t, keys); None for causal attention without padding before
                a text (padding behind it does no harm).
            positions: of the tokens, shape (b, t); None counts from 0.
            past: what an earlier call returned.
        """
        if past and mask is None:
            raise ValueError("tokens that follow others need a mask")
        if mask is None and self.shape.window is not None:
            at = torch.arange(ids.shape[1], device=ids.device)
            mask = ((at[:, None] >= at) & (at[:, None] - at < self.shape.window))[None, None]
        angles = self._rotation(ids, positions)
        x = self._dropped(functional.embedding(ids, self.embeddings()))
        kept: KeyValues = []
        for i, layer in enumerate(self.model.layers):
            assert isinstance(layer, _Layer)
            found, pair = layer.self_attn(layer.input_layernorm(x), angles, mask, past[i] if past else None)
            x = x + self._dropped(found)
            x = x + self._dropped(layer.mlp(layer.post_attention_layernorm(x)))
            kept.append(pair)
        return self.model.norm(x), kept

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of shape (..., v) for hidden states of shape (..., d)."""
        return functional.linear(hidden, self.embeddings())

    def embeddings(self) -> Tensor:
        """Embeddings of all tokens, shape (v, d)."""
        weight = self.model.embed_tokens.weight
        return weight if self.shared is None else torch.cat([weight, weight[self.shared] + self.after_space])

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, training=self.training) if self.dropout else x

    def _rotation(self, ids: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._angles is None or self._angles[0].device != ids.device:
            steps = self.shape.rope ** -(torch.arange(0, _HEAD, 2, device=ids.device).float() / _HEAD)
            # Padding may reach a little beyond the context.
            turned = torch.arange(self.shape.context + GRAIN, device=ids.device).float()[:, None] * steps.repeat(2)
            self._angles = turned.cos(), turned.sin()
        cos, sin = self._angles
        if positions is None:
            return cos[: ids.shape[1]], sin[: ids.shape[1]]
        return cos[positions][:, None], sin[positions][:, None]


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * angles[0].to(x.dtype) + torch.cat([-b, a], dim=-1) * angles[1].to(x.dtype)


def save_decoder(decoder: MicroDecoder, folder: Path, *, begin: int, end: int) -> None:
    """Write config.json, generation_config.json and model.safetensors, as Hugging Face's Llama has them.

    Args:
        decoder: to be stored, in float32.
        folder: takes the files; the tokenizer's lie beside them.
        begin: id of the token that begins a text.
        end: id of the token that ends an answer.
    """
    from safetensors.torch import save_file

    shape = decoder.shape
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "head_dim": _HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "float32",
    }
    if shape.window is not None:
        config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": shape.window}
    generation = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end, "do_sample": False}
    generation["max_new_tokens"] = shape.answer
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
    weights = dict(decoder.model.named_parameters(prefix="model")) | {"model.embed_tokens.weight": decoder.embeddings()}
    weights = {n: p.detach().float().cpu().contiguous() for n, p in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_decoder(folder: Path) -> MicroDecoder:
    """The decoder that `save_decoder` wrote, in evaluation mode.

    Raises:
        BundleError: a file is missing, damaged or of another model.
    """
    from safetensors.torch import load_file

    try:
        config, generation = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("config", "generation_config")
        )
        shape = MicroShape(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            groups=config["num_key_value_heads"],
            inner=config["intermediate_size"],
            context=config["max_position_embeddings"],
            answer=generation["max_new_tokens"],
            window=config.get("sliding_window"),
            rope=config["rope_theta"],
        )
        decoder = MicroDecoder(shape)
        decoder.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # safetensors and torch have many errors for a damaged file
        raise BundleError(f"{folder}: no decoder of the micro rung ({error}); train the student again") from None
    return decoder.eval()
