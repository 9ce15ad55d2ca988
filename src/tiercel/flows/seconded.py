"""A decoder whose answers a tagger seconds: both read the request, and the gate sees whether they agree.

The pilot has trained the tagger anyway, and it takes a few milliseconds beside the decoder's many. Two students that
were trained apart and say the same are rarely both wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tiercel.engines.protocol import Engine
from tiercel.flows.generating import Generator, answers_apart
from tiercel.flows.tagging import Tagger
from tiercel.students.response import Responses

__all__ = ["Seconded"]


class Seconded:
    """A decoder and a tagger; what is answered is the decoder's.

    Args:
        student: that answers.
        tagger: that seconds it.
    """

    kind = "seconded"

    def __init__(self, student: Generator, tagger: Tagger) -> None:
        self.student = student
        self.tagger = tagger

    @property
    def rung(self) -> str:
        """The rung that the decoder stands on."""
        return self.student.rung

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the decoder's signals, and `agreement`."""
        return (*self.student.signals, "agreement")

    def respond(self, texts: Sequence[str]) -> Responses:
        """The decoder's answers for `texts`."""
        return self.joined(self.student.respond(texts), self.tagger.respond(texts))

    def joined(self, own: Responses, second: Responses) -> Responses:
        """Responses from those of the decoder and of the tagger to the same n requests."""
        task = self.student.record.task
        apart = [answers_apart(task, *pair) for pair in zip(own.answers, second.answers, strict=True)]
        agreement = 1.0 - np.array(apart, dtype=np.float64)
        return Responses(answers=own.answers, signals=np.column_stack([own.signals, agreement]))

    def joined_parts(self, own: Mapping[str, Responses], second: Mapping[str, Responses]) -> dict[str, Responses]:
        """The same for each part's rows."""
        return {part: self.joined(responses, second[part]) for part, responses in own.items()}

    def single_threaded(self) -> Seconded:
        """The same students on one thread."""
        return Seconded(self.student.single_threaded(), self.tagger.single_threaded())

    def save(self, folder: Path) -> None:
        """Write both into `folder`."""
        self.student.save(folder)
        self.tagger.save(folder)

    def close(self) -> None:
        """Cancel all work and let the decoder's engine go."""
        self.student.close()

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, engine: Engine | None = None) -> Seconded:
        """The two that `save` wrote into `folder`; `engine` serves the decoder's model."""
        return cls(Generator.load(folder, threads=threads, engine=engine), Tagger.load(folder, threads=threads))
