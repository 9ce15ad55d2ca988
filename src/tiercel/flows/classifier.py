"""A classifier as it serves: one or more rungs blended, labels rendered, signals gathered for the gate."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import BundleError
from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.routing.signals import evidence_of, signal_matrix, signals_for
from tiercel.students.blend import BlendedPrediction, BlendedStudent
from tiercel.students.response import Responses
from tiercel.tasks.labels import LabelSet
from tiercel.types import Answer

__all__ = ["Classifier"]

RUNGS = {
    "linear": "tiercel.students.linear:LinearStudent",
    "encoder": "tiercel.students.encoder:EncoderStudent",
}
"""Classes that read each rung, loaded on use."""


class _Record(Struct, frozen=True, kw_only=True):
    labels: LabelSet
    parts: tuple[str, ...]
    """Folders of the rungs: the rung, with a number from the second of a rung on."""
    powers: tuple[float, ...]
    rates: tuple[float, ...]


class Classifier:
    """Rungs that answer with labels.

    Args:
        student: all rungs as one.
        labels: of the workload.
        rates: share of the training rows that carry each label, shape (k,).
        neighbourhood: for a student with embeddings.
    """

    kind = "classifier"
    file = "classifier.json"

    def __init__(
        self,
        student: BlendedStudent,
        labels: LabelSet,
        rates: NDArray[np.float32],
        neighbourhood: Neighbourhood | None,
    ) -> None:
        self.student = student
        self.labels = labels
        self.rates = rates
        self.neighbourhood = neighbourhood
        self.signals = signals_for(rungs=len(student.parts), embedding=neighbourhood is not None)

    @property
    def rung(self) -> str:
        """The rung that decides most."""
        return self.student.rung

    def respond(self, texts: Sequence[str]) -> Responses:
        """Answers for `texts`."""
        return self.respond_from(self.student.predict(texts), texts)

    def respond_from(self, prediction: BlendedPrediction, texts: Sequence[str]) -> Responses:
        """Answers from what the rungs said of `texts` before."""
        decided = self.labels.decide(prediction.probabilities)
        evidence = evidence_of(
            prediction.probabilities,
            prediction.parts,
            texts,
            decided=decided,
            multi=self.labels.multi,
            rates=self.rates,
            neighbourhood=self.neighbourhood,
        )
        answers = [Answer(content=self.labels.render(row.nonzero()[0].tolist())) for row in decided]
        return Responses(answers=answers, signals=signal_matrix(evidence, self.signals))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Embeddings of n texts by the rung that has them, shape (n, d); None where none has."""
        encoder: Any = next((part for part in self.student.parts if hasattr(part, "embed")), None)
        return None if encoder is None else encoder.embed(texts)

    def single_threaded(self) -> Classifier:
        """The same rungs on one thread."""
        parts = [part.single_threaded() for part in self.student.parts]
        student = BlendedStudent(parts, self.student.powers, multi=self.labels.multi)
        return Classifier(student, self.labels, self.rates, self.neighbourhood)

    def save(self, folder: Path) -> None:
        """Write the rungs, each into a folder of its own, and what joins them."""
        self.student.save(folder)
        if self.neighbourhood is not None:
            self.neighbourhood.save(folder)
        record = _Record(
            labels=self.labels,
            parts=self.student.names,
            powers=self.student.powers,
            rates=tuple(float(r) for r in self.rates),
        )
        (folder / self.file).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> Classifier:
        """The classifier that `save` wrote into `folder`.

        Raises:
            BundleError: it names a rung that this program does not know.
        """
        record = msgspec.json.decode((folder / cls.file).read_bytes(), type=_Record)
        parts = [_part(folder / name, threads) for name in record.parts]
        student = BlendedStudent(parts, record.powers, multi=record.labels.multi)
        near = Neighbourhood.load(folder) if (folder / Neighbourhood.file).is_file() else None
        return cls(student, record.labels, np.array(record.rates, dtype=np.float32), near)


def _part(folder: Path, threads: int | None) -> Any:
    rung = folder.name.partition("-")[0]
    if rung not in RUNGS:
        raise BundleError(f"{folder}: this program does not know the rung {rung!r}; upgrade tiercel")
    module, _, name = RUNGS[rung].partition(":")
    return getattr(importlib.import_module(module), name).load(folder, threads=threads)
