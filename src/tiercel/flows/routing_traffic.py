"""Recorded answers of several models, read into what gates are trained and judged on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.datasets.importing import ImportCounts, read_traffic
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.progress import Progress
from tiercel.flows.rejects import RejectFile
from tiercel.flows.routing_costs import answer_text, tier_costs
from tiercel.providers.prices import PriceTable
from tiercel.routing.curves import Costs
from tiercel.routing.exchange import Embed, Exchange, Exchanges, Outcomes, Query
from tiercel.types import Example, Response

__all__ = [
    "Recorded",
    "RecordedTiers",
    "Recording",
    "Surroundings",
    "find_model",
    "pair_of",
    "read_recording",
    "tiers_of",
]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Traffic with recorded answers.

    Attributes:
        examples: in the order of the files.
        models: rows that each model answered and was scored on, most first.
        names: of the files.
    """

    examples: list[Example]
    models: dict[str, int]
    names: str


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is known of n requests and two models.

    Attributes:
        weak_model: name of the cheaper one.
        strong_model: name of the dearer one.
        exchanges: requests and answers of the cheaper one.
        outcomes: how good both were.
        keys: hash of each row, which finds it again.
        groups: near-duplicates share a number, shape (n,).
        costs: mean cost of a call in USD, or relative to the weak model where `costs_from` is "assumed".
        costs_from: "log", "prices", "options" or "assumed".
        left_out: rows without a scored answer of both models.
    """

    weak_model: str
    strong_model: str
    exchanges: Exchanges
    outcomes: Outcomes
    keys: tuple[str, ...]
    groups: NDArray[np.int64]
    costs: Costs
    costs_from: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class RecordedTiers:
    """What is known of n requests and m models, the cheapest first.

    Attributes:
        models: their names.
        exchanges: requests and the answers of each model but the last, m - 1; those of cheaper ones are in `others`.
        scores: how good the answers were, shape (n, m), in [0, 1].
        keys: hash of each row, which finds it again.
        groups: near-duplicates share a number, shape (n,).
        costs: mean cost of a call to each, as in `Recorded`.
        costs_from: "log", "prices", "options" or "assumed".
        left_out: rows without a scored answer of all.
    """

    models: tuple[str, ...]
    exchanges: tuple[Exchanges, ...]
    scores: NDArray[np.float64]
    keys: tuple[str, ...]
    groups: NDArray[np.int64]
    costs: tuple[float, ...]
    costs_from: str
    left_out: int

    def pairs(self) -> list[Recorded]:
        """Each model but the last with the last."""
        return [
            Recorded(
                weak_model=self.models[tier],
                strong_model=self.models[-1],
                exchanges=exchanges,
                outcomes=Outcomes(weak=self.scores[:, tier], strong=self.scores[:, -1]),
                keys=self.keys,
                groups=self.groups,
                costs=Costs(weak=self.costs[tier], strong=self.costs[-1]),
                costs_from=self.costs_from,
                left_out=self.left_out,
            )
            for tier, exchanges in enumerate(self.exchanges)
        ]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What signals may turn to beside the texts.

    Attributes:
        embed: gives embeddings; None where no encoder is there.
        query: runs queries; None where no database is there.
        window: context window of the cheapest model in tokens; None where it is not known.
    """

    embed: Embed | None = None
    query: Query | None = None
    window: int | None = None


def read_recording(paths: Sequence[Path], progress: Progress, *, rejects: Path | None = None) -> Recording:
    """Read traffic with `responses`.

    Args:
        paths: files of the data contract.
        progress: is warned of rows that were set aside, and of ids that stand twice.
        rejects: file for rows that break the contract, scores outside [0, 1] among them.

    Raises:
        DataError: no row holds a scored answer.
    """
    progress.stage("Reading recorded answers")
    counts = ImportCounts()
    with RejectFile(rejects, paths) as reject_file:
        examples = list(read_traffic(paths, counts, reject_file, keep_duplicates=True))
    names = ", ".join(str(p) for p in paths)
    if counts.rejected:
        reason, times = counts.reasons.most_common(1)[0]
        where = f", listed in {rejects}" if rejects else ""
        progress.warn(f"{counts.rejected} of {counts.read} rows were set aside{where}; most often ({times}): {reason}")
    kept = _without_repeats(examples, progress)
    models: Counter[str] = Counter()
    for example in kept:
        models.update({r.model for r in example.responses if r.score is not None})
    if not models:
        raise DataError(
            f"{names}: no row has `responses` with a `score` in [0, 1]; record answers of the models and score them"
        )
    return Recording(examples=kept, models=dict(sorted(models.items(), key=lambda m: (-m[1], m[0]))), names=names)


def _without_repeats(examples: list[Example], progress: Progress) -> list[Example]:
    """Rows that repeat another whole are dropped; those that only share an id were renamed by the import and stay."""
    seen, kept, repeats, renamed = set[bytes](), list[Example](), 0, 0
    ids = {e.id for e in examples}
    for example in examples:
        base, mark, number = example.id.rpartition("#")
        again = bool(mark) and number.isdigit() and base in ids
        bare = msgspec.structs.replace(example, id=base if again else example.id)
        key = hashlib.blake2b(msgspec.msgpack.encode(bare), digest_size=16).digest()
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        renamed += again
        kept.append(example)
    if repeats:
        progress.warn(f"{repeats} rows repeat another whole and were dropped")
    if renamed:
        progress.warn(f"{renamed} rows bear the id of another row and were renamed, as in 'id#2'")
    return kept


