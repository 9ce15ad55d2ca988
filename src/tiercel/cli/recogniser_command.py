"""`tiercel recogniser`: teach a recogniser of names, addresses and other personal data that patterns can't find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import TerminalProgress, print_json
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.flows.span_training import SpanReport

__all__ = ["recogniser", "register"]


def recogniser(
    texts: Annotated[Path, typer.Argument(help="JSON Lines: text, and spans with start, end and type.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("recogniser"),
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Type of the file that counts, and its kind: PERSON=person. Repeat it; all when left out."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Pretrained encoder: a folder, or a name on the hub; all-MiniLM-L6-v2 if none.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="All cores when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of training.")] = 0,
    json_output: options.JsonOutput = False,
) -> None:
    """Teach a recogniser of names and addresses by texts in which they are marked.

    A fifth of the texts is held out to say how well each kind is found. The gateway takes the folder by
    recogniser_folders in [privacy].
    """
    from tiercel.flows.span_training import read_marked, train_spans

    marked = read_marked(texts, None if kind is None else _kinds(kind))
    with TerminalProgress() as progress:
        report = train_spans(marked, out, encoder=encoder, seed=seed, threads=threads, progress=progress)
    if json_output:
        print_json(report)
    else:
        _say(report, out)


def _kinds(pairs: list[str]) -> dict[str, str]:
    kinds = dict[str, str]()
    for pair in pairs:
        name, _, kind = pair.partition("=")
        kind = kind or name.lower()
        if not kind.replace("_", "").isalnum() or kind != kind.lower():
            raise ConfigurationError(f"--kind {pair}: a kind is of lower-case letters, digits and _, such as person")
        kinds[name] = kind
    return kinds


def _say(report: SpanReport, out: Path) -> None:
    print(f"{out}: taught by {report.train:,} texts, measured on {report.held_out:,} others")
    for kind, figures in report.kinds.items():
        recall, precision = figures.recall, figures.precision
        print(
            f"  {kind}: found {recall.value:.1%} [{recall.low:.0%}, {recall.high:.0%}] of {figures.marked:,}; "
            f"{precision.value:.1%} [{precision.low:.0%}, {precision.high:.0%}] of {figures.found:,} are right"
        )
    if report.note:
        print(f"  {report.note}")
    print(f'next: in tiercel.toml, [privacy] recogniser_folders = ["{out}"], and doctor to see that it loads')


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(recogniser)
