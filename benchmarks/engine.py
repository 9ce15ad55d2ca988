"""Decode speed of the in-process engine against the bare library: the same model, the same run, turn and turn about.

python benchmarks/engine.py [MODEL.gguf]

Without a model, a random Llama of 20 million parameters is made: what a token costs does not depend on the weights.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from _record import HERE, write_result
from tiercel.compress.gguf import convert_to_gguf
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import GenerationRequest, collect
from tiercel.types import Message

TOKENS = 128
ROUNDS = 9
SLOTS = 4
# No answer of this grammar ends before its tokens do.
ENDLESS = "root ::= [a-z ] root"


def bare_server(model: Path, threads: int) -> object:
    """xllamacpp as its own documentation starts it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel = 1024 * SLOTS, SLOTS
    params.hostnames, params.port, params.verbosity = ["127.0.0.1"], 0, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def rate(ask: Callable[[], int]) -> float:
    started = time.perf_counter()
    return ask() / (time.perf_counter() - started)


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else made(Path(work))
        threads = 1
        server = bare_server(model, threads)
        with LlamaCppEngine(model, context=1024, slots=SLOTS, threads=threads) as engine:
            table = compare(engine, server)
    write_result("engine", "python benchmarks/engine.py", table, f"Medians of {ROUNDS} rounds of {TOKENS} tokens.")


def made(work: Path) -> Path:
    sys.path.insert(0, str(HERE.parent))
    from tests.engines.tiny_llama import make_llama

    return convert_to_gguf(make_llama(work / "model", width=512, layers=8), work / "model.gguf")


def compare(engine: LlamaCppEngine, server: object) -> list[tuple[str, str, str, bool | None]]:
    messages = (Message(role="user", content="a customer lost the parcel"),)
    request = GenerationRequest(messages=messages, max_tokens=TOKENS, grammar=ENDLESS)
    body = {
        "messages": [{"role": "user", "content": "a customer lost the parcel"}],
        "max_tokens": TOKENS,
        "temperature": 0.0,
        "grammar": ENDLESS,
    }

    def bare() -> int:
        return server.handle_chat_completions(body)["usage"]["completion_tokens"]

    def streamed_bare() -> int:
        chunks: list[dict] = []
        server.handle_chat_completions(
            body | {"stream": True, "stream_options": {"include_usage": True}}, chunks.append
        )
        return chunks[-1]["usage"]["completion_tokens"]

    asks: dict[str, Callable[[], int]] = {
        "bare": bare,
        "engine": lambda: engine.generate(request).output_tokens,
        "bare, streamed": streamed_bare,
        "engine, streamed": lambda: collect(engine.stream(request)).output_tokens,
    }
    rates: dict[str, list[float]] = {name: [] for name in asks}
    for i in range(ROUNDS + 1):
        for name, ask in asks.items():
            found = rate(ask)
            if i:
                rates[name].append(found)
    table: list[tuple[str, str, str, bool | None]] = []
    for kind in ("", ", streamed"):
        own, theirs = (float(np.median(rates[name + kind])) for name in ("engine", "bare"))
        share = own / theirs
        table.append(
            (
                f"tokens/s of one request{kind}",
                ">= 95 % of bare",
                f"{own:.0f} of {theirs:.0f}: {share:.1%}",
                share >= 0.95,
            )
        )
    many = [request] * (SLOTS * 2)
    together = rate(lambda: sum(g.output_tokens for g in engine.generate_many(many)))  # type: ignore[union-attr]
    table.append((f"tokens/s of {len(many)} requests on {SLOTS} slots", "", f"{together:.0f}", None))
    return table


if __name__ == "__main__":
    main()
