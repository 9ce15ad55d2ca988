"""Small workloads that the tests write, and bundles piloted on them once a session."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.flows.teacher_server import TeacherServer
from tiercel.flows.pilot import PilotSettings, pilot

if TYPE_CHECKING:
    from tests.flows.label_folder import Folder

SYSTEM = "Answer with one word: refund, delivery, account or praise."
WORDS = {
    "refund": [
        "money",
        "back",
        "return",
        "charged",
        "twice",
        "invoice",
        "credit",
        "card",
        "reimburse",
        "payment",
        "wrong",
        "amount",
        "bill",
    ],
    "delivery": [
        "parcel",
        "late",
        "courier",
        "tracking",
        "arrived",
        "address",
        "lost",
        "box",
        "shipping",
        "warehouse",
        "van",
        "doorstep",
    ],
    "account": [
        "password",
        "login",
        "locked",
        "email",
        "reset",
        "profile",
        "sign",
        "username",
        "verify",
        "code",
        "session",
        "browser",
    ],
    "praise": [
        "great",
        "thanks",
        "lovely",
        "wonderful",
        "happy",
        "best",
        "kind",
        "helpful",
        "quick",
        "superb",
        "perfect",
        "smiling",
    ],
}
FILLER = [
    "the",
    "my",
    "a",
    "since",
    "yesterday",
    "please",
    "it",
    "was",
    "and",
    "still",
    "for",
    "you",
    "today",
    "about",
    "this",
    "really",
    "with",
    "order",
    "shop",
]


def rows(n: int, *, noise: float = 0.0, seed: int = 0, system: str | None = SYSTEM) -> list[dict[str, Any]]:
    """n rows of a four-label workload; `noise` is the share of answers drawn at random."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        label = rng.choice(list(WORDS))
        words = rng.choices(WORDS[label], k=rng.randint(2, 4)) + rng.choices(FILLER, k=rng.randint(3, 8))
        rng.shuffle(words)
        answer = rng.choice(list(WORDS)) if rng.random() < noise else label
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": " ".join(words) + f" {i}"}, {"role": "assistant", "content": answer}]
        found.append({"id": f"r{i}", "messages": messages, "model": "gpt-4o", "created": 1_700_000_000 + 600 * i})
    return found


def write_rows(path: Path, lines: Sequence[Any]) -> Path:
    """Write rows as JSON Lines; a string is written as it is."""
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def traffic(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of traffic: `traffic(rows(100))`."""

    def write(lines: Sequence[Any], name: str = "traffic.jsonl") -> Path:
        return write_rows(tmp_path / name, lines)

    return write


@pytest.fixture(scope="session")
def linear_pilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pilot with the linear rung alone."""
    folder = tmp_path_factory.mktemp("linear")
    pilot([write_rows(folder / "traffic.jsonl", rows(900, noise=0.02))], folder / "out", LINEAR)
    return folder / "out"


LINEAR = PilotSettings(students=("linear",), max_loss=0.05)


@pytest.fixture
def teacher() -> Iterator[TeacherServer]:
    """A teacher on loopback."""
    with TeacherServer() as server:
        yield server


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """1 USD for 1,000 input tokens and 10 for 1,000 output tokens: a call for one sample costs 0.03."""
    path = tmp_path / "prices.csv"
    path.write_text("model,input,cached_input,output\nteacher-1,1000,1000,10000\n")
    return path


@pytest.fixture
def folder(tmp_path: Path, teacher: TeacherServer) -> Folder:
    """A folder to label in."""
    from tests.flows.label_folder import Folder

    inside = tmp_path / "work"
    inside.mkdir()
    return Folder(inside, teacher)
