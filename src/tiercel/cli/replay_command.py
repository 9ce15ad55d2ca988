"""`tiercel replay`: recorded answers played as a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register", "replay"]


def replay(
    recorded: Annotated[list[Path], typer.Argument(help="Recorded answers in the data contract: .jsonl or .jsonl.gz.")],
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.")] = 8090,
    speed: Annotated[float, typer.Option(help="Recorded latencies are divided by it; inf for none.")] = 1.0,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Of streams; the whole answer when its latency is over when left out.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PROBABILITY",
            help="Play a fault, such as 429=0.1: 429, 500, timeout, half, garbage, slow or reset. May be repeated.",
        ),
    ] = None,
    retry_after: Annotated[float, typer.Option(help="Seconds that a 429 names in Retry-After.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 0,
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="first|echo",
            help="Play the first answer, or the user's own words, where nothing is recorded; 404 when left out.",
        ),
    ] = None,
) -> None:
    """Play recorded answers as a server that speaks OpenAI's chat completions and Anthropic's messages.

    A request gets the answer that was recorded for its messages, tools and response format, or else for its last user
    message, after the recorded latency. A request's header x-tiercel-fault names a fault for it alone. No key is
    checked, and embeddings are hashed words without meaning.
    """
    from tiercel.flows.replaying import replay as run_replay
    from tiercel.providers.faults import parse_faults
    from tiercel.providers.replay import ReplaySettings

    chosen: Any = fallback
    settings = ReplaySettings(
        speed=speed,
        tokens_per_second=tokens_per_second,
        faults=parse_faults(fault or ()),
        seed=seed,
        retry_after_s=retry_after,
        fallback=chosen,
    )
    run_replay(recorded, settings, host, port)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(replay)
