"""The parts that a finished pilot made of its traffic, made again from the traffic and proved by the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.bundle import Bundle, load, verify_bundle
from tiercel.flows.preparation import Prepared, prepare, task_of
from tiercel.flows.progress import Progress, Silent
from tiercel.flows.traffic import read_tests, read_workload
from tiercel.flows.written_rows import add_written, part_written
from tiercel.report.result import PilotResult
from tiercel.types import Example

__all__ = ["UNSEEN_LOSSES", "FinishedPilot", "lost", "reopen"]

UNSEEN_LOSSES = "unseen_losses"
"""Field of the report's details: losses on the gate's rows of the student that had not seen them, where they are not 0.

What serves may have been trained on these rows since, and can't tell any more what is new to it.
"""


@dataclass(frozen=True, kw_only=True)
class FinishedPilot:
    """A pilot's bundle and the rows that it was made from.

    Attributes:
        bundle: that it wrote.
        prepared: its parts, augmented rows among those of training.
        examples: of the traffic, in order, without augmented rows and test files.
        tests: of the separate test file; empty without one.
        unseen_losses: by key, of gate rows that were lost when the student had not seen them; None where the pilot's
            report is not there.
    """

    bundle: Bundle
    prepared: Prepared
    examples: list[Example]
    tests: list[Example]
    unseen_losses: dict[str, float] | None = None


def lost(keys: Sequence[str], losses: NDArray[np.float64]) -> dict[str, float]:
    """Losses by the key of their row, without those that are 0."""
    return {key: float(loss) for key, loss in zip(keys, losses, strict=True) if loss > 0}


def reopen(
    folder: Path,
    traffic: Sequence[Path],
    progress: Progress,
    *,
    test: Path | None = None,
    database: str | None = None,
    threads: int | None = None,
) -> FinishedPilot:
    """Open a pilot's bundle and part its traffic as the pilot did.

    Seed and bound stand in the certificate, and so do keyed hashes of the calibration rows: unless the very same rows
    fall to calibration again, the other parts can't be told apart either, and nothing is done.

    Args:
        folder: of the pilot, or its bundle.
        traffic: files that the pilot was given.
        progress: is told what is read.
        test: separate file of test rows, where the pilot had one.
        database: that SQL was run on, where the pilot had one.
        threads: of the student.

    Raises:
        BundleError: there is no bundle.
        CertificateError: the bundle's certificate does not hold.
        DataError: the files are not what the pilot was made from.
    """
    certificate, _ = verify_bundle(folder)
    bundle = load(folder, threads=threads)
    progress.stage("reading traffic")
    quiet = Silent()
    fingerprint = bundle.manifest.reader.key.fingerprint
    try:
        found = read_workload(traffic, quiet, workload=fingerprint)
    except ConfigurationError:
        names = ", ".join(map(str, traffic))
        raise DataError(
            f"{names}: no row is of the bundle's workload {fingerprint}; give the files of its pilot"
        ) from None
    real, written = part_written(found.examples)
    tests = list[Example]()
    if test is not None:
        tests, _ = part_written(read_tests(test, found.key, quiet))
    task, labels, shape = task_of(real, bundle.manifest.task, quiet)
    prepared = prepare(
        found.key,
        real,
        tests if test is not None else None,
        task=task,
        labels=labels,
        shape=shape,
        max_loss=certificate.plan.max_loss,
        seed=certificate.seed,
        progress=quiet,
        database=database if task == "sql" else None,
    )
    if {row.key for row in certificate.rows} != set(prepared.calibration.keys):
        hint = "" if test is not None else ", and its --test FILE if it had one"
        raise DataError(
            f"{', '.join(map(str, traffic))}: these are not the rows that {folder} was made from: give the files of "
            f"that pilot{hint}, so that its calibration and test rows are known and stay unseen"
        )
    return FinishedPilot(
        bundle=bundle,
        prepared=add_written(prepared, written, quiet),
        examples=real,
        tests=tests,
        unseen_losses=_unseen_losses(folder),
    )


def _unseen_losses(folder: Path) -> dict[str, float] | None:
    for place in (folder, folder.parent):
        try:
            report = msgspec.json.decode((place / "report.json").read_bytes(), type=PilotResult)
        except (OSError, msgspec.DecodeError):
            continue
        found = report.details.get(UNSEEN_LOSSES)
        return msgspec.convert(found, dict[str, float]) if found is not None else None
    return None
