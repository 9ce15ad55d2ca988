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

from tiercel.datasets.importing import ImportCounts, RejectFile, read_traffic
from tiercel.datasets.near_duplicates import near_duplicate_groups
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.progress import Progress
from tiercel.providers.prices import PriceTable, cost_usd
from tiercel.providers.tokens import estimate_usage
from tiercel.routing.curves import Costs
from tiercel.routing.exchange import Embed, Exchange, Exchanges, Outcomes
from tiercel.types import Answer, Example, Response

__all__ = ["Recorded", "Recording", "find_model", "pair_of", "read_recording"]

ASSUMED_RATIO = 20.0
"""Cost of the strong model over that of the weak one where neither log nor price table tells."""


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
    with RejectFile(rejects) as reject_file:
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
    embed: Embed | None = None,
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
        embed: gives embeddings; None where no encoder is there.
        weak_cost: of a call; None to take it from the log, the price table, or a guess.
        strong_cost: of a call, likewise.
        prices: None for the table that ships.
        also: models whose answers are there too when the weak one's is judged, for agreement.
        group: find near-duplicates, so that a split can keep them together.

    Raises:
        ConfigurationError: a model is not there, both are the same, or the strong one costs no more.
        DataError: no row has both.
    """
    weak, strong = (find_model(m, recording.models, recording.names) for m in (weak, strong))
    if weak == strong:
        raise ConfigurationError(f"--weak and --strong are both {weak}; name two models")
    rows = list[tuple[Example, Response, Response]]()
    for example in recording.examples:
        first, second = _scored(example, weak), _scored(example, strong)
        if first is not None and second is not None:
            rows.append((example, first, second))
    left_out = len(recording.examples) - len(rows)
    if not rows:
        raise DataError(f"{recording.names}: no row has scored answers of both {weak} and {strong}")
    if left_out:
        progress.warn(
            f"{left_out} of {len(recording.examples)} rows lack a scored answer of {weak} or {strong} and were left out"
        )
    others = {weak, *(find_model(m, recording.models, recording.names) for m in also)} - {strong}
    exchanges = [_exchange(e, w, others) for e, w, _ in rows]
    costs, source = _costs(rows, weak_cost, strong_cost, prices or PriceTable())
    if source == "assumed":
        progress.warn(
            f"costs are not known: a call to {strong} is taken to cost {ASSUMED_RATIO:g} times one to {weak}; "
            "give --weak-cost and --strong-cost"
        )
    if costs.strong <= costs.weak:
        raise ConfigurationError(
            f"{strong} costs {costs.strong:.4g} a call and {weak} {costs.weak:.4g}: the strong model must cost more; "
            "swap them, or give --weak-cost and --strong-cost"
        )
    return Recorded(
        weak_model=weak,
        strong_model=strong,
        exchanges=Exchanges(exchanges, embed),
        outcomes=Outcomes(
            weak=np.array([w.score for _, w, _ in rows], dtype=np.float64),
            strong=np.array([s.score for _, _, s in rows], dtype=np.float64),
        ),
        keys=tuple(_key(e) for e, _, _ in rows),
        groups=near_duplicate_groups([x.request for x in exchanges]) if group else np.arange(len(rows)),
        costs=costs,
        costs_from=source,
        left_out=left_out,
    )


def _scored(example: Example, model: str) -> Response | None:
    return next((r for r in example.responses if r.model == model and r.score is not None), None)


def _key(example: Example) -> str:
    return hashlib.sha256(msgspec.msgpack.encode((example.id, example.messages))).hexdigest()[:24]


def _text(response: Response) -> str | None:
    if response.content is None and response.tool_calls:
        return msgspec.json.encode(response.tool_calls).decode()
    return response.content


def _exchange(example: Example, response: Response, others: set[str]) -> Exchange:
    last = max(i for i, m in enumerate(example.messages) if m.role == "user")
    before = [m.text for i, m in enumerate(example.messages) if i != last]
    further = [_text(r) for r in example.responses if r is not response and r.model in others]
    return Exchange(
        request=example.messages[last].text,
        context="\n".join(before),
        answer=_text(response),
        logprobs=tuple(response.logprobs) if response.logprobs else None,
        others=tuple(text for text in further if text),
        turns=len(example.messages),
        tools=len(example.tools or ()),
        response_format=example.response_format,
    )


def _costs(
    rows: list[tuple[Example, Response, Response]], weak: float | None, strong: float | None, prices: PriceTable
) -> tuple[Costs, str]:
    """Mean costs of a call: as given, else of the log, else by list price and estimated tokens, else a guess."""
    if weak is not None and strong is not None:
        return Costs(weak=weak, strong=strong), "options"
    if weak is not None or strong is not None:
        raise ConfigurationError("give both --weak-cost and --strong-cost, or neither")
    for source in ("log", "prices"):
        found = [_mean_cost(rows, which, source, prices) for which in (0, 1)]
        if found[0] is not None and found[1] is not None:
            return Costs(weak=found[0], strong=found[1]), source
    return Costs(weak=1.0, strong=ASSUMED_RATIO), "assumed"


def _mean_cost(
    rows: list[tuple[Example, Response, Response]], which: int, source: str, prices: PriceTable
) -> float | None:
    responses = [(e, (w, s)[which]) for e, w, s in rows]
    if source == "log":
        logged = [r.cost_usd for _, r in responses if r.cost_usd is not None]
        return float(np.mean(logged)) if len(logged) >= 0.5 * len(rows) else None
    price = prices.find(responses[0][1].model)
    if price is None:
        return None
    sample = responses[:: max(1, len(responses) // 500)]
    usages = [estimate_usage(e.messages, Answer(content=_text(r)), e.tools) for e, r in sample]
    return float(np.mean([cost_usd(u, price) for u in usages]))
