"""The check of what budgets rest on: a price for every model that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tiercel.errors import TiercelError
from tiercel.gateway.finding import Finding, counted, found
from tiercel.gateway.sections import Provider, Settings
from tiercel.providers.prices import PriceTable
from tiercel.providers.provider_settings import ProviderSettings

__all__ = ["prices"]


def prices(settings: Settings, *, offline: bool) -> Finding:
    """See that models have prices, where there are budgets to be kept.

    Args:
        settings: the configuration.
        offline: whether keys in a database on another machine are left out.
    """
    budgets = [w.name for w in settings.workloads if w.budget_usd is not None]
    budgets += ["anchors"] if settings.monitor.anchors_budget_usd is not None else []
    budgets += _keys(settings.capture.location, offline=offline)
    if not budgets:
        return found("prices", "ok", "no workload and no key has a budget that would rest on them")
    try:
        from tiercel.gateway.costing import Costing
    except ImportError as error:
        return found("prices", "skipped", f"this installation lacks {error.name}; nothing can be served")
    costing = Costing(PriceTable(settings.costs.prices), 0.0)
    named: dict[str, bool] = {}
    for provider in settings.providers:
        how = ProviderSettings(**provider.upstream())
        for model in _models(provider, settings.frontier.default_model):
            name = costing.sold_as(how, model)
            named[name] = costing.price(name) is not None
    if missing := [name for name, priced in named.items() if not priced]:
        text = f"{counted(len(budgets), 'budget')} would not hold for {', '.join(missing)}, so that such requests are "
        text += "refused; put their prices (0 for what is free) into the CSV file that prices in [costs] names"
        return found("prices", "warning", text)
    text = f"all {counted(len(named), 'model')} of the settings" if named else "the settings name no model"
    return found("prices", "ok", f"{text}; from a budget, a request for one without a price is refused")


def _models(provider: Provider, default: str | None) -> Iterator[str]:
    """Names by which requests lead to the models that the settings name for a provider."""
    if provider.model is not None:
        yield provider.model
        return
    yield from provider.models
    yield from (name for name in provider.only or () if not set(name) & set("*?["))
    if default is not None and provider.takes(default):
        yield default


def _keys(location: str, *, offline: bool) -> list[str]:
    """Ids of keys with a budget; none where the store can't be asked, which another check tells."""
    local = "://" not in location
    if (local and not Path(location).exists()) or (offline and not local):
        return []
    try:
        from tiercel.store.database import open_database
        from tiercel.store.keys import list_keys

        database = open_database(location, migrate=False)
        try:
            return [key.id for key in list_keys(database) if key.budget_usd is not None and key.revoked is None]
        finally:
            database.close()
    except (ImportError, TiercelError):
        return []
