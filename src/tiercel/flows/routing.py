"""The stories of `tiercel route`: fit a policy on recorded answers, evaluate it on others, compare routers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.splitting import split_groups
from tiercel.flows.progress import Progress
from tiercel.flows.routing_policy import FORMAT, RoutePolicy, RouteRecord, save_policy
from tiercel.flows.routing_settings import (
    RouteSettings,
    check_settings,
    need_answers,
    need_rows,
    need_surroundings,
    signal_names,
)
from tiercel.flows.routing_table import (
    ANSWER_GATE,
    REQUEST_GATE,
    Router,
    figures_of,
    gate_router,
    pair_summary,
    plain_routers,
)
from tiercel.flows.routing_traffic import Recorded
from tiercel.flows.storage import make_folder, write_file
from tiercel.report.routing_page import render_route_page
from tiercel.report.routing_result import ComparisonResult, GateSummary, Operating, RouteResult
from tiercel.routing.calibration import plan_tests
from tiercel.routing.certificate import Certificate, CertifiedRow, issue_certificate
from tiercel.routing.delegation import DelegationGate, Target
from tiercel.routing.exchange import Exchanges, Outcomes
from tiercel.routing.limit_signals import holds_personal_data
from tiercel.routing.path import MUST_STAY, Decision, Gating, Step, accepted, decide, path_scores, plan_path, step_cost
from tiercel.routing.signal import Signal, Stage, make_signals
from tiercel.stats.intervals import mean_interval
from tiercel.stats.planning import rows_needed

__all__ = ["compare_routers", "evaluate_route", "fit_route"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def compare_routers(
    recorded: Recorded, settings: RouteSettings, progress: Progress, own: Mapping[str, type[Signal]] | None = None
) -> ComparisonResult:
    """Routers side by side, by folds that keep near-duplicates together.

    Raises:
        DataError: too few rows, or a fold without a contrast to learn from.
    """
    own = own or {}
    check_settings(settings)
    need_rows(len(recorded.exchanges))
    embeddings = recorded.exchanges.embed is not None
    routers: dict[str, Router] = plain_routers(embeddings=embeddings)
    answers = any(e.answer is not None for e in recorded.exchanges.items)
    stages = [(REQUEST_GATE, Stage.PRE)] + ([(ANSWER_GATE, Stage.POST)] if answers else [])
    for name, stage in stages:
        names = signal_names(stage, recorded.exchanges, settings, own)
        for target, label in ((Target.ERROR, f"{name}, trained on errors"), (Target.VALUE, name)):
            routers[label] = gate_router(lambda n=names: make_signals(n, own), target, settings.seed)
    parts = split_groups(recorded.groups, [1 / settings.folds] * settings.folds, settings.seed)
    progress.stage(f"Comparing {len(routers)} routers on {settings.folds} folds")
    scores = {name: np.empty(len(recorded.exchanges)) for name in routers}
    _embed_once(recorded)
    for number, held in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(recorded.exchanges)), held)
        train, test = recorded.exchanges.take(rest), recorded.exchanges.take(held)
        for name, route in routers.items():
            scores[name][held] = route(train, recorded.outcomes.take(rest), test)
        progress.step(number + 1, len(parts))
    figures, curves = figures_of(scores, recorded.outcomes, recorded.costs, settings.seed)
    return ComparisonResult(pair=pair_summary(recorded), folds=settings.folds, routers=figures, curves=curves)


def _embed_once(recorded: Recorded) -> None:
    """Compute embeddings of all requests at once, so that parts share them."""
    if recorded.exchanges.embed is not None:
        _ = recorded.exchanges.request_embeddings


def fit_route(
    recorded: Recorded,
    settings: RouteSettings,
    out: Path,
    progress: Progress,
    *,
    encoder: Path | None = None,
    own: Mapping[str, type[Signal]] | None = None,
) -> tuple[RoutePolicy, RouteResult]:
    """Fit gates on one part of the rows, certify their thresholds on the other, write the policy and its report.

    Args:
        recorded: the traffic.
        settings: of the fit.
        out: folder for the policy.
        progress: is told.
        encoder: folder of the encoder behind `recorded.exchanges.embed`.
        own: signals of a user's file, by name.

    Raises:
        DataError: too few rows, no answers to read, or nothing to learn from.
        ConfigurationError: a setting is out of its range.
    """
    own = own or {}
    check_settings(settings)
    need_rows(len(recorded.exchanges))
    need_answers(recorded.exchanges, recorded.weak_model, settings.gating)
    train, rest = split_groups(recorded.groups, [1 - settings.calibration, settings.calibration], settings.seed)
    progress.stage("Fitting gates")
    gates = _fitted_gates(recorded, train, settings, own)
    pre, post = (gates[s].cross_scores_ if s in gates else np.zeros(train.size) for s in ("pre", "post"))
    if settings.keep_private:
        pre = np.where(holds_personal_data(recorded.exchanges.take(train)), MUST_STAY, pre)
    value = recorded.outcomes.value[train]
    path = plan_path(settings.gating, pre, post, recorded.costs, settings.max_loss)
    plan = plan_tests(path_scores(path, pre, post), value, max_loss=settings.max_loss, confidence=settings.confidence)
    record = RouteRecord(
        format=FORMAT,
        weak_model=recorded.weak_model,
        strong_model=recorded.strong_model,
        gating=settings.gating,
        path=path,
        costs=recorded.costs,
        costs_from=recorded.costs_from,
        gates={stage: gate.state().values for stage, gate in gates.items()},
        training_rows=train.size,
        keep_private=settings.keep_private,
    )
    make_folder(out)
    encoder = encoder if any(g.needs_embeddings for g in gates.values()) else None
    policy = save_policy(out, RoutePolicy(record, gates), None, encoder)
    progress.stage("Certifying thresholds")
    judged = recorded.exchanges.take(rest)
    outcomes = recorded.outcomes.take(rest)
    scores = policy.scores(judged)
    rows = _certified_rows(path_scores(path, *scores), outcomes, [recorded.keys[i] for i in rest], settings.seed)
    workload = f"{recorded.weak_model} to {recorded.strong_model}"
    certificate, _ = issue_certificate(plan, rows, workload=workload, policy=policy.record.digest, seed=settings.seed)
    policy = save_policy(out, policy, certificate, encoder)
    plain = _plain_scores(recorded, train, judged)
    result = _result("fit", policy, certificate, recorded, scores, outcomes, plain, settings.seed)
    write_file(out / "result.json", msgspec.json.format(msgspec.json.encode(result), indent=1))
    write_file(out / "report.html", render_route_page(result).encode())
    return policy, result


def _fitted_gates(
    recorded: Recorded, train: Rows, settings: RouteSettings, own: Mapping[str, type[Signal]]
) -> dict[str, DelegationGate]:
    _embed_once(recorded)
    exchanges, outcomes = recorded.exchanges.take(train), recorded.outcomes.take(train)
    gates = dict[str, DelegationGate]()
    for stage in (Stage.PRE, Stage.POST):
        if settings.gating in (Gating.BOTH, Gating(str(stage))):
            names = signal_names(stage, recorded.exchanges, settings, own)
            gates[str(stage)] = DelegationGate(make_signals(names, own), seed=settings.seed).fit(exchanges, outcomes)
    return gates


def _certified_rows(scores: Floats, outcomes: Outcomes, keys: Sequence[str], seed: int) -> tuple[CertifiedRow, ...]:
    order: list[int] = np.random.default_rng(seed).permutation(len(keys)).tolist()
    return tuple(
        CertifiedRow(keys[i], float(scores[i]), float(1 - outcomes.weak[i]), float(1 - outcomes.strong[i]), True)
        for i in order
    )


def _plain_scores(recorded: Recorded, train: Rows, judged: Exchanges) -> dict[str, Floats]:
    routers = plain_routers(embeddings=recorded.exchanges.embed is not None)
    exchanges, outcomes = recorded.exchanges.take(train), recorded.outcomes.take(train)
    return {name: route(exchanges, outcomes, judged) for name, route in routers.items()}


def evaluate_route(
    policy: RoutePolicy, certificate: Certificate, recorded: Recorded, progress: Progress, *, seed: int = 0
) -> RouteResult:
    """A stored policy on other traffic of the same two models.

    Args:
        policy: as loaded.
        certificate: of the policy.
        recorded: the traffic, with the policy's own encoder.
        progress: is told.
        seed: of the bootstrap.
    """
    need_answers(recorded.exchanges, recorded.weak_model, policy.record.gating)
    need_surroundings(policy.gates.values(), recorded.exchanges)
    progress.stage(f"Scoring {len(recorded.exchanges)} rows")
    scores = policy.scores(recorded.exchanges)
    known = {row.key for row in certificate.rows}
    repeated = sum(key in known for key in recorded.keys)
    plain = {
        "random": np.zeros(len(recorded.exchanges)),
        "length": np.array([len(e.request) for e in recorded.exchanges.items], dtype=np.float64),
    }
    result = _result("evaluate", policy, certificate, recorded, scores, recorded.outcomes, plain, seed)
    if not repeated:
        return result
    caution = (
        f"{repeated} of the {len(recorded.exchanges)} rows are rows of the certificate: it is their file, or a part of "
        "it, that the policy was fitted on, and the figures flatter it"
    )
    return msgspec.structs.replace(result, cautions=[*result.cautions, caution])


def _result(
    kind: str,
    policy: RoutePolicy,
    certificate: Certificate,
    recorded: Recorded,
    scores: tuple[Floats, Floats],
    outcomes: Outcomes,
    plain: Mapping[str, Floats],
    seed: int,
) -> RouteResult:
    record = policy.record
    names = {"pre": REQUEST_GATE, "post": ANSWER_GATE}
    own = {names[stage]: s for stage, s in zip(("pre", "post"), scores, strict=True) if stage in policy.gates}
    routers, curves = figures_of({**plain, **own}, outcomes, recorded.costs, seed)
    cost_curve = [
        (step_cost(s, *scores, recorded.costs), _quality(accepted(s, *scores), outcomes)) for s in record.path
    ]
    step = record.step
    operating = _operating(step, scores, outcomes, recorded) if step is not None else None
    return RouteResult(
        kind=kind,
        pair=pair_summary(recorded),
        gating=str(record.gating),
        gates=[
            GateSummary(stage=s, signals=tuple(v["signals"]), combined_by=str(v["choice"]))
            for s, v in record.gates.items()
        ],
        training_rows=record.training_rows,
        judged_rows=outcomes.weak.size,
        max_loss=certificate.plan.max_loss,
        confidence=certificate.plan.confidence,
        statement=certificate.statement,
        step=step,
        operating=operating,
        routers=routers,
        curves=curves,
        cost_curve=cost_curve,
        cautions=_cautions(certificate, outcomes, operating),
        private_share=float((scores[0] == MUST_STAY).mean()) if record.keep_private else None,
    )


def _quality(use: NDArray[np.bool_], outcomes: Outcomes) -> float:
    return float(np.where(use, outcomes.weak, outcomes.strong).mean())


def _operating(step: Step, scores: tuple[Floats, Floats], outcomes: Outcomes, recorded: Recorded) -> Operating:
    found = np.array(decide(step, *scores), dtype=object)
    use = found == Decision.WEAK
    quality = np.where(use, outcomes.weak, outcomes.strong)
    return Operating(
        weak_share=float(use.mean()),
        escalated_share=float((found == Decision.ESCALATED).mean()),
        direct_share=float((found == Decision.STRONG).mean()),
        quality=mean_interval(quality, 0.0, 1.0),
        excess_loss=mean_interval(np.where(use, outcomes.value, 0.0), -1.0, 1.0),
        cost=step_cost(step, *scores, recorded.costs),
        strong_cost=recorded.costs.strong,
    )


def _cautions(certificate: Certificate, outcomes: Outcomes, operating: Operating | None) -> list[str]:
    plan, found = certificate.plan, list[str]()
    gap = float(outcomes.value.mean())
    if gap <= 0:
        found.append("The strong model is no better than the weak one on these rows: there is no gap to recover.")
    if operating is None:
        needed = rows_needed(0.0, plan.max_loss, 1 - plan.confidence)
        if needed is not None and needed > len(certificate.rows):
            found.append(
                f"The certificate has {len(certificate.rows)} rows; a bound of {plan.max_loss:.3g} needs {needed}."
            )
    elif operating.excess_loss.low > plan.max_loss:
        found.append(
            "On these rows the loss is above the bound by more than chance: they are not like the certificate's."
        )
    if 0 < gap <= plan.max_loss:
        found.append("The weak model alone is within the bound on these rows: no gate is needed.")
    return found
