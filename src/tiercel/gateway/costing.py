"""What an answer costs, and what the frontier's would have cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tiercel.gateway.exchange import ApiError, Exchange
from tiercel.providers.prices import Price, PriceTable, cost_usd
from tiercel.providers.provider_settings import ProviderSettings
from tiercel.providers.tokens import images_in
from tiercel.store.entries import Api
from tiercel.types import Usage

__all__ = ["MOST_TOKENS", "Costing", "about_usage"]

MOST_TOKENS = 2**31 - 1
"""Tokens that one request is reckoned at, whatever its caller or its provider says."""
_BYTES_A_TOKEN = 4
_EXPECTED_OUTPUT = 500
"""Tokens that an answer is reckoned at before it is known, where the request sets no limit."""
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""Fields in which the dialects limit an answer's tokens."""
_NO_PRICE = (
    "there is no price for the model {model!r}, and a request that is paid from a budget needs one; put it into the "
    "CSV file that `prices` in [costs] names, or keep such names from the provider with its `only`"
)


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
        if exchange.requested is not None and not exchange.requested.startswith("tiercel/"):
            return exchange.requested
        workload = exchange.workload
        own = workload.desk.bundle.manifest.frontier if workload and workload.desk else None
        return own or self._default_model

    def sold_as(self, provider: ProviderSettings, model: str) -> str:
        """The name by which a provider's price for a model is found, or the provider's own where there is none.

        A name that the configuration gives another one, such as that of a deployment, tells the price too. One that a
        caller chose does not, where the provider is asked for something else.
        """
        own = provider.named(model)
        mapped = provider.model is None and model in provider.models
        return model if mapped and self.price(own) is None and self.price(model) is not None else own

    def about(self, model: str | None, providers: Iterable[ProviderSettings], expected: Usage) -> float:
        """USD that a request may take, as far as can be told before, from the dearest of those that may be asked.

        Raises:
            ApiError: one of them has no known price, so that no budget could hold.
        """
        dearest = 0.0
        for provider in providers:
            if name := self.sold_as(provider, model or ""):
                if (price := self.price(name)) is None:
                    raise ApiError(400, _NO_PRICE.format(model=name), code="model_without_price", param="model")
                dearest = max(dearest, cost_usd(expected, price))
        return dearest

    def settle_local(self, exchange: Exchange, usage: Usage) -> None:
        """The cost of an answer that was given on this machine."""
        exchange.usage = usage
        exchange.cost_usd = self._local(exchange)
        price = self.price(self.frontier_model(exchange))
        exchange.frontier_cost_usd = None if price is None else cost_usd(usage, price)

    def settle_frontier(self, exchange: Exchange, usage: Usage) -> None:
        """The cost of a provider's answer; time that a student spent on it in vain is added."""
        exchange.usage = usage
        price = self.price(exchange.model) or self.price(exchange.priced_as)
        exchange.frontier_cost_usd = None if price is None else cost_usd(usage, price)
        if exchange.frontier_cost_usd is not None:
            exchange.cost_usd = exchange.frontier_cost_usd + self._local(exchange)

    def _local(self, exchange: Exchange) -> float:
        """USD of this machine's time."""
        on_gpu = exchange.workload is not None and exchange.workload.settings.gpu
        return exchange.compute_s * (self._gpu_second_usd if on_gpu else self._cpu_second_usd)


def about_usage(api: Api, body: dict[str, Any], size: int) -> Usage:
    """Tokens that a request may take, from the size of its body, its images and the limit that it sets.

    Args:
        api: of the request.
        body: as it came.
        size: bytes of it.
    """
    images = [image for name in ("messages", "input") for image in images_in(body.get(name))]
    text = max(0, size - sum(image.size for image in images))
    inputs = text // _BYTES_A_TOKEN + 1 + sum(image.tokens for image in images)
    if api == "embeddings":
        return Usage(input_tokens=min(inputs, MOST_TOKENS))
    limit = max((_number(body.get(name)) for name in _LIMITS), default=0) or _EXPECTED_OUTPUT
    times = max(1, _number(body.get("n")), _number(body.get("best_of")))
    return Usage(input_tokens=min(inputs, MOST_TOKENS), output_tokens=min(limit * times, MOST_TOKENS))


def _number(value: Any) -> int:
    """A whole number of a request, which some clients write as a float; 0 for anything else."""
    return int(min(value, MOST_TOKENS)) if isinstance(value, int | float) and value > 0 else 0
