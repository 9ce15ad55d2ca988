"""Candidates for a workload: trained students, their answers to the rows set aside, and where finished work lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import TiercelError
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder, write_file
from tiercel.routing.gate import cross_scores
from tiercel.routing.policy import limits_of, within
from tiercel.stats.planning import largest_allowed_errors
from tiercel.students.response import Responder, Responses

__all__ = [
    "ENOUGH_OFFLOAD",
    "PARTS",
    "Candidate",
    "LadderSettings",
    "Skipped",
    "Stage",
    "answered_candidate",
    "finish",
    "finished",
    "folder_size",
    "make_candidate",
    "parts_of",
]

PARTS = ("gate", "calibration", "test")
AT_ONCE = 256
"""Requests that a student is given at a time."""
ENOUGH_OFFLOAD = 0.985
"""Share of traffic beyond which a dearer student has nothing left to win."""


class Stage(Struct, frozen=True, kw_only=True):
    """What is known of a finished rung."""

    train_seconds: float
    precision: str = "fp32"
    parity: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """How to climb.

    Attributes:
        students: rungs to train; None for auto.
        encoder: folder or hub name of the pretrained encoder; None for the default.
        max_loss: the bound.
        confidence: of the certificate.
        seed: of everything random.
        threads: of torch and onnxruntime.
        work: folder for finished rungs.
        model: folder or hub name of a pretrained causal language model; None leaves the slm rung out.
        curriculum: train generative rungs in stages too, and keep that where held-out loss says that it helps.
        teacher: folder of a local model that teaches generative rungs; None for the answers alone.
        distil: how it teaches: logits, on-policy or gold; None for logits.
        micro_size: parameters of the micro rung at most; None for what suits the task.
        precision: of generative rungs that is tried first; None for 8 bits.
        distil_divergence: how far from it a student is, one of `teaching.DIVERGENCES`; None for the way's usual one.
        distil_weight: of the teacher against the answers, in (0, 1]; None for the way's usual one.
        distil_temperature: flattens both sides of the divergence; None for the way's usual one.
        gate_samples: answers that a generative student draws beside each, for the gate to see how many agree.
    """

    students: tuple[str, ...] | None
    encoder: str | None
    max_loss: float
    confidence: float
    seed: int
    threads: int
    work: Path
    model: str | None = None
    curriculum: bool = False
    teacher: Path | None = None
    distil: str | None = None
    micro_size: int | None = None
    precision: str | None = None
    distil_divergence: str | None = None
    distil_weight: float | None = None
    distil_temperature: float | None = None
    gate_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained student with its answers to rows that it was not trained on.

    Attributes:
        name: of the rung and its form, such as linear, encoder-tuned, tagger.
        responder: what would serve.
        stage: time, precision and parity.
        responses: to each part's rows.
        losses: of the answers, shape (n,) for each part.
        size_bytes: of its files.
        expected_offload: share of traffic that the gate's rows promise within the bound.
        refit: trains it once more with the gate's rows, should it be chosen; None where that is not worth its time.
    """

    name: str
    responder: Responder
    stage: Stage
    responses: dict[str, Responses]
    losses: dict[str, NDArray[np.float64]]
    size_bytes: int
    expected_offload: float
    refit: Callable[[], Candidate] | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A rung that was not trained, and why; `error` where that went wrong."""

    name: str
    rung: str
    why: str
    error: TiercelError | None = None


def parts_of(prepared: Prepared) -> dict[str, Rows]:
    """The rows that no student is trained on, by the name of their part."""
    return {name: getattr(prepared, name) for name in PARTS}


def make_candidate(
    name: str,
    responder: Responder,
    stage: Stage,
    responses: dict[str, Responses],
    size_bytes: int,
    prepared: Prepared,
    settings: LadderSettings,
) -> Candidate:
    """A candidate from its responses to each part's rows."""
    losses = {part: prepared.losses(rows, responses[part].answers) for part, rows in parts_of(prepared).items()}
    excess = losses["gate"] - prepared.gate.frontier_loss
    return Candidate(
        name=name,
        responder=responder,
        stage=stage,
        responses=responses,
        losses=losses,
        size_bytes=size_bytes,
        expected_offload=_expected_offload(
            responses["gate"].signals, responder.signals, excess, len(prepared.calibration), settings
        ),
    )


def answered_candidate(
    name: str,
    responder: Responder,
    stage: Stage,
    size_bytes: int,
    prepared: Prepared,
    settings: LadderSettings,
    progress: Progress,
) -> Candidate:
    """A candidate that has yet to answer the rows set aside."""
    responses: dict[str, Responses] = {}
    parts = parts_of(prepared)
    total, done = sum(map(len, parts.values())), 0
    progress.stage(f"answering {total:,} rows set aside")
    for part, rows in parts.items():
        pieces = list[Responses]()
        for start in range(0, len(rows), AT_ONCE):
            pieces.append(responder.respond(rows.texts[start : start + AT_ONCE]))
            done += len(pieces[-1].answers)
            progress.step(done, total)
        responses[part] = Responses(
            answers=[a for piece in pieces for a in piece.answers],
            signals=np.concatenate([piece.signals for piece in pieces]),
        )
    return make_candidate(name, responder, stage, responses, size_bytes, prepared, settings)


def _expected_offload(
    signals: NDArray[np.float64],
    names: Sequence[str],
    excess: NDArray[np.float64],
    calibration_rows: int,
    settings: LadderSettings,
) -> float:
    """Share of the gate's rows that a gate fitted without them would accept within what calibration will allow."""
    scores = cross_scores(signals, excess <= 0, settings.seed)
    scores = np.where(within(signals, names, limits_of(signals, names)), scores, 0.0)
    allowed = largest_allowed_errors(calibration_rows, settings.max_loss, 1 - settings.confidence)
    order = np.argsort(-scores, kind="stable")
    risk = np.cumsum(excess[order]) / len(excess)
    fine = np.flatnonzero((risk <= allowed / max(1, calibration_rows)) & (scores[order] > 0))
    return float((fine[-1] + 1) / len(excess)) if fine.size else 0.0


def finished(folder: Path) -> Stage | None:
    """What is known of the rung in `folder`; None where it is not finished."""
    try:
        return msgspec.json.decode((folder / "stage.json").read_bytes(), type=Stage)
    except (OSError, msgspec.DecodeError):
        return None


def finish(folder: Path, stage: Stage, save: Callable[[Path], None]) -> None:
    """Write a rung into `folder` and say that it is finished."""
    make_folder(folder)
    with guarded(folder):
        save(folder)
    write_file(folder / "stage.json", msgspec.json.encode(stage))


def folder_size(folder: Path) -> int:
    """Bytes of a rung's own files."""
    beside = {"stage.json", "predictions.npz"}
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name not in beside)
