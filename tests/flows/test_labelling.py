"""Labelling against a real server that bills: what is asked, what is written, what is spent, and what a kill leaves."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import rows, write_rows
from tests.flows.label_folder import Folder, request, requests
from tests.flows.teacher_server import KEY, TeacherServer, choice, failing
from tiercel.cli.main import run
from tiercel.errors import DataError
from tiercel.flows.preparation import reader_for, rows_of, task_of
from tiercel.flows.traffic import read_workload

TOOL = {
    "type": "function",
    "function": {
        "name": "cancel",
        "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]},
    },
}


class TestOutput:
    def test_only_what_has_no_answer_is_asked(self, folder: Folder, teacher: TeacherServer) -> None:
        answered = rows(12)
        lines = [*answered[:6], request("where is it", id="new", metadata={"shop": 3}), *answered[6:]]
        counts = folder.label(lines)
        assert (counts.rows, counts.kept, counts.labelled, len(teacher.bodies)) == (13, 12, 1, 1)
        assert [r["id"] for r in folder.rows] == [r["id"] for r in lines], "the order of the source"
        assert folder.rows[0]["messages"] == answered[0]["messages"]
        new = folder.rows[6]
        assert new["messages"][-1] == {"role": "assistant", "content": "delivery"}
        told = {"shop": 3, "teacher": "teacher-1", "samples": 1, "agreement": None, "cost_usd": None}
        assert new["metadata"] == told
        assert [r["content"] for r in new["responses"]] == ["delivery"]
        assert new["model"] == "teacher-1-2025-01-01"
        assert new["usage"]["input_tokens"] == 10
        asked = teacher.bodies[0]
        assert asked["model"] == "teacher-1"
        assert asked["messages"] == lines[6]["messages"]
        assert asked["max_tokens"] == 1024

    def test_again_asks_all_and_keeps_the_earlier_answer(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.behave = lambda text, times: "praise"
        lines = rows(12)
        counts = folder.label(lines, again=True)
        assert (counts.kept, counts.labelled, len(teacher.bodies)) == (0, 12, 12)
        assert {b["messages"][-1]["role"] for b in teacher.bodies} == {"user"}
        for before, after in zip(lines, folder.rows, strict=True):
            assert after["messages"][-1]["content"] == "praise"
            earlier = {"model": "gpt-4o", "content": before["messages"][-1]["content"]}
            assert [r["content"] for r in after["responses"]] == [earlier["content"], "praise"]
            assert after["responses"][0] == earlier

    def test_a_pilot_reads_it(self, folder: Folder, teacher: TeacherServer) -> None:
        lines = rows(400)
        right = {r["messages"][1]["content"]: r["messages"][2]["content"] for r in lines}
        teacher.behave = lambda text, times: right[text]
        assert folder.label([{**r, "messages": r["messages"][:2]} for r in lines]).labelled == 400
        found = read_workload([folder.output], folder.progress)
        task, labels, _ = task_of(found.examples, None, folder.progress)
        assert labels is not None
        assert (task, sorted(labels.labels)) == ("classification", ["account", "delivery", "praise", "refund"])
        read, unused = rows_of(found.examples, reader_for(found.key, found.examples), task, labels)
        assert (len(read), unused, found.counts.rejected, folder.progress.warnings) == (400, 0, 0, [])
        assert [r.text for r in read.reference] == [r["messages"][2]["content"] for r in lines]

    def test_equal_requests_are_paid_for_once(self, folder: Folder, teacher: TeacherServer, prices: Path) -> None:
        counts = folder.label([request("same", id="a"), request("same", id="b")], budget=20.0, prices=prices, at_once=2)
        assert (counts.labelled, counts.shared, len(teacher.bodies)) == (2, 1, 1)
        assert [r["metadata"]["cost_usd"] for r in folder.rows] == [pytest.approx(0.03), 0.0]

    def test_output_may_be_zipped(self, folder: Folder) -> None:
        folder.output = folder.folder / "labelled.jsonl.gz"
        folder.label(requests(3))
        with gzip.open(folder.output) as stream:
            assert len(stream.readlines()) == 3

    def test_what_the_request_says_goes_to_the_teacher(self, folder: Folder, teacher: TeacherServer) -> None:
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        teacher.behave = lambda text, times: "{}"
        folder.label(
            [request("x", response_format=schema, tools=[TOOL], model="other")],
            frontier={"model": None},
            temperature=0.5,
            max_tokens=7,
            logprobs=True,
        )
        asked = teacher.bodies[0]
        wanted = {"model": "other", "temperature": 0.5, "max_tokens": 7, "logprobs": True, "tools": [TOOL]}
        assert {k: asked[k] for k in wanted} == wanted
        assert asked["response_format"] == schema

    def test_log_probabilities_are_kept(self, folder: Folder, teacher: TeacherServer) -> None:
        probabilities = {"content": [{"token": "de", "logprob": -0.5}, {"token": "livery", "logprob": 0}]}
        teacher.behave = lambda text, times: [choice(logprobs=probabilities)]
        folder.label(requests(1))
        assert folder.rows[0]["responses"][0]["logprobs"] == [-0.5, 0.0]


class TestSamples:
    def test_the_majority_is_kept(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.behave = lambda text, times: [choice("refund"), choice("Delivery."), choice("delivery")]
        counts = folder.label([*rows(20), request("x", id="new")], samples=3)
        new = folder.rows[-1]
        assert new["messages"][-1]["content"] == "Delivery."
        assert new["metadata"]["agreement"] == pytest.approx(2 / 3)
        assert [r["content"] for r in new["responses"]] == ["refund", "Delivery.", "delivery"]
        assert counts.agreement == pytest.approx(2 / 3)
        assert [b.get("n") for b in teacher.bodies] == [3]

    @pytest.mark.parametrize("way", ["one choice", "refuses n"])
    def test_a_provider_without_n_is_asked_several_times(
        self, folder: Folder, teacher: TeacherServer, way: str
    ) -> None:
        def behave(text: str, times: int) -> Any:
            if way == "refuses n" and "n" in teacher.bodies[-1]:
                return failing(400, param="n", code="unsupported_parameter")
            return [choice(f"answer {times}")]

        teacher.behave = behave
        counts = folder.label([request("x"), request("y")], samples=3, at_once=1)
        assert (counts.labelled, counts.failed) == (2, 0)
        assert [len(r["responses"]) for r in folder.rows] == [3, 3]
        assert sum("n" in b for b in teacher.bodies) == 1
        assert sum("n" not in b for b in teacher.bodies) == (5 if way == "one choice" else 6)

    def test_more_samples_later_ask_only_for_the_rest(self, folder: Folder, teacher: TeacherServer) -> None:
        folder.label(requests(4))
        counts = folder.label(requests(4), samples=3)
        assert counts.labelled == 4
        assert [b.get("n", 1) for b in teacher.bodies] == [1] * 4 + [2] * 4

    def test_unusable_samples_count_against_agreement(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.behave = lambda text, times: [choice("refund"), choice(None, refusal="no"), choice("refund")]
        folder.label([request("x")], samples=3)
        assert folder.rows[0]["metadata"]["agreement"] == pytest.approx(2 / 3)
        teacher.behave = lambda text, times: [choice(None, refusal="no"), choice("refund"), choice(None, refusal="no")]
        assert folder.label([request("y")], samples=3).refused == 1

    @pytest.mark.parametrize("field", ["max_tokens", "logprobs"])
    def test_a_field_that_a_model_does_not_know_is_dropped(
        self, folder: Folder, teacher: TeacherServer, field: str
    ) -> None:
        def behave(text: str, times: int) -> Any:
            return failing(400, param=field) if field in teacher.bodies[-1] else "refund"

        teacher.behave = behave
        counts = folder.label(requests(12), logprobs=True, max_tokens=9)
        assert (counts.labelled, counts.failed) == (12, 0)
        assert teacher.bodies[-1].get("max_completion_tokens") == (9 if field == "max_tokens" else None)


class TestRejects:
    def test_each_fault_is_counted_apart_and_written_down(self, folder: Folder, teacher: TeacherServer) -> None:
        answers: dict[str, Any] = {
            "declines": [choice("I'm sorry, but I can't help with that request.")],
            "marked": [choice(None, refusal="I won't.")],
            "filtered": [choice("par", finish_reason="content_filter")],
            "blocked": failing(400, code="content_filter"),
            "cut": [choice("deliv", finish_reason="length")],
            "empty": [choice("  ")],
            "chatty": [choice("The message is about a parcel, so I would say that it belongs to deliveries here.")],
            "too long": failing(400, code="context_length_exceeded"),
            "good": [choice("refund")],
        }
        teacher.behave = lambda text, times: answers[text]
        lines = [*rows(40), *(request(name, id=name) for name in answers), "no json", "{}"]
        counts = folder.label(lines, at_once=1)
        assert (counts.refused, counts.truncated, counts.unfit, counts.failed) == (4, 1, 2, 1)
        assert (counts.labelled, counts.kept, counts.unreadable) == (1, 40, 2)
        assert len(folder.rows) == 41
        found = {r.get("id", r["line"]): r for r in folder.rejects}
        assert {k: r["kind"] for k, r in found.items()} == {
            "declines": "refused",
            "marked": "refused",
            "filtered": "refused",
            "blocked": "refused",
            "cut": "truncated",
            "empty": "unfit",
            "chatty": "unfit",
            "too long": "failed",
            50: "unreadable",
            51: "unreadable",
        }
        assert "context_length_exceeded" in found["too long"]["reason"]
        assert found["cut"]["responses"][0]["content"] == "deliv"
        assert found["chatty"]["reason"] == "it is none of the 4 labels"
        assert all(r["reason"] for r in folder.rejects)
        assert not folder.holds(KEY)

    def test_a_label_that_the_file_does_not_show_yet_is_a_label(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.behave = lambda text, times: "complaint"
        assert folder.label([*rows(40), request("x")]).labelled == 1

    def test_the_schema_of_the_request_holds(self, folder: Folder, teacher: TeacherServer) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        teacher.behave = lambda text, times: text
        texts = ['{"n": 1}', '{"n": "1"}', "{}", '{"n": ']
        counts = folder.label([request(t, id=t, response_format=wanted) for t in texts])
        assert (counts.labelled, counts.unfit) == (1, 3)
        assert {r["id"]: r["reason"].rpartition(": ")[2] for r in folder.rejects} == {
            '{"n": "1"}': "$.n is no integer",
            "{}": "$ lacks 'n'",
            '{"n": ': "it is no JSON, which response_format asks for",
        }

    def test_calls_must_be_of_the_tools_that_were_offered(self, folder: Folder, teacher: TeacherServer) -> None:
        def call(name: str, arguments: Any) -> list[dict[str, Any]]:
            return [choice(None, tool_calls=[{"id": "1", "function": {"name": name, "arguments": arguments}}])]

        answers = {
            "good": call("cancel", '{"order": 1}'),
            "as an object": call("cancel", {"order": 1}),
            "wrong type": call("cancel", '{"order": "x"}'),
            "no json": call("cancel", "{"),
            "other tool": call("delete", "{}"),
        }
        teacher.behave = lambda text, times: answers[text]
        counts = folder.label([request(name, id=name, tools=[TOOL]) for name in answers])
        assert (counts.labelled, counts.unfit) == (2, 3)
        assert [r["messages"][-1]["tool_calls"][0]["function"]["arguments"] for r in folder.rows] == [
            '{"order": 1}',
            '{"order":1}',
        ]

    def test_rejects_of_an_earlier_run_go(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.behave = lambda text, times: failing(422)
        assert folder.label(requests(1)).failed == 1
        teacher.behave = lambda text, times: "refund"
        assert folder.label(requests(1)).rejects is None
        assert not (folder.folder / "labelled.rejects.jsonl").exists()


POOL = [{**r, "messages": r["messages"][:2]} for r in rows(300)]


class TestChoice:
    @pytest.fixture(autouse=True)
    def hashed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the encoder, which takes seconds to load."""
        monkeypatch.setattr("tiercel.students.base_models.installed_encoder", lambda: None)

    def test_so_many_are_labelled_and_more_later(self, folder: Folder, teacher: TeacherServer) -> None:
        right = {r["messages"][1]["content"]: r["messages"][2]["content"] for r in rows(300)}
        teacher.behave = lambda text, times: right[text]
        counts = folder.label(POOL, choose=60)
        assert (counts.labelled, counts.not_chosen, len(teacher.bodies)) == (60, 240, 60)
        first = {r["id"] for r in folder.rows}
        folder.label(POOL, choose=60)
        assert len(teacher.bodies) == 60
        folder.label(POOL, choose=90)
        assert len(teacher.bodies) == 90
        assert first < {r["id"] for r in folder.rows}
        lines = [json.loads(line) for line in folder.journal.read_text().splitlines()]
        assert [len(r["keys"]) for r in lines if r["kind"] == "chosen"] == [30, 10, 10, 10, 10, 10, 10]

    def test_the_same_seed_chooses_the_same(self, folder: Folder) -> None:
        found: list[set[str]] = []
        for seed in (0, 0, 1):
            folder.label(POOL, choose=30, seed=seed)
            found.append({r["id"] for r in folder.rows})
            folder.journal.unlink()
        assert found[0] == found[1] != found[2]

    def test_answered_rows_teach_the_first_round(self, folder: Folder, teacher: TeacherServer) -> None:
        right = {r["messages"][1]["content"]: r["messages"][2]["content"] for r in rows(300)}
        teacher.behave = lambda text, times: right[text]
        counts = folder.label([*rows(300)[:60], *POOL[60:]], choose=40)
        assert (counts.kept, counts.labelled, counts.not_chosen) == (60, 40, 200)
        lines = [json.loads(line) for line in folder.journal.read_text().splitlines()]
        assert [len(r["keys"]) for r in lines if r["kind"] == "chosen"] == [10, 10, 10, 10]
        assert len(folder.rows) == 100

    def test_free_text_is_chosen_in_one_go(self, folder: Folder, teacher: TeacherServer) -> None:
        teacher.behave = lambda text, times: f"Thank you for writing to us about {text}, we will look into it."
        counts = folder.label(POOL, choose=50)
        assert (counts.labelled, counts.not_chosen) == (50, 250)

    def test_a_budget_that_ends_between_rounds(self, folder: Folder, teacher: TeacherServer, prices: Path) -> None:
        counts = folder.label(POOL, choose=100, budget=1.2, prices=prices, max_tokens=2)
        assert counts.labelled + counts.left == 100
        assert counts.not_chosen == 200
        assert counts.rest_at_most_usd is not None
        assert len(teacher.bodies) * 0.03 <= 1.2


