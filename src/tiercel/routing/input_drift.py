"""Whether requests still look like those that the certificate rests on: a two-sample test that is valid at every look.

Each live request is paired with a reference request that was not used before. While both come from the same traffic,
they could change places, so any bet whose gain flips its sign when they do has a mean gain of 0. One gambler bets by a
classifier that learns, from the pairs before, to tell live from reference; two more watch the out-of-scope rate and the
length.

Source: Shekhar and Ramdas, "Nonparametric two-sample testing by betting", 2024; Podkopaev and Ramdas, "Sequential
predictive two-sample and independence testing", 2023.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import DataError
from tiercel.stats.e_processes import Capital, EProcess, MeanTest

__all__ = ["FEWEST", "LEVELS", "DriftState", "DriftStatus", "InputDrift", "NovelExample", "Signal", "novel_examples"]

Floats = NDArray[np.float64]
Signal = Literal["content", "out_of_scope", "longer", "shorter"]

LEVELS: dict[Signal, float] = {"content": 0.5, "out_of_scope": 0.25, "longer": 0.125, "shorter": 0.125}
"""How the level is split over what is watched."""
FEWEST = 100
"""Reference requests below which nothing is tested."""
KEPT = 64
"""Last live requests from which examples are chosen."""
_COMPONENTS = 16
_RESTARTS = 64
_FARTHEST = 4.0
_STEP = 0.1
_WARY = -0.3
"""First weight of likeness: before anything is learned, the bet is on requests that are like none of the reference."""


class NovelExample(Struct, frozen=True, kw_only=True):
    """A live request that is like no reference request."""

    trace: str
    similarity: float
    """Cosine to the nearest reference request."""


class DriftStatus(Struct, frozen=True, kw_only=True):
    """What is known of the requests."""

    drifted: bool
    """Whether any of what is watched has changed, at the level of the whole."""
    signals: tuple[Signal, ...]
    """Which, by the names of `LEVELS`."""
    log10: dict[str, float]
    """Of each e-value."""
    pairs: int
    """Live requests that were paired."""
    exhausted: bool
    """Whether all reference requests are used: what was found stands, and nothing more is tested."""
    examples: tuple[NovelExample, ...]
    """The newest of the last requests, farthest from the reference and from each other; empty without a drift."""


class DriftState(Struct, frozen=True, kw_only=True):
    """All that the test remembers."""

    pairs: int
    capitals: dict[str, Capital]
    weights: tuple[float, ...]
    steps: tuple[float, ...]
    found: tuple[Signal, ...]
    recent: tuple[tuple[str, bytes], ...]
    """Trace and embedding, 32-bit floats, of the last live requests."""


class InputDrift:
    """The test of one workload in one epoch.

    Args:
        embeddings: of reference requests, shape (n, d), rows of length 1; such as those of the calibration rows. Half
            of them describe what is usual, half are paired with live requests.
        tokens: of the same requests, shape (n,).
        out_of_scope: whether each of them was out of scope, shape (n,).
        level: chance of a false alarm, however long it runs.
        seed: of the order in which reference requests are used; keep it.

    Raises:
        DataError: the reference is too small, or its parts do not fit together.
    """

    def __init__(
        self,
        embeddings: Floats,
        tokens: Floats,
        out_of_scope: NDArray[np.bool_],
        *,
        level: float = 0.01,
        seed: int = 0,
    ) -> None:
        embeddings = np.asarray(embeddings, np.float64)
        n = len(embeddings)
        if embeddings.ndim != 2 or len(tokens) != n or len(out_of_scope) != n or not np.isfinite(embeddings).all():
            raise DataError(
                "embeddings, tokens and scopes of the reference do not fit together; give one of each a request"
            )
        if n < FEWEST:
            raise DataError(f"{n} reference requests are too few to see a drift; give at least {FEWEST}")
        order = np.random.default_rng(seed).permutation(n)
        usual, self._paired = order[: n // 2], order[n // 2 :]
        self._level = level
        self._usual = embeddings[usual]
        self._centre = self._usual.mean(axis=0)
        _, sizes, axes = np.linalg.svd(self._usual - self._centre, full_matrices=False)
        width = min(_COMPONENTS, len(axes))
        self._axes = axes[:width] / np.maximum(sizes[:width, None] / math.sqrt(len(usual)), 1e-6)
        logs = np.log1p(np.asarray(tokens, np.float64))
        self._length = float(logs[usual].mean()), float(logs[usual].std()) + 1e-6
        # The nearest other request: a request is its own nearest, at 1.
        nearest = np.partition(self._usual @ self._usual.T, -2, axis=1)[:, -2]
        self._likeness = float(nearest.mean()), float(nearest.std()) + 1e-6
        self._reference = [
            (
                self._features(embeddings[i], float(tokens[i]), bool(out_of_scope[i])),
                float(tokens[i]),
                bool(out_of_scope[i]),
            )
            for i in self._paired
        ]
        self._weights: Floats = np.zeros(width + 3)
        self._weights[width] = _WARY
        self._steps: Floats = np.full(width + 3, 1.0)
        self._tests = {name: EProcess(_TEST) for name in LEVELS}
        self._found: list[Signal] = []
        self._recent: deque[tuple[str, Floats]] = deque(maxlen=KEPT)
        self.pairs = 0
        """Live requests that were paired."""

    def _features(self, embedding: Floats, tokens: float, out_of_scope: bool) -> Floats:
        likeness = (float((self._usual @ embedding).max()) - self._likeness[0]) / self._likeness[1]
        length = (math.log1p(tokens) - self._length[0]) / self._length[1]
        content = self._axes @ (embedding - self._centre)
        return np.clip(np.array([*content, likeness, length, float(out_of_scope)]), -_FARTHEST, _FARTHEST)

    def observe(self, trace: str, embedding: Floats, tokens: float, out_of_scope: bool, *, keep: bool = True) -> bool:
        """Pair a live request, drawn by chance or every so many, with the next reference request.

        Args:
            trace: its id.
            embedding: shape (d,), of length 1.
            tokens: of the request.
            out_of_scope: whether the workload's own check says that it is none of its business.
            keep: whether it may be remembered, and named as an example.

        Returns:
            Whether a drift was found, by this request or before.

        Raises:
            DataError: the embedding has another width or is not finite, or the tokens are below 0; nothing was booked.
        """
        embedding = np.asarray(embedding, np.float64)
        if embedding.shape != self._centre.shape or not np.isfinite(embedding).all() or not 0 <= tokens < math.inf:
            raise DataError(
                f"the request {trace} has an embedding of shape {embedding.shape} and {tokens} tokens, where the "
                f"reference has {self._centre.shape}; embed both with the same encoder"
            )
        if keep:
            self._recent.append((trace, embedding))
        if self.exhausted:
            return bool(self._found)
        known, known_tokens, known_scope = self._reference[self.pairs]
        difference = self._features(embedding, tokens, out_of_scope) - known
        self.pairs += 1
        margin = float(self._weights @ difference)
        longer = float(np.sign(tokens - known_tokens))
        gains: dict[Signal, float] = {
            "content": math.tanh(margin),
            "out_of_scope": float(out_of_scope) - float(known_scope),
            "longer": longer,
            "shorter": -longer,
        }
        for name, gain in gains.items():
            self._tests[name].update(gain)
            if name not in self._found and self._tests[name].value.reaches(self._level * LEVELS[name]):
                self._found.append(name)
        # Learned after the bet was settled; AdaGrad on the logistic loss of "which of the two is live".
        gradient = difference / (1.0 + math.exp(min(margin, 30.0)))
        self._steps += gradient * gradient
        self._weights += _STEP * gradient / np.sqrt(self._steps) - 0.001 * self._weights
        return bool(self._found)

    @property
    def found(self) -> tuple[Signal, ...]:
        """What has changed, by the names of `LEVELS`, in the order in which it was found."""
        return tuple(self._found)

    @property
    def remembered(self) -> tuple[str, ...]:
        """Traces of the requests from which examples are chosen."""
        return tuple(trace for trace, _ in self._recent)

    def forget(self, traces: Collection[str]) -> None:
        """Remember these requests no more."""
        self._recent = deque(((t, e) for t, e in self._recent if t not in traces), maxlen=KEPT)

    @property
    def exhausted(self) -> bool:
        """Whether all reference requests are used."""
        return self.pairs >= len(self._reference)

    def status(self, examples: int = 5) -> DriftStatus:
        """What is known now.

        Args:
            examples: how many requests to name, where there is a drift.
        """
        novel = list[NovelExample]()
        if self._found and self._recent:
            live = np.stack([e for _, e in self._recent])
            names = [trace for trace, _ in self._recent]
            novel = [
                NovelExample(trace=names[i], similarity=similarity)
                for i, similarity in novel_examples(self._usual, live, examples)
            ]
        return DriftStatus(
            drifted=bool(self._found),
            signals=self.found,
            log10={name: test.value.log / math.log(10) for name, test in self._tests.items()},
            pairs=self.pairs,
            exhausted=self.exhausted,
            examples=tuple(novel),
        )

    def state(self) -> DriftState:
        """What `resume` needs to go on."""
        return DriftState(
            pairs=self.pairs,
            capitals={name: test.capital() for name, test in self._tests.items()},
            weights=tuple(self._weights.tolist()),
            steps=tuple(self._steps.tolist()),
            found=tuple(self._found),
            recent=tuple((trace, e.astype(np.float32).tobytes()) for trace, e in self._recent),
        )

    def resume(self, state: DriftState) -> InputDrift:
        """Go on where `state` was taken, with the same reference and seed.

        Raises:
            DataError: the state is of another reference.
        """
        if len(state.weights) != len(self._weights) or state.pairs > len(self._reference):
            raise DataError("a stored drift test is of another reference; start it anew")
        self.pairs, self._found = state.pairs, list(state.found)
        self._tests = {name: EProcess.resume(_TEST, state.capitals[name]) for name in LEVELS}
        self._weights, self._steps = np.array(state.weights), np.array(state.steps)
        embeddings = [(t, np.frombuffer(raw, np.float32).astype(np.float64)) for t, raw in state.recent]
        self._recent = deque(embeddings, maxlen=KEPT)
        return self


_TEST = MeanTest(bound=0.0, alternative="above", low=-1.0, high=1.0, restarts=_RESTARTS)


def novel_examples(reference: Floats, live: Floats, count: int) -> list[tuple[int, float]]:
    """The live requests farthest from the reference and from each other, chosen one by one.

    Args:
        reference: embeddings of shape (n, d), rows of length 1, n at least 1.
        live: embeddings of shape (m, d), rows of length 1.
        count: how many at the most.

    Returns:
        Row of `live` and cosine to its nearest reference row, in the order of choice.
    """
    nearest = (live @ reference.T).max(axis=1)
    closest, chosen = nearest.copy(), list[tuple[int, float]]()
    for _ in range(min(count, len(live))):
        i = int(closest.argmin())
        chosen.append((i, float(nearest[i])))
        closest = np.maximum(closest, live @ live[i])
        closest[i] = np.inf
    return chosen
