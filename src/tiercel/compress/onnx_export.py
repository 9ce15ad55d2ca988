"""A torch encoder as an ONNX file: full precision, or int8 weights with activations quantised row by row.

Int8 by onnxruntime's `quantize_dynamic` scales activations by the whole batch, so that a request's embedding changes
with its neighbours (by up to 0.14 in an entry, measured) and with it the certified answer. Blockwise quantisation
(`MatMulNBits`, 8 bits) scales each row by itself: the same answer alone or in a batch, and a closer one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tiercel.errors import MissingExtraError

__all__ = ["export_encoder", "export_tagger", "quantise_encoder", "smallest_precision"]

S = TypeVar("S")

REQUIRED_AGREEMENT = 0.995
"""Share of rows on which a served model must answer as the trained one."""
BLOCK = 16
"""Weights that share one scale."""


def export_encoder(trainer: Any, path: Path) -> None:
    """Write the encoder of an `EncoderTrainer` with mean pooling: `input_ids`, `attention_mask` to `embedding`.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    _export(trainer, trainer.embed_ids, path, ["input_ids", "attention_mask"], "embedding", {0: "rows"})


def export_tagger(trainer: Any, path: Path) -> None:
    """Write the encoder of a `TaggerTrainer`: `input_ids`, `attention_mask`, `cases` to `hidden`.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    inputs = ["input_ids", "attention_mask", "cases"]
    _export(trainer, trainer.hidden, path, inputs, "hidden", {0: "rows", 1: "tokens"})


def _export(
    trainer: Any, compute: Callable[..., Any], path: Path, inputs: list[str], output: str, output_axes: dict[int, str]
) -> None:
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import torch
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "train") from None

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = trainer.model
            self.head = getattr(trainer, "tagger", None)

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return compute(*given)

    graph = Graph().eval().cpu()
    ids = torch.randint(5, 100, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    sample = {"input_ids": ids, "attention_mask": mask, "cases": torch.ones_like(ids)}
    axes = {name: {0: "rows", 1: "tokens"} for name in inputs} | {output: output_axes}
    aside = path.with_suffix(".part")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(sample[name] for name in inputs),
            str(aside),
            input_names=inputs,
            output_names=[output],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    aside.replace(path)
    graph.to(trainer.device)


def quantise_encoder(source: Path, path: Path) -> None:
    """Write `source` with int8 weights in its matrix products and a half-precision embedding table.

    Raises:
        MissingExtraError: onnx or onnx-ir is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "train") from None
    logging.getLogger(nbits.__name__).setLevel(logging.WARNING)
    model = onnx.load(str(source))
    settings = nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=8)
    quantiser = nbits.MatMulNBitsQuantizer(model, algo_config=settings)
    quantiser.process()
    small: Any = quantiser.model.model  # pyright: ignore[reportAttributeAccessIssue]
    _halve_tables(small)
    aside = path.with_suffix(".part")
    onnx.save_model(small, str(aside))
    aside.replace(path)


def smallest_precision(
    full: Path, target: Path, build: Callable[[str], S], agreement: Callable[[S], float]
) -> tuple[S, str, float, str]:
    """The student in int8 where it answers as the trained one, else in full precision.

    Args:
        full: the model in full precision; it is used up.
        target: takes the model that is kept.
        build: the student that serves `target`, from the name of its precision.
        agreement: share of rows on which a student answers as the trained model does.

    Returns:
        The student, its precision, its agreement, and a note where int8 was not good enough.
    """
    quantise_encoder(full, target)
    student = build("int8")
    agreed = agreement(student)
    if agreed >= REQUIRED_AGREEMENT:
        full.unlink()
        return student, "int8", agreed, ""
    full.replace(target)
    student = build("fp32")
    note = f"int8 agreed on only {agreed:.2%} of rows, {REQUIRED_AGREEMENT:.1%} are needed: fp32 is kept"
    return student, "fp32", agreement(student), note


def _halve_tables(model: Any) -> None:
    """Store tables that are only looked up (token embeddings) in float16, and widen what is looked up."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for i, table in enumerate(graph.initializer):
        nodes = users.get(table.name, [])
        if table.data_type != TensorProto.FLOAT or not nodes or any(n.op_type != "Gather" for n in nodes):
            continue
        if any(n.input[0] != table.name for n in nodes):
            continue
        half = numpy_helper.to_array(table).astype(np.float16)
        graph.initializer[i].CopyFrom(numpy_helper.from_array(half, table.name))
        for node in nodes:
            wide = node.output[0]
            node.output[0] = f"{wide}_half"
            at = list(graph.node).index(node) + 1
            graph.node.insert(at, helper.make_node("Cast", [f"{wide}_half"], [wide], to=TensorProto.FLOAT))
