"""The stories of `tiercel route` for ladders: three and more models, or a last tier of saying nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.splitting import split_groups
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.ladder_policy import FORMAT, HOPELESS, LadderPolicy, LadderRecord, save_ladder, tier_gate
from tiercel.flows.progress import Progress
from tiercel.flows.routing_settings import (
    RouteSettings,
    check_settings,
    need_answers,
    need_rows,
    need_surroundings,
    signal_names,
)
from tiercel.flows.routing_traffic import RecordedTiers
from tiercel.flows.storage import make_folder, write_file
from tiercel.report.ladder_page import render_ladder_page
from tiercel.report.ladder_result import LadderOperating, LadderResult, ShorterLadder, TierSummary
from tiercel.report.routing_result import GateSummary
from tiercel.routing.curves import Costs, router_figures
from tiercel.routing.delegation import DelegationGate, Target
from tiercel.routing.exchange import Outcomes
from tiercel.routing.ladder import (
    ABSTAINED,
    NEVER,
    asked_shares,
    certify_ladder,
    ladder_costs,
    ladder_losses,
    plan_ladder,
    tiers_chosen,
)
from tiercel.routing.ladder_certificate import LadderCertificate, LadderRow, issue_ladder
from tiercel.routing.limit_signals import holds_personal_data
from tiercel.routing.path import MUST_STAY, Gating
from tiercel.routing.signal import Signal, Stage, make_signals
from tiercel.stats.intervals import mean_interval

__all__ = ["evaluate_ladder", "fit_ladder"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def fit_ladder(
    recorded: RecordedTiers,
    settings: RouteSettings,
    out: Path,
    progress: Progress,
    *,
    encoder: Path | None = None,
    own: Mapping[str, type[Signal]] | None = None,
) -> tuple[LadderPolicy, LadderResult]:
    """Fit the gates of a ladder on one part of the rows, certify its thresholds on the other, write policy and report.

    Args:
        recorded: the traffic.
        settings: of the fit; its gating is pre or post.
        out: folder for the policy.
        progress: is told.
        encoder: folder of the encoder behind the exchanges' embeddings.
        own: signals of a user's file, by name.

    Raises:
        DataError: too few rows, no answers to read, or nothing to learn from.
        ConfigurationError: a setting is out of its range.
    """
    check_settings(settings)
    if settings.gating == Gating.BOTH:
        raise ConfigurationError("a ladder has one gate a tier: --stage is pre or post")
    need_rows(len(recorded.keys))
    for model, exchanges in zip(recorded.models, recorded.exchanges, strict=False):
        need_answers(exchanges, model, settings.gating)
    train, rest = split_groups(recorded.groups, [1 - settings.calibration, settings.calibration], settings.seed)
    gates = _fitted_gates(recorded, train, settings, own or {}, progress)
    inside = np.column_stack([gates[tier_gate(t)].cross_scores_ for t in range(len(recorded.exchanges))])
    if settings.keep_private:
        inside[holds_personal_data(recorded.exchanges[0].take(train))] = MUST_STAY
    abstention = settings.abstention_loss
    climbs = settings.gating == Gating.POST
    plan = plan_ladder(
        inside,
        1 - recorded.scores[train],
        recorded.costs,
        max_loss=settings.max_loss,
        confidence=settings.confidence,
        # An answer that is wrong with a higher probability than abstaining costs is worse than none.
        abstain=NEVER if abstention is None else abstention,
        hopeless=gates[HOPELESS].cross_scores_ if HOPELESS in gates else None,
        abstention_loss=1.0 if abstention is None else abstention,
        climbs=climbs,
    )
    record = LadderRecord(
        format=FORMAT,
        tiers=recorded.models,
        gating=settings.gating,
        costs=recorded.costs,
        costs_from=recorded.costs_from,
        gates={name: gate.state().values for name, gate in gates.items()},
        plan=plan,
        training_rows=train.size,
        keep_private=settings.keep_private,
    )
    make_folder(out)
    encoder = encoder if any(g.needs_embeddings for g in gates.values()) else None
    policy = save_ladder(out, LadderPolicy(record, gates), None, encoder)
    progress.stage("Certifying thresholds")
    scores, hopeless = policy.scores([e.take(rest) for e in recorded.exchanges])
    rows = _certified_rows(recorded, rest, scores, hopeless, settings.seed)
    certificate = issue_ladder(plan, rows, tiers=recorded.models, policy=policy.record.digest, seed=settings.seed)
    policy = save_ladder(out, policy, certificate, encoder)
    shorter = _shorter(recorded, train, rest, inside, scores, settings) if abstention is None else []
    result = _result("fit", policy, recorded, rest, scores, hopeless, certificate, shorter, settings.seed)
    write_file(out / "result.json", msgspec.json.format(msgspec.json.encode(result), indent=1))
    write_file(out / "report.html", render_ladder_page(result).encode())
    return policy, result


def _fitted_gates(
    recorded: RecordedTiers,
    train: Rows,
    settings: RouteSettings,
    own: Mapping[str, type[Signal]],
    progress: Progress,
) -> dict[str, DelegationGate]:
    stage = Stage(str(settings.gating))
    last = recorded.scores[train, -1]
    gates = dict[str, DelegationGate]()
    jobs = [(tier_gate(t), t, Target.VALUE) for t in range(len(recorded.exchanges))]
    if settings.abstention_loss is not None:
        # It reads what is there for every request: the first tier's answer.
        jobs.append((HOPELESS, 0, Target.ERROR))
    progress.stage(f"Fitting {len(jobs)} gates")
    for number, (name, tier, target) in enumerate(jobs, start=1):
        exchanges = recorded.exchanges[tier]
        outcomes = Outcomes(weak=last if target == Target.ERROR else recorded.scores[train, tier], strong=last)
        gate = DelegationGate(
            make_signals(signal_names(stage, exchanges, settings, own), own), target=target, seed=settings.seed
        )
        try:
            gates[name] = gate.fit(exchanges.take(train), outcomes)
        except DataError as error:
            judged = f"whether {recorded.models[-1]} is wrong" if target == Target.ERROR else recorded.models[tier]
            raise DataError(f"the gate on {judged} can't be fitted: {_named(str(error), recorded, tier)}") from None
        progress.step(number, len(jobs))
    return gates


def _named(problem: str, recorded: RecordedTiers, tier: int) -> str:
    """The message of a gate, which knows a weak and a strong model only, with the names of the ladder."""
    return problem.replace("the strong model", recorded.models[-1]).replace("the weak model", recorded.models[tier])


def _certified_rows(
    recorded: RecordedTiers, rest: Rows, scores: Floats, hopeless: Floats | None, seed: int
) -> tuple[LadderRow, ...]:
    order: list[int] = np.random.default_rng(seed).permutation(len(rest)).tolist()
    losses = 1 - recorded.scores[rest]
    return tuple(
        LadderRow(
            recorded.keys[rest[i]],
            tuple(float(s) for s in scores[i]),
            tuple(float(loss) for loss in losses[i]),
            None if hopeless is None else float(hopeless[i]),
        )
        for i in order
    )


def _shorter(
    recorded: RecordedTiers, train: Rows, rest: Rows, inside: Floats, outside: Floats, settings: RouteSettings
) -> list[ShorterLadder]:
    """The same bound for ladders that leave one tier out, and for each tier with the last alone."""
    m = len(recorded.models)
    every = tuple(range(m - 1))
    subsets = {tuple(t for t in every if t != out) for out in every} | {(t,) for t in every}
    found = list[ShorterLadder]()
    climbs = settings.gating == Gating.POST
    for below in sorted(subsets - {(), every}):
        tiers = [*below, m - 1]
        costs = [recorded.costs[t] for t in tiers]
        losses = 1 - recorded.scores[:, tiers]
        plan = plan_ladder(
            inside[:, below],
            losses[train],
            costs,
            max_loss=settings.max_loss,
            confidence=settings.confidence,
            climbs=climbs,
        )
        order = np.random.default_rng(settings.seed).permutation(len(rest))
        step = certify_ladder(plan, outside[order][:, below], losses[rest][order])
        if step is None:
            chosen, cost = np.full(len(rest), len(below)), costs[-1]
        else:
            chosen = tiers_chosen(step, outside[:, below])
            cost = ladder_costs(chosen, costs, climbs=climbs)
        lost = ladder_losses(chosen, losses[rest])
        found.append(
            ShorterLadder(
                models=tuple(recorded.models[t] for t in tiers),
                cost=cost,
                quality=float(recorded.scores[rest, -1].mean() - lost.mean()),
                certified=step is not None,
            )
        )
    return found


def evaluate_ladder(
    policy: LadderPolicy,
    certificate: LadderCertificate,
    recorded: RecordedTiers,
    progress: Progress,
    *,
    seed: int = 0,
) -> LadderResult:
    """A stored ladder on other traffic of the same models.

    Args:
        policy: as loaded.
        certificate: of the ladder.
        recorded: the traffic, with the ladder's own encoder.
        progress: is told.
        seed: of the bootstrap.
    """
    for model, exchanges in zip(recorded.models, recorded.exchanges, strict=False):
        need_answers(exchanges, model, policy.record.gating)
    need_surroundings(policy.gates.values(), recorded.exchanges[0])
    progress.stage(f"Scoring {len(recorded.keys)} rows")
    scores, hopeless = policy.scores(recorded.exchanges)
    rows = np.arange(len(recorded.keys))
    result = _result("evaluate", policy, recorded, rows, scores, hopeless, certificate, [], seed)
    known = {row.key for row in certificate.rows}
    repeated = sum(key in known for key in recorded.keys)
    if not repeated:
        return result
    caution = (
        f"{repeated} of the {len(rows)} rows are rows of the certificate: it is their file, or a part of it, that the "
        "ladder was fitted on, and the figures flatter it"
    )
    return msgspec.structs.replace(result, cautions=[*result.cautions, caution])


def _result(
    kind: str,
    policy: LadderPolicy,
    recorded: RecordedTiers,
    rows: Rows,
    scores: Floats,
    hopeless: Floats | None,
    certificate: LadderCertificate,
    shorter: Sequence[ShorterLadder],
    seed: int,
) -> LadderResult:
    record, plan = policy.record, policy.record.plan
    quality = recorded.scores[rows]
    chosen = policy.choose(scores, hopeless) if record.step is not None else None
    operating = _operating(policy, chosen, quality, recorded.costs) if chosen is not None else None
    return LadderResult(
        kind=kind,
        tiers=_tiers(recorded, chosen, climbs=record.climbs),
        costs_from=recorded.costs_from,
        gating=str(record.gating),
        gates=[
            GateSummary(stage=name, signals=tuple(v["signals"]), combined_by=str(v["choice"]))
            for name, v in record.gates.items()
        ],
        training_rows=record.training_rows,
        judged_rows=rows.size,
        left_out=recorded.left_out,
        max_loss=plan.max_loss,
        confidence=plan.confidence,
        statement=certificate.statement,
        step=record.step,
        abstention_loss=plan.abstention_loss if plan.may_abstain else None,
        operating=operating,
        routers=[
            router_figures(
                recorded.models[t],
                scores[:, t],
                quality[:, t],
                quality[:, -1],
                Costs(weak=recorded.costs[t], strong=recorded.costs[-1], weak_always=record.climbs),
                seed=seed,
            )
            for t in range(scores.shape[1])
        ],
        cost_curve=[_point(policy, tiers_chosen(s, scores, hopeless), quality, recorded.costs) for s in plan.path],
        shorter=list(shorter),
        cautions=_cautions(recorded, quality, operating, plan.max_loss),
    )


def _tiers(recorded: RecordedTiers, chosen: Rows | None, *, climbs: bool) -> list[TierSummary]:
    m = len(recorded.models)
    asked = None if chosen is None else asked_shares(chosen, m, climbs=climbs)
    return [
        TierSummary(
            model=recorded.models[t],
            cost=recorded.costs[t],
            quality=mean_interval(recorded.scores[:, t], 0.0, 1.0),
            answers=None if chosen is None else float((chosen == t).mean()),
            asked=None if asked is None else float(asked[t]),
        )
        for t in range(m)
    ]


def _used(policy: LadderPolicy, chosen: Rows, quality: Floats) -> Floats:
    """Score of what each request gets, shape (n,)."""
    return quality[:, -1] - ladder_losses(chosen, 1 - quality, policy.record.plan.abstention_loss)


def _point(policy: LadderPolicy, chosen: Rows, quality: Floats, costs: Sequence[float]) -> tuple[float, float]:
    return ladder_costs(chosen, costs, climbs=policy.record.climbs), float(_used(policy, chosen, quality).mean())


def _operating(policy: LadderPolicy, chosen: Rows, quality: Floats, costs: Sequence[float]) -> LadderOperating:
    used, answered = _used(policy, chosen, quality), chosen != ABSTAINED
    return LadderOperating(
        unanswered=float((~answered).mean()),
        quality=mean_interval(used, 0.0, 1.0),
        answered_quality=float(used[answered].mean()) if answered.any() else float("nan"),
        excess_loss=mean_interval(quality[:, -1] - used, -1.0, 1.0),
        cost=ladder_costs(chosen, costs, climbs=policy.record.climbs),
        last_cost=costs[-1],
    )


def _cautions(
    recorded: RecordedTiers, quality: Floats, operating: LadderOperating | None, max_loss: float
) -> list[str]:
    found = list[str]()
    means, last = quality.mean(axis=0), recorded.models[-1]
    for t, model in enumerate(recorded.models[:-1]):
        if means[t] >= means[-1]:
            found.append(f"{last} is no better than {model} on these rows: no tier above {model} is needed.")
    for t in range(1, len(means) - 1):
        if means[t] < means[t - 1]:
            found.append(
                f"{recorded.models[t]} costs more than {recorded.models[t - 1]} and is worse on these rows: leave it "
                "out."
            )
    if operating is not None and operating.excess_loss.low > max_loss:
        found.append(
            "On these rows the loss is above the bound by more than chance: they are not like the certificate's."
        )
    return found
