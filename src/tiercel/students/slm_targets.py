"""Which weights of a model LoRA can adapt: linear layers of attention and MLP, and experts that lie in one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LoraTargets", "lora_targets"]

_OTHER_SENSES = ("vision", "visual", "audio", "image", "projector")
"""Parts of models that also see or hear; traffic is text."""


@dataclass(frozen=True, kw_only=True)
class LoraTargets:
    """What is adapted.

    Attributes:
        modules: full names of linear layers.
        parameters: full names of tensors of shape (experts, out, in) in which experts lie together.
        sizes: parameters that rank 1 adds to each of them.
        left_out: weights of matrices that LoRA does not reach, by their kind.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    sizes: tuple[int, ...]
    left_out: tuple[str, ...]


def lora_targets(model: Any) -> LoraTargets:
    """The targets in a causal language model; embeddings and the output layer stay as they are."""
    import torch

    output = model.get_output_embeddings()
    modules, parameters = list[str](), list[str]()
    sizes, left_out = list[int](), dict[str, None]()
    for name, module in model.named_modules():
        if module is output or any(sense in name for sense in _OTHER_SENSES):
            continue
        if isinstance(module, torch.nn.Linear):
            modules.append(name)
            sizes.append(module.in_features + module.out_features)
            continue
        if isinstance(module, torch.nn.Embedding):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and own in ("gate_up_proj", "down_proj", "up_proj", "gate_proj"):
                parameters.append(f"{name}.{own}")
                sizes.append(parameter.shape[0] * (parameter.shape[1] + parameter.shape[2]))
            elif parameter.dim() >= 2:
                left_out[f"{name.rpartition('.')[2]}.{own}"] = None
    return LoraTargets(
        modules=tuple(modules), parameters=tuple(parameters), sizes=tuple(sizes), left_out=tuple(left_out)
    )