class TestCommand:
    def label(self, folder: Folder, *more: str) -> int:
        source = str(folder.folder / "requests.jsonl")
        return run(["label", source, "-o", str(folder.output), "--frontier-url", folder.teacher.url, *more])

    def test_done(self, folder: Folder, capsys: pytest.CaptureFixture[str], prices: Path) -> None:
        write_rows(folder.folder / "requests.jsonl", [*rows(12), *requests(5)])
        more = ["--frontier-model", "teacher-1", "--prices", str(prices), "--samples", "3"]
        assert self.label(folder, *more) == 0
        told = capsys.readouterr().out
        assert "17 answered rows" in told
        assert "5 new, 12 as they were" in told
        assert "samples agree to 100" in told
        assert "spent: $0.35" in told
        assert f"next: tiercel pilot {folder.output}" in told.replace("\n", "")

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (choice("I'm sorry, but I can't help with that request."), "3 answers can be used (3 refused)"),
            (choice('{"n": '), "3 answers can be used (3 of the wrong form)"),
            (choice('{"n": 1', finish_reason="length"), "3 answers can be used (3 cut off)"),
        ],
    )
    def test_a_teacher_of_whom_nothing_can_be_used_is_a_failure(
        self,
        folder: Folder,
        teacher: TeacherServer,
        answer: dict[str, Any],
        says: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        teacher.behave = lambda text, times: [answer]
        write_rows(folder.folder / "requests.jsonl", [request(f"r{i}", response_format=wanted) for i in range(3)])
        assert self.label(folder, "--model", "m") == 1
        told = capsys.readouterr()
        [line] = [line for line in told.err.splitlines() if "can be used" in line]
        assert says in line
        assert str(folder.folder / "labelled.rejects.jsonl") in line
        assert "next:" not in told.out + told.err

    def test_nothing_to_ask_is_no_failure(self, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        write_rows(folder.folder / "requests.jsonl", rows(12))
        assert self.label(folder, "--model", "m") == 0
        assert "next: tiercel pilot" in capsys.readouterr().out

    def test_json(self, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        write_rows(folder.folder / "requests.jsonl", requests(2))
        assert self.label(folder, "--model", "m", "--json") == 0
        counts = json.loads(capsys.readouterr().out)
        assert (counts["labelled"], counts["teacher"], counts["spent_usd"]) == (2, "m", None)

    def test_the_budget_ends(self, folder: Folder, capsys: pytest.CaptureFixture[str], prices: Path) -> None:
        write_rows(folder.folder / "requests.jsonl", requests(50))
        more = ["--model", "teacher-1", "--prices", str(prices), "--max-tokens", "2", "--budget", "1"]
        assert self.label(folder, *more) == 3
        told = capsys.readouterr().out
        assert "the budget of $1.00 ended" in told
        assert "requests are left, about $" in told
        assert "at most $" in told

    def test_the_provider_fails(
        self,
        folder: Folder,
        teacher: TeacherServer,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("TIERCEL_FRONTIER_KEY", KEY)
        write_rows(folder.folder / "requests.jsonl", requests(3))
        teacher.behave = lambda text, times: failing(401)
        assert self.label(folder) == 1
        told = capsys.readouterr()
        assert "answered 401" in told.err
        assert KEY not in told.out + told.err
        teacher.behave = lambda text, times: failing(422) if text.endswith("1") else "refund"
        assert self.label(folder) == 1
        assert "1 not answered" in capsys.readouterr().out
        assert len(folder.rows) == 2

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (["--budget", "-1"], "--budget is -1"),
            (["--budget", "nan"], "--budget is nan"),
            (["--rate", "0"], "--rate is 0"),
            (["--samples", "0"], "--samples is 0"),
            (["--choose", "0"], "--choose is 0"),
            (["--task", "poetry"], "no task is called 'poetry'"),
            (["--max-tokens", "0"], "1 or more"),
            (["--timeout", "0"], "timeout"),
            (["--output", "x.parquet"], "ends in .jsonl"),
            (["--output", "requests.jsonl"], "also an input"),
            (["--frontier-url", ""], "give --frontier-url"),
            (["--prices", "none.csv"], "no such price file"),
        ],
    )
    def test_a_users_mistake(
        self,
        folder: Folder,
        more: list[str],
        words: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        teacher: TeacherServer,
    ) -> None:
        monkeypatch.chdir(folder.folder)
        write_rows(folder.folder / "requests.jsonl", requests(1))
        assert self.label(folder, *more) == 2
        assert words in capsys.readouterr().err
        assert not teacher.bodies

    def test_nothing_to_read(self, folder: Folder) -> None:
        with pytest.raises(DataError, match="none of its 1 rows"):
            folder.label(["nonsense"])