def find_model(wanted: str, models: dict[str, int], names: str) -> str:
    """The recorded model of a name, or of a part of it that fits one model alone.

    Raises:
        ConfigurationError: none or several fit.
    """
    if wanted in models:
        return wanted
    near = [m for m in models if wanted.lower() in m.lower()]
    if len(near) == 1:
        return near[0]
    shown = ", ".join(f"{m} ({n} rows)" for m, n in list(models.items())[:12])
    problem = f"{len(near)} models of {names} are called like" if near else f"{names} has no scored answers of"
    raise ConfigurationError(f"{problem} {wanted!r}; it holds: {shown}")


def pair_of(
    recording: Recording,
    weak: str,
    strong: str,
    progress: Progress,
    *,
    surroundings: Surroundings | None = None,
    weak_cost: float | None = None,
    strong_cost: float | None = None,
    prices: PriceTable | None = None,
    also: Sequence[str] = (),
    group: bool = True,
) -> Recorded:
    """The rows on which both models answered and were scored.

    Args:
        recording: as read.
        weak: name of the cheaper model, or a part of it.
        strong: name of the dearer model, or a part of it.
        progress: is warned of rows that lack an answer.
        surroundings: encoder, database and window; None for none.
        weak_cost: of a call; None to take it from the log, the price table, or a guess.
        strong_cost: of a call, likewise.
        prices: None for the table that ships.
        also: models whose answers are there too when the weak one's is judged, for agreement.
        group: find near-duplicates, so that a split can keep them together.

    Raises:
        ConfigurationError: a model is not there, both are the same, or the strong one costs no more.
        DataError: no row has both.
    """
    if (weak_cost is None) != (strong_cost is None):
        raise ConfigurationError("give both --weak-cost and --strong-cost, or neither")
    costs = None if weak_cost is None or strong_cost is None else (weak_cost, strong_cost)
    tiers = tiers_of(
        recording,
        (weak, strong),
        progress,
        surroundings=surroundings,
        costs=costs,
        prices=prices,
        also=also,
        group=group,
    )
    return tiers.pairs()[0]


def tiers_of(
    recording: Recording,
    models: Sequence[str],
    progress: Progress,
    *,
    surroundings: Surroundings | None = None,
    costs: Sequence[float] | None = None,
    prices: PriceTable | None = None,
    also: Sequence[str] = (),
    group: bool = True,
) -> RecordedTiers:
    """The rows on which all models of a ladder answered and were scored.

    Args:
        recording: as read.
        models: m names or parts of names, cheapest first.
        progress: is warned of rows that lack an answer.
        surroundings: encoder, database and window; None for none.
        costs: of a call to each, m; None to take them from the log, the price table, or a guess.
        prices: None for the table that ships.
        also: models whose answers are there too when a tier's is judged, for agreement.
        group: find near-duplicates, so that a split can keep them together.

    Raises:
        ConfigurationError: a model is not there or named twice, or one costs no more than the one before it.
        DataError: no row has all.
    """
    tiers = [find_model(m, recording.models, recording.names) for m in models]
    twice = next((m for m in tiers if tiers.count(m) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{' and '.join(map(repr, models))} name {twice} more than once; name each model once")
    found = [(e, [_scored(e, m) for m in tiers]) for e in recording.examples]
    rows = [(e, [r for r in each if r is not None]) for e, each in found if None not in each]
    left_out, all_of = len(found) - len(rows), ", ".join(tiers)
    if not rows:
        raise DataError(f"{recording.names}: no row has scored answers of all of {all_of}")
    if left_out:
        progress.warn(f"{left_out} of {len(found)} rows lack a scored answer of one of {all_of} and were left out")
    beside = {find_model(m, recording.models, recording.names) for m in also} - {tiers[-1]}
    around = surroundings or Surroundings()
    exchanges = [
        Exchanges(
            [_exchange(e, each[t], {*tiers[: t + 1], *beside}) for e, each in rows],
            around.embed,
            query=around.query,
            window=around.window,
        )
        for t in range(len(tiers) - 1)
    ]
    known, source = tier_costs(rows, tiers, costs, prices or PriceTable(), progress)
    return RecordedTiers(
        models=tuple(tiers),
        exchanges=tuple(exchanges),
        scores=np.array([[r.score for r in each] for _, each in rows], dtype=np.float64),
        keys=tuple(_key(e) for e, _ in rows),
        groups=near_duplicate_groups([x.request for x in exchanges[0].items]) if group else np.arange(len(rows)),
        costs=known,
        costs_from=source,
        left_out=left_out,
    )


def _scored(example: Example, model: str) -> Response | None:
    return next((r for r in example.responses if r.model == model and r.score is not None), None)


def _key(example: Example) -> str:
    return hashlib.sha256(msgspec.msgpack.encode((example.id, example.messages))).hexdigest()[:24]


def _exchange(example: Example, response: Response, others: set[str]) -> Exchange:
    last = max(i for i, m in enumerate(example.messages) if m.role == "user")
    before = [m.text for i, m in enumerate(example.messages) if i != last]
    further = [answer_text(r) for r in example.responses if r is not response and r.model in others]
    return Exchange(
        request=example.messages[last].text,
        context="\n".join(before),
        answer=answer_text(response),
        logprobs=tuple(response.logprobs) if response.logprobs else None,
        others=tuple(text for text in further if text),
        turns=len(example.messages),
        tools=len(example.tools or ()),
        response_format=example.response_format,
    )
