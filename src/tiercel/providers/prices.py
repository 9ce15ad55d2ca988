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

TABLE_DATE = "2025-09"


class Price(Struct, frozen=True, kw_only=True):
    """Price of one model in USD per million tokens."""

    input: float
    cached_input: float
    output: float


def cost_usd(usage: Usage, price: Price) -> float:
    """Cost of one request: cached input tokens at their own price, reasoning tokens as the output that they are."""
    fresh = max(0, usage.input_tokens - usage.cached_input_tokens)
    total = fresh * price.input + usage.cached_input_tokens * price.cached_input + usage.output_tokens * price.output
    return total / 1e6


class PriceTable:
    """Prices by model name; a dated or prefixed name finds the model that it is a version of.

    Args:
        extra: CSV with the columns model, input, output and optionally cached_input, in USD per million tokens. Its
            rows go before the table that ships.

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


def _read(path: Path) -> dict[str, Price]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: dict[str, Price] = {}
    for number, row in enumerate(csv.DictReader(lines), start=2):
        try:
            price = float(row["input"])
            cached = float(row["cached_input"]) if row.get("cached_input") else price
            values = (price, cached, float(row["output"]))
            if not all(math.isfinite(v) and v >= 0 for v in values):
                raise ValueError
            found[row["model"].strip().lower()] = Price(input=price, cached_input=cached, output=values[2])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConfigurationError(
                f"{path}, row {number}: needs model,input,cached_input,output in USD per million tokens, not {row}"
            ) from None
    return found
