"""A tagger as it serves: its answers, its own signals, and where a request lies among the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiercel.routing.neighbourhood import Neighbourhood
from tiercel.students.response import Responses
from tiercel.students.tagger import TAG_SIGNALS, Tagged, TaggerStudent

__all__ = ["Tagger", "kinds_of"]

NEIGHBOUR_SIGNALS = ("neighbour_agreement", "neighbour_similarity", "distance", "excess_distance")
MOST_KINDS = 64


class Tagger:
    """A tagger with its surroundings.

    Args:
        student: that tags.
        neighbourhood: of the training rows; their labels are the kinds that `kinds_of` tells apart.
    """

    kind = "tagger"
    signals = (*TAG_SIGNALS, *NEIGHBOUR_SIGNALS)

    def __init__(self, student: TaggerStudent, neighbourhood: Neighbourhood) -> None:
        self.student = student
        self.neighbourhood = neighbourhood

    @property
    def rung(self) -> str:
        """The rung that it stands on."""
        return self.student.rung

    def respond(self, texts: Sequence[str]) -> Responses:
        """Answers for `texts`."""
        tagged = self.student.tag(texts)
        around = self.neighbourhood.look(tagged.embedding, self._kinds(tagged))
        beside = [getattr(around, n.removeprefix("neighbour_")) for n in NEIGHBOUR_SIGNALS]
        return Responses(answers=tagged.answers, signals=np.column_stack([tagged.signals, *beside]))

    def _kinds(self, tagged: Tagged) -> NDArray[np.bool_]:
        return kinds_of(np.array([c.classes for c in tagged.compiled]), self.neighbourhood.sets.shape[1])

    def single_threaded(self) -> Tagger:
        """The same student on one thread."""
        return Tagger(self.student.single_threaded(), self.neighbourhood)

    def save(self, folder: Path) -> None:
        """Write student and neighbourhood into `folder`."""
        (folder / "tagger").mkdir(parents=True, exist_ok=True)
        self.student.save(folder / "tagger")
        self.neighbourhood.save(folder)

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> Tagger:
        """The tagger that `save` wrote into `folder`."""
        return cls(TaggerStudent.load(folder / "tagger", threads=threads), Neighbourhood.load(folder))


def kinds_of(classes: NDArray[np.int64], most: int = MOST_KINDS) -> NDArray[np.bool_]:
    """The kind of each answer as a one-hot row, by the values it chose: shape (n, most).

    Args:
        classes: of each field, shape (n, f).
        most: kinds at the most; further ones share them.
    """
    numbers = classes.astype(np.uint64)
    mixed = np.zeros(len(classes), dtype=np.uint64)
    for column in numbers.T:
        mixed = mixed * np.uint64(6_364_136_223_846_793_005) + column + np.uint64(1_442_695_040_888_963_407)
    chosen = (mixed >> np.uint64(33)) % np.uint64(most)
    one_hot = np.zeros((len(classes), most), dtype=np.bool_)
    one_hot[np.arange(len(classes)), chosen.astype(np.int64)] = True
    return one_hot
