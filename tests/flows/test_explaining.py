"""Rationales: asked for apart from the answer, kept apart from it, paid for once, and never served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import rows, write_rows
from tests.flows.label_folder import Folder, request, requests
from tests.flows.teacher_server import TeacherServer, choice
from tests.flows.test_labelling import TOOL
from tiercel import load, verify_bundle
from tiercel.cli.main import run
from tiercel.datasets.contract import example_from
from tiercel.flows.explaining import LONGEST, QUESTION, rationale_of, rationales_of, why
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.students import micro_labels
from tiercel.students.micro_training import MicroPlan

BECAUSE = "The request speaks of a parcel that has not come."


@pytest.fixture
def reasons(teacher: TeacherServer) -> TeacherServer:
    """A teacher that answers, and says why when it is asked."""
    teacher.behave = lambda text, times: BECAUSE if text == QUESTION else "delivery"
    return teacher


class TestLabelling:
    def test_a_rationale_is_asked_for_after_the_answer_and_kept_apart(
        self, folder: Folder, reasons: TeacherServer
    ) -> None:
        lines = [request("where is it", id="new", tools=[TOOL]), *rows(3)]
        counts = folder.label(lines, rationale=True, task="classification")
        assert (counts.labelled, counts.kept, counts.explained, counts.unexplained) == (1, 3, 4, 0)
        assert [r["metadata"]["rationale"] for r in folder.rows] == [BECAUSE] * 4
        new = folder.rows[0]
        assert new["messages"][-1] == {"role": "assistant", "content": "delivery"}
        assert [r["content"] for r in new["responses"]] == ["delivery"]
        first, *asked = reasons.bodies
        assert first["messages"] == lines[0]["messages"]
        assert sorted(b["messages"][-2]["content"] for b in asked) == sorted(
            ["delivery", *(r["messages"][-1]["content"] for r in lines[1:])]
        )
        for body in asked:
            assert (body["messages"][-1]["content"], body["messages"][-2]["role"]) == (QUESTION, "assistant")
            assert "tools" not in body

    def test_answers_are_the_same_with_and_without(self, folder: Folder, reasons: TeacherServer) -> None:
        folder.label(requests(4))
        before = folder.rows
        counts = folder.label(requests(4), rationale=True)
        assert counts.explained == 4
        assert len(reasons.bodies) == 8, "no answer is paid for again"
        for old, new in zip(before, folder.rows, strict=True):
            assert new["metadata"].pop("rationale") == BECAUSE
            assert new == old

    def test_a_row_that_has_one_is_not_asked(self, folder: Folder, reasons: TeacherServer) -> None:
        lines = rows(3)
        lines[1]["metadata"] = {"rationale": "I know why."}
        counts = folder.label(lines, rationale=True)
        assert (counts.explained, len(reasons.bodies)) == (3, 2)
        assert folder.rows[1]["metadata"] == {"rationale": "I know why."}

    def test_a_teacher_that_declines_leaves_the_row_without(self, folder: Folder, teacher: TeacherServer) -> None:
        told = iter([choice("I'm sorry, I can't help with that."), choice("Because it", finish_reason="length")])
        teacher.behave = lambda text, times: [next(told)] if text == QUESTION else "delivery"
        counts = folder.label(requests(2), rationale=True, at_once=1)
        assert (counts.labelled, counts.explained, counts.unexplained, counts.rationales_left) == (2, 0, 2, 0)
        assert all("rationale" not in r["metadata"] for r in folder.rows)

    def test_the_budget_holds_for_rationales_and_the_rest_is_asked_later(
        self, folder: Folder, reasons: TeacherServer, prices: Path
    ) -> None:
        # A call costs 0.03. Asking for an answer may cost 0.3 by its bytes, asking why 0.6.
        asked = {"prices": prices, "max_tokens": 8, "at_once": 1, "rationale": True}
        counts = folder.label(requests(3), budget=0.5, **asked)
        assert counts.spent_usd == pytest.approx(0.09)
        assert (counts.labelled, counts.left) == (3, 0)
        assert (counts.explained, counts.unexplained, counts.rationales_left) == (0, 3, 3)
        counts = folder.label(requests(3), budget=9.0, **asked)
        assert (counts.explained, counts.rationales_left) == (3, 0)
        assert (counts.spent_usd, len(reasons.bodies)) == (pytest.approx(0.18), 6)

    def test_the_command_says_how_many_and_goes_to_the_pilot(
        self, folder: Folder, reasons: TeacherServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = write_rows(folder.folder / "requests.jsonl", requests(3))
        command = ["label", str(source), "--output", str(folder.output), "--frontier-url", reasons.url]
        assert run([*command, "--model", "teacher-1", "--rationale"]) == 0
        assert "3 with a rationale, 0 without" in capsys.readouterr().out


def test_calls_are_explained_as_text() -> None:
    call = {"type": "function", "function": {"name": "cancel", "arguments": '{"order": 3}'}}
    messages = [{"role": "user", "content": "stop order 3"}, {"role": "assistant", "tool_calls": [call]}]
    asked = why(example_from({"messages": messages, "tools": [TOOL]}))
    assert [m.role for m in asked.messages] == ["user", "assistant", "user"]
    assert asked.messages[1].text == 'cancel({"order": 3})'
    assert (asked.answer, asked.tools, asked.messages[1].tool_calls) == (None, None, None)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (None, None),
        ({"rationale": 3}, None),
        ({"rationale": " \n"}, None),
        ({"rationale": "It\n says  so."}, "It says so."),
        ({"rationale": "why " * 400}, ("why " * 400)[:LONGEST].strip()),
    ],
)
def test_what_counts_as_a_rationale(metadata: Any, found: str | None) -> None:
    assert rationale_of(metadata) == found


def test_rows_without_any_have_none_at_all() -> None:
    assert rationales_of([None, {"shop": 1}]) is None
    assert rationales_of([None, {"rationale": "so"}]) == ["", "so"]


def test_a_pilot_learns_to_say_why_and_never_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(micro_labels, "label_plan", lambda *_: MicroPlan(size=120_000, epochs=8))
    lines = rows(300)
    for line in lines[::2]:
        line["metadata"] = {"rationale": f"Because it says {line['messages'][1]['content'].split()[0]}."}
    traffic = write_rows(tmp_path / "traffic.jsonl", lines)
    result = pilot([traffic], tmp_path / "out", PilotSettings(max_loss=0.5, threads=1, students=("micro",)))
    [student] = result.students
    told = student.note.split("also learnt to say why, from ")[1].split()[0]
    assert 0.3 * result.rows.train < int(told) < 0.7 * result.rows.train
    verify_bundle(tmp_path / "out")
    served = load(tmp_path / "out").student
    responses = served.respond([r["messages"][1]["content"] for r in rows(30, seed=9)])
    assert {a.text for a in responses.answers} <= {"refund", "delivery", "account", "praise"}
    held = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"Because it says" not in held
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["students"][0]["note"] == student.note
