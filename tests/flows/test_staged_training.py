"""Training in stages is tried beside plain training and kept where held-out rows say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tiercel.flows import micro_rung
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.progress import Silent
from tiercel.flows.staged_training import choose_way, said_of

HELD = [f"answer {i}" for i in range(200)]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a training says."""

    held_out_nll: tuple[float | None, ...]


def told(loss: float, seed: int) -> Told:
    noise = np.random.default_rng(seed).normal(0, 0.02, len(HELD))
    return Told(held_out_nll=(None, *(2 * (loss + noise[1:])).tolist()))


def chosen(work: Path, staged: float, calls: list[str]) -> tuple[Told, str, str]:
    def train(name: str, difficulty: object) -> Told:
        calls.append(name)
        (work / name).mkdir()
        return told(0.5 if difficulty is None else staged, len(calls))

    found, name, verdict = choose_way("plain", train, Told, [1.0], HELD, work, Silent(), seed=0)
    return found, name, said_of(verdict)


@pytest.mark.parametrize(("staged", "name", "says"), [(0.2, "plain-staged", " kept"), (0.6, "plain", "not kept")])
def test_held_out_rows_decide_and_the_decision_is_said(tmp_path: Path, staged: float, name: str, says: str) -> None:
    calls = list[str]()
    found, chosen_name, said = chosen(tmp_path, staged, calls)
    assert (chosen_name, calls) == (name, ["plain", "plain-staged"])
    assert says in said
    assert "on 200 rows" in said
    again = list[str]()
    same, _, _ = chosen(tmp_path, staged, again)
    assert (same, again) == (found, []), "a pilot that is taken up trains neither again"


def test_no_difference_is_no_help(tmp_path: Path) -> None:
    assert chosen(tmp_path, 0.5, [])[1] == "plain"


def test_without_a_difficulty_there_is_one_training(tmp_path: Path) -> None:
    calls = list[str]()

    def train(name: str, difficulty: object) -> Told:
        calls.append(name)
        return told(0.5, 0)

    _, name, verdict = choose_way("plain", train, Told, None, HELD, tmp_path, Silent(), seed=0)
    assert (name, verdict, calls, said_of(verdict)) == ("plain", None, ["plain"], "")


def test_a_pilot_says_whether_stages_helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    from tests.flows.test_generating import as_text
    from tests.flows.test_structure import write

    monkeypatch.setattr(micro_rung, "PLAN", {"size": 120_000, "epochs": 16})
    traffic = write(tmp_path / "traffic.jsonl", 260, as_text)
    settings = PilotSettings(max_loss=0.5, threads=1, task="generation", students=("micro",), curriculum=True)
    [student] = pilot([traffic], tmp_path / "out", settings).students
    assert "stages of rising difficulty" in student.note
    assert student.parity is not None
    assert not (tmp_path / "out" / ".work").exists()
