"""What tokens cost: the table that ships, a user's file over it, and the cost of one request."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

from msgspec import Struct

from tiercel.errors import ConfigurationError
from tiercel.types import Usage

__all__ = ["TABLE_DATE", "Price", "PriceTable", "cost_usd"]

TABLE_DATE = "2025-09 to 2026-11"
_WRITTEN = ("cache_write", "cache_write_1h")


class Price(Struct, frozen=True, kw_only=True):
    """Price of one model in USD per million tokens."""

    input: float
    cached_input: float
    """Of input that is read from the provider's prompt cache."""
    output: float
    cache_write: float | None = None
    """Of input that is written to it; None where that costs what input costs."""
    cache_write_1h: float | None = None
    """Of input that is written to it for an hour; None where that costs what input costs."""


def cost_usd(usage: Usage, price: Price) -> float:
    """Cost of one request: each part of its input at its own price, reasoning tokens as the output that they are."""
    written, written_1h = usage.cache_write_tokens, usage.cache_write_1h_tokens
    fresh = max(0, usage.input_tokens - usage.cached_input_tokens - written - written_1h)
    total = fresh * price.input + usage.cached_input_tokens * price.cached_input + usage.output_tokens * price.output
    total += written * (price.input if price.cache_write is None else price.cache_write)
    total += written_1h * (price.input if price.cache_write_1h is None else price.cache_write_1h)
    return total / 1e6


class PriceTable:
    """Prices by model name; a dated or prefixed name finds the model that it is a version of.

    A name with a colon is a model of its own: OpenAI sells what was fine-tuned (`ft:gpt-4o:...`) at other prices than
    what it was made from, OpenRouter its variants (`openai/gpt-4o:online`) with fees, or from other providers.

    Args:
        extra: CSV with the columns model, input, output and optionally cached_input, cache_write and cache_write_1h,
            in USD per million tokens. Its rows go before the table that ships.

    Raises:
        ConfigurationError: the file is missing, or a row of it is not a price.
    """

    def __init__(self, extra: Path | None = None) -> None:
        self.prices = _read(Path(__file__).with_name("prices.csv"))
        if extra is not None:
            if not extra.is_file():
                raise ConfigurationError(f"{extra}: no such price file; check --prices")
            self.prices |= _read(extra)

    def find(self, model: str | None) -> Price | None:
        """The price of `model`, or None when the table does not know it."""
        if not model:
            return None
        name = model.lower()
        for candidate in (name, name.rpartition("/")[2]):
            if candidate in self.prices:
                return self.prices[candidate]
            # gpt-4o-2024-11-20, claude-sonnet-4-20250514, mistral-large-latest, gemini-2.5-pro-preview-06-05
            plain = re.sub(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-\d{4}|-latest|-preview(-[\d-]+)?|@\d+)$", "", candidate)
            if plain in self.prices:
                return self.prices[plain]
        return None


def _amount(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return value


def _read(path: Path) -> dict[str, Price]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: dict[str, Price] = {}
    for number, row in enumerate(csv.DictReader(lines), start=2):
        try:
            price, output = _amount(row["input"]), _amount(row["output"])
            cached, *written = (_amount(row[name]) if row.get(name) else None for name in ("cached_input", *_WRITTEN))
            found[row["model"].strip().lower()] = Price(
                input=price,
                cached_input=price if cached is None else cached,
                output=output,
                **dict(zip(_WRITTEN, written, strict=True)),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConfigurationError(
                f"{path}, row {number}: needs model,input,cached_input,output in USD per million tokens, not {row}"
            ) from None
    return found
