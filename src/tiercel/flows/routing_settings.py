"""What a user may set of a fit or a comparison of routers, and the signals that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.seeds import check_seed
from tiercel.routing.delegation import DelegationGate
from tiercel.routing.exchange import Exchanges
from tiercel.routing.path import Gating
from tiercel.routing.signal import SIGNALS, Cost, Signal, Stage, make_signals

__all__ = ["RouteSettings", "check_settings", "need_answers", "need_rows", "need_surroundings", "signal_names"]

FEWEST_ROWS = 100


class RouteSettings(Struct, frozen=True, kw_only=True):
    """What a user may set of a fit or a comparison."""

    gating: Gating = Gating.BOTH
    max_loss: float = 0.02
    """The bound on the excess loss, in (0, 1)."""
    confidence: float = 0.95
    """Of the certificate, in (0, 1)."""
    calibration: float = 0.4
    """Share of the rows that the certificate rests on."""
    folds: int = 5
    """Of a comparison."""
    seed: int = 0
    signals: tuple[str, ...] | None = None
    """Names of signals to use; None for all that ship and can be computed."""
    answer_embeddings: bool = False
    """Read embeddings of answers too: some milliseconds a request, and rarely better than their words."""
    keep_private: bool = False
    """Whether requests with personal data stay with the cheapest model, whatever the gates say of them."""
    abstention_loss: float | None = None
    """What it costs, in (0, 1), that nobody answers, where a wrong answer costs 1; None always to answer."""


def check_settings(settings: RouteSettings) -> None:
    """Raise `ConfigurationError` for a setting out of its range."""
    for name in ("max_loss", "confidence", "calibration", "abstention_loss"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} must lie between 0 and 1, not {value}")
    check_seed(settings.seed)


def signal_names(
    stage: Stage, exchanges: Exchanges, settings: RouteSettings, own: Mapping[str, type[Signal]]
) -> tuple[str, ...]:
    """The signals of a gate: those that were named, else all that the traffic and the machine can give.

    Args:
        stage: of the gate; one that reads answers reads the request too.
        exchanges: traffic; signals of what it never recorded are left out.
        settings: of the fit.
        own: signals of a user's file.
    """
    chosen = settings.signals or (*SIGNALS, *own)
    found = list[str]()
    for signal in make_signals(chosen, own):
        asked_for = settings.signals is not None or signal.name in own
        if stage == Stage.PRE and signal.stage == Stage.POST:
            continue
        missing = _lacking(signal, exchanges)
        if signal.name == "context_fit" and exchanges.window is None:
            missing = "needs the cheapest model's context window; give --window TOKENS"
        if missing is not None and asked_for:
            raise ConfigurationError(f"the signal {signal.name!r} {missing}")
        if missing is not None or not (asked_for or _worth_it(signal, exchanges, settings)):
            continue
        found.append(signal.name)
    if not found:
        raise ConfigurationError(f"no signal is left for a gate on the {stage} stage; name others")
    return tuple(found)


def need_rows(rows: int) -> None:
    """Raise `DataError` where too few rows are there to fit and to judge."""
    if rows < FEWEST_ROWS:
        raise DataError(
            f"{rows} rows have scored answers of all models, {FEWEST_ROWS} are needed; record more, or name models "
            "that were recorded more often"
        )


def need_answers(exchanges: Exchanges, model: str, gating: Gating) -> None:
    """Raise `DataError` where a gate is to read answers and none was recorded."""
    if gating != Gating.PRE and all(e.answer is None for e in exchanges.items):
        raise DataError(
            f"the answers of {model} are scored but their text was not recorded, and a gate on answers must read them; "
            "use --stage pre"
        )


def need_surroundings(gates: Iterable[DelegationGate], exchanges: Exchanges) -> None:
    """Raise `ConfigurationError` where a fitted gate reads what is not there."""
    for signal in (s for gate in gates for s in gate.signals):
        missing = _lacking(signal, exchanges)
        if missing is not None:
            raise ConfigurationError(f"the policy's signal {signal.name!r} {missing}")


def _lacking(signal: Signal, exchanges: Exchanges) -> str | None:
    """What a signal needs that is not there, and how to get it; None where nothing lacks."""
    if signal.cost == Cost.EMBEDDING and exchanges.embed is None:
        return "reads embeddings, and there is no encoder; run: pip install 'tiercel[train,minilm]'"
    if signal.cost == Cost.DATABASE and exchanges.query is None:
        return "runs the queries of answers, and no database is named; give --database"
    return None


def _worth_it(signal: Signal, exchanges: Exchanges, settings: RouteSettings) -> bool:
    """Whether a signal that nobody named can tell anything here."""
    if signal.name == "logprobs":
        return any(e.logprobs for e in exchanges.items)
    if signal.name == "agreement":
        return any(e.others for e in exchanges.items)
    if signal.name == "answer_reader":
        return settings.answer_embeddings
    return signal.name != "personal_data"
