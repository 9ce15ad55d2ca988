"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.errors import ConfigurationError

if TYPE_CHECKING:
    from tiercel.datasets.sources import CsvColumns
    from tiercel.gateway.sections import Settings
    from tiercel.providers.openai_compatible import FrontierSettings

__all__ = [
    "CONFIG_FILE",
    "Config",
    "CsvAnswer",
    "CsvCreated",
    "CsvId",
    "CsvInput",
    "CsvModel",
    "CsvReference",
    "CsvSystem",
    "Format",
    "Frontier",
    "FrontierKeyEnv",
    "FrontierModel",
    "FrontierUrl",
    "JsonOutput",
    "Prices",
    "Store",
    "config_file",
    "csv_columns",
    "frontier_settings",
    "price_file",
    "served_bundles",
    "store_of",
]

CONFIG_FILE = Path("tiercel.toml")

Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="Form of the log: auto, tiercel, litellm, langfuse, openai-stored, openai-eval or openai-batch.",
    ),
]
CsvInput = Annotated[str | None, typer.Option(help="Column of a CSV file with the user's message.")]
CsvAnswer = Annotated[str | None, typer.Option(help="Column with the frontier's answer.")]
CsvSystem = Annotated[str | None, typer.Option(help="Column with the system prompt.")]
CsvReference = Annotated[str | None, typer.Option(help="Column with a verified answer.")]
CsvId = Annotated[str | None, typer.Option(help="Column with the row's id.")]
CsvModel = Annotated[str | None, typer.Option(help="Column with the model's name.")]
CsvCreated = Annotated[str | None, typer.Option(help="Column with the time, ISO 8601 or Unix seconds.")]
Prices = Annotated[
    Path | None,
    typer.Option(
        help="CSV of prices over the table that ships: model,input,cached_input,output; "
        "that of tiercel.toml when left out."
    ),
]
Frontier = Annotated[
    str | None, typer.Option(help="Model that gave the answers, to price them, where the log does not say.")
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="TIERCEL_STORE",
        help="The gateway's store: a file, or postgresql://..., best given in the environment with its password. "
        "That of tiercel.toml when left out, or else tiercel.db.",
    ),
]
Config = Annotated[Path | None, typer.Option(help="File of settings; tiercel.toml of this folder when left out.")]
FrontierUrl = Annotated[
    str | None,
    typer.Option(envvar="TIERCEL_FRONTIER_URL", help="OpenAI-compatible base URL, such as http://127.0.0.1:8000/v1."),
]
FrontierModel = Annotated[
    str | None, typer.Option(envvar="TIERCEL_FRONTIER_MODEL", help="Model to ask for; as requested when left out.")
]
FrontierKeyEnv = Annotated[
    str, typer.Option(help="Environment variable that holds the frontier's key; the key itself is never an option.")
]


def config_file(config: Path | None) -> Path | None:
    """The file of settings: the one that was given, or tiercel.toml of this folder; None where there is none."""
    return config or (CONFIG_FILE if CONFIG_FILE.is_file() else None)


def store_of(store: str | None, config: Path | None) -> str:
    """Path or URL of the gateway's store: the one that was given, or else the one that the file of settings names.

    Raises:
        ConfigurationError: the file is not there, or what it says of the store is wrong.
    """
    return store or _settings(config, "capture").capture.location


def served_bundles(config: Path | None) -> list[Path]:
    """The bundles that the file of settings names.

    Raises:
        ConfigurationError: the file is not there, or what it says of workloads is wrong.
    """
    return [w.bundle for w in _settings(config, "workload").workloads if w.bundle is not None]


def price_file(prices: Path | None) -> Path | None:
    """The file of prices that was given, or else the one that tiercel.toml of this folder names; None for none.

    Raises:
        ConfigurationError: what the file says of costs is wrong.
    """
    return prices or _settings(None, "costs").costs.prices


def _settings(config: Path | None, section: str) -> Settings:
    """One section of the file of settings; what the others say, and whether their secrets are here, does not matter."""
    from tiercel.gateway.settings import read_settings

    return read_settings(config_file(config), only=section)


def csv_columns(
    input_: str | None,
    answer: str | None,
    system: str | None,
    reference: str | None,
    id_: str | None,
    model: str | None,
    created: str | None,
) -> CsvColumns | None:
    """The columns that were named; None when none was."""
    if not any((input_, answer, system, reference, id_, model, created)):
        return None
    from tiercel.datasets.sources import CsvColumns

    if not (input_ and answer):
        raise ConfigurationError("a CSV file needs both --csv-input and --csv-answer")
    return CsvColumns(
        input=input_, answer=answer, system=system, reference=reference, id=id_, model=model, created=created
    )


def frontier_settings(
    url: str | None, model: str | None, key_env: str, *, timeout_s: float = 600.0
) -> FrontierSettings | None:
    """How to reach the frontier; None when no URL was given."""
    if not url:
        return None
    if not 0 < timeout_s < float("inf"):
        raise ConfigurationError(f"--timeout is {timeout_s}; give seconds above 0, such as 600")
    from tiercel.providers.openai_compatible import FrontierSettings

    return FrontierSettings(url=url, model=model, api_key=os.environ.get(key_env) or None, timeout_s=timeout_s)
