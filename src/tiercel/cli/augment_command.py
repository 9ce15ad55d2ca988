"""`tiercel augment`: a teacher writes more requests like those that a pilot's student fails on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import TerminalProgress
from tiercel.errors import ConfigurationError, ProviderError

if TYPE_CHECKING:
    from tiercel.flows.augmenting import AugmentCounts

__all__ = ["augment", "register"]


def augment(
    pilot: Annotated[Path, typer.Argument(help="Folder of a finished pilot.")],
    traffic: Annotated[list[Path], typer.Argument(help="The files that the pilot was given.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .jsonl or .jsonl.gz.")],
    rows: Annotated[int, typer.Option(help="Answered requests to write.")] = 200,
    budget: Annotated[
        float | None, typer.Option(help="USD that may be spent on this output, earlier runs included; never exceeded.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="The pilot's file of test rows, where it had one.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a minute, at the most.")] = None,
    samples: Annotated[
        int, typer.Option(help="Ask for so many answers and keep the one that most agree on, one half at least.")
    ] = 1,
    frontier_url: options.FrontierUrl = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--frontier-model",
            "--model",
            envvar="TIERCEL_FRONTIER_MODEL",
            help="Model that writes and answers; the one that the traffic names when left out.",
        ),
    ] = None,
    frontier_key_env: options.FrontierKeyEnv = "TIERCEL_FRONTIER_KEY",
    prices: options.Prices = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, the teacher's reasoning included.")] = 1024,
    temperature: Annotated[float | None, typer.Option(help="Of sampling; the provider's own when left out.")] = None,
    at_once: Annotated[int, typer.Option(help="Requests under way at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 600.0,
    database: Annotated[
        str | None, typer.Option(help="SQLite file or postgresql:// URL that the pilot ran SQL on.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the student; all cores when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of the examples that the teacher is shown.")] = 0,
    json_output: options.JsonOutput = False,
) -> None:
    """Have a teacher write and answer more requests like those that a pilot's student fails on, under a budget.

    Failures are looked for among training and gate rows; what is written repeats no row of the traffic. A pilot on
    the traffic and OUTPUT together trains on these rows and measures on none of them. A run that was cut off goes on
    where it stood. Exit code 3 when the budget ended first, 1 when the provider failed.
    """
    from tiercel.flows.augmenting import AugmentSettings, augment_file
    from tiercel.flows.labelling import LabelSettings

    frontier = options.frontier_settings(frontier_url, model, frontier_key_env, timeout_s=timeout)
    if frontier is None:
        raise ConfigurationError("augment needs a teacher; give --frontier-url, such as https://api.openai.com/v1")
    settings = AugmentSettings(
        rows=rows,
        asking=LabelSettings(
            frontier=frontier,
            budget=budget,
            rate=rate,
            samples=samples,
            prices=options.price_file(prices),
            max_tokens=max_tokens,
            temperature=temperature,
            at_once=at_once,
            seed=seed,
        ),
        test=test,
        database=database,
        threads=threads,
    )
    with TerminalProgress() as progress:
        counts = augment_file(pilot, traffic, output, settings, progress)
    if json_output:
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(counts), indent=2).decode() + "\n")
    else:
        _say(counts, traffic, output, budget)
    if counts.out_of_money:
        raise typer.Exit(3)
    if (told := counts.labels.nothing_usable()) is not None:
        raise ProviderError(told, provider=frontier.host)
    if counts.labels.failed:
        raise typer.Exit(1)


def _say(counts: AugmentCounts, traffic: list[Path], output: Path, budget: float | None) -> None:
    from tiercel.report.verdict import percent, usd

    print(f"{counts.kept:,} of {counts.wanted:,} rows written to {output}")
    print(f"  the student fails on {counts.failures:,} of {counts.looked_at:,} training and gate rows:")
    for group in counts.groups:
        print(
            f"  {group.name}: {group.failures:,} failures, {percent(group.share_of_loss)} of the loss; "
            f"{group.kept:,} of {group.wanted:,} rows"
        )
    refused = ", ".join(f"{times:,} {reason}" for reason, times in counts.refused.items() if times)
    print(f"  {counts.written:,} requests written" + (f", not taken: {refused}" if refused else ""))
    if counts.labels.rejects:
        print(f"  answers that can't be used: {counts.labels.rejects}")
    if counts.labels.spent_usd is not None:
        print(f"  spent: {usd(counts.labels.spent_usd)}")
    if counts.out_of_money:
        print(f"the budget of {usd(budget or 0.0)} ended; next: the same command with a larger --budget")
    elif counts.labels.failed:
        print("next: the same command asks what was not answered again")
    elif counts.kept:
        print(f"next: tiercel pilot {' '.join(map(str, traffic))} {output}")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(augment)
