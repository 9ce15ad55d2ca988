"""Speed and memory of a LoRA step on random models of the shapes of 1B and 7B, against a bare loop with peft.

python benchmarks/lora.py          on a GPU
python benchmarks/lora.py --tiny   on any machine, with a model of 20 million parameters: shows that it runs

What a step costs does not depend on the weights. The bare loop is what peft's own examples do: standard LoRA on the
same layers, the whole sequence's logits, transformers' loss. Each runs in a process of its own, so that neither's
memory counts for the other.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from _record import HERE, write_result

STEPS = 12
WARM = 3
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a Llama."""

    width: int
    inner: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    rows: int
    tokens: int


SHAPES = {
    "1B": Shape(width=2048, inner=8192, layers=16, heads=32, groups=8, vocabulary=128_256, rows=8, tokens=512),
    "7B": Shape(width=4096, inner=14_336, layers=32, heads=32, groups=8, vocabulary=32_000, rows=8, tokens=512),
    "tiny": Shape(width=512, inner=1024, layers=6, heads=8, groups=4, vocabulary=8_000, rows=4, tokens=128),
}


def config_of(shape: Shape) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        max_position_embeddings=2048,
    )


def make(shape: Shape) -> tuple[Any, Any]:
    """A random model in the precision of training, and that precision."""
    import torch
    from transformers import AutoModelForCausalLM

    from tiercel.students.precision import bfloat16_is_fast

    dtype = torch.bfloat16 if bfloat16_is_fast() else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype)
    model.config.use_cache = False
    return model, dtype


def token_rows(shape: Shape) -> list[Any]:
    """Rows of one length whose last eighth is the answer."""
    from tiercel.students.slm_rows import TokenRow

    rng = np.random.default_rng(SEED)
    return [
        TokenRow(rng.integers(3, shape.vocabulary, shape.tokens).tolist(), shape.tokens * 7 // 8)
        for _ in range(shape.rows * 4)
    ]


def ours(shape: Shape) -> Any:
    """A step as `train_slm` takes it."""
    from types import SimpleNamespace

    from tiercel.students.slm_adapter import attach_adapter
    from tiercel.students.slm_training import SlmPlan, _Run  # pyright: ignore[reportPrivateUsage]

    model, dtype = make(shape)
    plan = SlmPlan(batch=shape.rows, at_once=shape.rows, epochs=1000)
    model, _ = attach_adapter(model, rank=plan.rank, alpha=plan.alpha, dropout=plan.dropout, four_bits=False)
    base: Any = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=2))
    rows = token_rows(shape)
    run = _Run(model, base, plan, rows, rows[:4], seed=SEED, dtype=dtype)
    return run._train_step  # pyright: ignore[reportPrivateUsage]


def bare(shape: Shape) -> Any:
    """A step as a few lines of peft and torch take it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tiercel.students.slm_rows import pad_rows

    model, dtype = make(shape)
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
    adapted: Any = get_peft_model(model, config)
    adapted.train()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4)
    device = trained[0].device
    ids, mask, labels = (x.to(device) for x in pad_rows(token_rows(shape)[: shape.rows], 0))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = adapted(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def measure(which: str, name: str) -> dict[str, float]:
    """Tokens a second (median step) and peak memory in GB of this process."""
    import torch

    shape = SHAPES[name]
    step = {"ours": ours, "bare": bare}[which](shape)
    taken = list[float]()
    for _ in range(WARM + STEPS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"rate": shape.rows * shape.tokens / float(np.median(taken[WARM:])), "peak": peak}


def apart(which: str, name: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "out.json"
        command = [sys.executable, str(HERE / "lora.py"), "--one", which, name, str(target)]
        subprocess.run(command, check=True)
        return json.loads(target.read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", nargs=3)
    options = parser.parse_args()
    if options.one:
        which, name, target = options.one
        Path(target).write_text(json.dumps(measure(which, name)))
        return
    import torch

    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU, and there is none here; --tiny runs a small model on the CPU")
    table: list[tuple[str, str, str, bool | None]] = []
    for name in ("tiny",) if options.tiny else ("1B", "7B"):
        found = {which: apart(which, name) for which in ("bare", "ours")}
        faster = found["ours"]["rate"] / found["bare"]["rate"]
        for which, told in found.items():
            table.append((f"{name}, {which}", "", f"{told['rate']:,.0f} tokens/s, peak {told['peak']:.2f} GB", None))
        # On a CPU that others use too, the ratio says little.
        good = None if options.tiny else faster >= 0.95
        table.append((f"{name}, ours over bare", "" if options.tiny else ">= 0.95", f"{faster:.2f}", good))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    command = "python benchmarks/lora.py" + (" --tiny" if options.tiny else "")
    notes = f"{where}; medians of {STEPS} steps after {WARM}; peak of the process on a CPU, of the allocator on a GPU."
    if options.tiny:
        notes += " This mode shows that it runs: on a shared CPU the ratio has been from 0.87 to 1.82."
    write_result("lora-tiny" if options.tiny else "lora", command, table, notes)


if __name__ == "__main__":
    main()
