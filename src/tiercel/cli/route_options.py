"""What `tiercel route fit` and `tiercel route compare` both read: traffic, models, costs, signals."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from tiercel.cli import options
from tiercel.cli.terminal import TerminalProgress
from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.flows.routing_embedding import KeptEmbeddings
    from tiercel.flows.routing_traffic import Recorded, RecordedTiers, Recording, Surroundings
    from tiercel.routing.signal import Signal

__all__ = [
    "Also",
    "Cache",
    "Database",
    "OpenSource",
    "Rejects",
    "SignalFile",
    "Source",
    "StrongCost",
    "Traffic",
    "WeakCost",
    "names_of",
    "numbers_of",
    "open_embeddings",
    "own_signals",
    "with_source",
]

Traffic = Annotated[
    list[Path], typer.Argument(help="Files of traffic whose rows have `responses` of several models with scores.")
]
WeakCost = Annotated[float | None, typer.Option(help="Cost of a call to it; from the log or price table if left out.")]
StrongCost = Annotated[float | None, typer.Option(help="Cost of a call to it, in the same unit.")]
Also = Annotated[
    str | None,
    typer.Option(help="Models with commas between whose answers are there too, to compare the weak one's with."),
]
SignalFile = Annotated[
    Path | None, typer.Option("--signals", help="A Python file of yours with signals; it is run, so trust it.")
]
Cache = Annotated[Path | None, typer.Option(help="File (.npz) that keeps embeddings between runs.")]
Database = Annotated[
    str | None,
    typer.Option(help="SQLite file or postgresql:// URL on which SQL answers are run, to see whether they do."),
]
Rejects = Annotated[Path | None, typer.Option(help="File for rows that can't be used.")]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Options that say what is read, as they were typed."""

    traffic: Traffic
    weak: Annotated[str | None, typer.Option(help="The cheaper model, by its name in the log or a part of it.")] = None
    strong: Annotated[str | None, typer.Option(help="The dearer model, likewise.")] = None
    ladder: Annotated[
        str | None,
        typer.Option(help="In place of both: models with commas between, cheapest first, such as tiny,small,large."),
    ] = None
    weak_cost: WeakCost = None
    strong_cost: StrongCost = None
    tier_costs: Annotated[
        str | None, typer.Option(help="Cost of a call to each model of --ladder, with commas between.")
    ] = None
    also: Also = None
    window: Annotated[
        int | None, typer.Option(help="Context window of the cheapest model in tokens, to see what fits it.")
    ] = None
    database: Database = None
    signals: SignalFile = None
    use: Annotated[
        str | None,
        typer.Option("--use", help="Names of signals with commas between; all that the traffic allows if left out."),
    ] = None
    encoder: Annotated[
        str | None, typer.Option(help="Pretrained encoder for embeddings: a folder, a name on the hub, or none.")
    ] = None
    cache: Cache = None
    prices: options.Prices = None
    rejects: Rejects = None
    seed: Annotated[int, typer.Option(help="Of splits, folds and trees.")] = 0

    @contextmanager
    def open(self) -> Generator[OpenSource]:
        """Read the traffic and open the encoder, with progress on stderr; what was embedded is kept at the end."""
        from tiercel.flows.routing_embedding import prepare_encoder
        from tiercel.flows.routing_traffic import Surroundings, read_recording
        from tiercel.routing.sql_signals import query_on

        if self.ladder is None and (self.weak is None or self.strong is None):
            raise ConfigurationError("name the models: --weak CHEAP --strong DEAR, or --ladder CHEAP,...,DEAR")
        if self.ladder is not None and (self.weak is not None or self.strong is not None):
            raise ConfigurationError("--ladder names all models; leave out --weak and --strong")
        if self.window is not None and self.window < 1:
            raise ConfigurationError(
                f"--window is {self.window}; give the tokens that the model can read, such as 8192"
            )
        with TerminalProgress() as progress, ExitStack() as stack:
            recording = read_recording(self.traffic, progress, rejects=self.rejects)
            folder = None if self.encoder == "none" else prepare_encoder(self.encoder, progress)
            around = Surroundings(
                embed=open_embeddings(stack, folder, self.cache),
                query=query_on(self.database) if self.database is not None else None,
                window=self.window,
            )
            yield OpenSource(self, recording, around, folder, own_signals(self.signals), progress)


class OpenSource:
    """Traffic that was read, with what signals turn to.

    Args:
        source: the options.
        recording: the traffic.
        around: encoder, database and window.
        encoder: folder of the encoder; None without one.
        own: signals of the user's file, by name.
        progress: on the terminal.
    """

    def __init__(
        self,
        source: Source,
        recording: Recording,
        around: Surroundings,
        encoder: Path | None,
        own: dict[str, type[Signal]],
        progress: TerminalProgress,
    ) -> None:
        self.source, self.around, self.encoder = source, around, encoder
        self.own, self.progress = own, progress
        self._recording = recording

    def _options(self) -> dict[str, Any]:
        from tiercel.providers.prices import PriceTable

        also = names_of(self.source.also) or ()
        return {"surroundings": self.around, "prices": PriceTable(options.price_file(self.source.prices)), "also": also}

    def pair(self) -> Recorded:
        """The rows of --weak and --strong."""
        from tiercel.flows.routing_traffic import pair_of

        s = self.source
        costs = {"weak_cost": s.weak_cost, "strong_cost": s.strong_cost}
        return pair_of(self._recording, s.weak or "", s.strong or "", self.progress, **costs, **self._options())

    def tiers(self) -> RecordedTiers:
        """The rows of all models of --ladder."""
        from tiercel.flows.routing_traffic import tiers_of

        models = names_of(self.source.ladder) or ()
        if len(models) < 2:
            raise ConfigurationError("--ladder needs two models at least, cheapest first, with commas between")
        costs = numbers_of(self.source.tier_costs, "--tier-costs")
        return tiers_of(self._recording, models, self.progress, costs=costs, **self._options())


def with_source(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first parameter is a `Source`, the options of one in its place."""
    hints = get_type_hints(Source, include_extras=True)
    own = inspect.signature(command, eval_str=True)
    shared = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[f.name],
            default=inspect.Parameter.empty if f.name == "traffic" else f.default,
        )
        for f in fields(Source)
    ]
    further = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in list(own.parameters.values())[1:]]

    @wraps(command)
    def run(**given: Any) -> None:
        source = Source(**{p.name: given.pop(p.name) for p in shared})
        command(source, **given)

    parameters = [*shared[:4], *further, *shared[4:]]
    run.__signature__ = own.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__  # or its own signature would be read
    return run


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between; None for none."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip()) or None


def numbers_of(text: str | None, option: str) -> tuple[float, ...] | None:
    """Numbers with commas between; None for none."""
    try:
        found = tuple(float(part) for part in names_of(text) or ())
    except ValueError:
        raise ConfigurationError(f"{option} is {text!r}; give numbers with commas between, such as 0.2,4,20") from None
    return found or None


def own_signals(path: Path | None) -> dict[str, type[Signal]]:
    """The signals of a user's file, by name."""
    from tiercel.routing.signal import load_signal_file

    return load_signal_file(path) if path is not None else {}


def open_embeddings(stack: ExitStack, folder: Path | None, cache: Path | None) -> KeptEmbeddings | None:
    """Embeddings by the encoder of a folder, closed by `stack`; None without one."""
    from tiercel.flows.routing_embedding import KeptEmbeddings, open_encoder

    return None if folder is None else stack.enter_context(KeptEmbeddings(open_encoder(folder), cache))
