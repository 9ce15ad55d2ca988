"""What an answer costs, and what the frontier's would have cost."""

from __future__ import annotations

from tiercel.gateway.exchange import Exchange
from tiercel.providers.prices import Price, PriceTable, cost_usd
from tiercel.types import Usage

__all__ = ["MOST_TOKENS", "Costing", "about_usage"]

MOST_TOKENS = 2**31 - 1
"""Tokens that one request is reckoned at, whatever its caller or its provider says."""
_BYTES_A_TOKEN = 4
_EXPECTED_OUTPUT = 500
"""Tokens that an answer is reckoned at before it is known, where the request sets no limit."""


class Costing:
    """Prices of models and of this machine's time.

    Args:
        table: of models.
        cpu_hour_usd: for an hour of one core.
        gpu_hour_usd: for an hour of one GPU.
        default_model: of requests that name a workload instead of a model.
    """

    def __init__(
        self, table: PriceTable, cpu_hour_usd: float, gpu_hour_usd: float = 0.0, default_model: str | None = None
    ) -> None:
        self._table = table
        self._cpu_second_usd = cpu_hour_usd / 3600
        self._gpu_second_usd = gpu_hour_usd / 3600
        self._default_model = default_model
        self._known: dict[str, Price | None] = {}

    def price(self, model: str | None) -> Price | None:
        """The price of a model; None where the table does not know it."""
        if model is None:
            return None
        if model not in self._known:
            if len(self._known) > 1_000:  # clients choose these names
                self._known.clear()
            self._known[model] = self._table.find(model)
        return self._known[model]

    def frontier_model(self, exchange: Exchange) -> str | None:
        """The model that answers this request when no student does."""
        asked = (exchange.body or {}).get("model")
        if isinstance(asked, str) and not asked.startswith("tiercel/"):
            return asked
        workload = exchange.workload
        own = workload.desk.bundle.manifest.frontier if workload and workload.desk else None
        return own or self._default_model

    def about(self, exchange: Exchange) -> float:
        """USD that the frontier may take for a request, as far as can be told before; 0 where the price is unknown."""
        price = self.price(self.frontier_model(exchange))
        if price is None:
            return 0.0
        return cost_usd(about_usage(exchange), price)

    def settle_local(self, exchange: Exchange, usage: Usage) -> None:
        """The cost of an answer that was given on this machine."""
        exchange.usage = usage
        exchange.cost_usd = self._local(exchange)
        price = self.price(self.frontier_model(exchange))
        exchange.frontier_cost_usd = None if price is None else cost_usd(usage, price)

    def settle_frontier(self, exchange: Exchange, usage: Usage) -> None:
        """The cost of a provider's answer; time that a student spent on it in vain is added."""
        exchange.usage = usage
        price = self.price(exchange.model) or self.price(self.frontier_model(exchange))
        exchange.frontier_cost_usd = None if price is None else cost_usd(usage, price)
        if exchange.frontier_cost_usd is not None:
            exchange.cost_usd = exchange.frontier_cost_usd + self._local(exchange)

    def _local(self, exchange: Exchange) -> float:
        """USD of this machine's time."""
        on_gpu = exchange.workload is not None and exchange.workload.settings.gpu
        return exchange.compute_s * (self._gpu_second_usd if on_gpu else self._cpu_second_usd)


def about_usage(exchange: Exchange) -> Usage:
    """Tokens that a request may take, from the size of its body and the limit that it sets."""
    body = exchange.body or {}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    choices = body.get("n")
    output = limit if isinstance(limit, int) and limit > 0 else _EXPECTED_OUTPUT
    times = choices if isinstance(choices, int) and choices > 0 else 1
    most = min(output * times, MOST_TOKENS)
    return Usage(input_tokens=exchange.body_bytes // _BYTES_A_TOKEN + 1, output_tokens=most)
