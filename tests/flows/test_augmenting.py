"""Augmentation against a real server that bills: what is shown, what is taken, what is written, what is spent."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import FILLER, LINEAR, SYSTEM, rows, write_rows
from tests.flows.teacher_server import KEY, TeacherServer, choice, failing
from tiercel.cli.main import run
from tiercel.datasets.near_duplicates import NearDuplicateIndex
from tiercel.errors import DataError, ProviderError
from tiercel.flows.augmenting import AugmentCounts, AugmentSettings, augment_file
from tiercel.flows.finished_pilot import reopen
from tiercel.flows.labelling import LabelSettings
from tiercel.flows.pilot import pilot
from tiercel.flows.progress import Silent
from tiercel.providers.pacing import Retry

HARD = ["voucher", "gift", "coupon", "redeem", "discount", "code"]
TOPICS = ["scooter", "lantern", "kettle", "pillow", "bicycle", "sofa", "teapot", "ladder", "mirror", "carpet"]
QUICK = Retry(tries=3, first_s=0.01, longest_s=0.02)


def hard(n: int, seed: int) -> list[dict[str, Any]]:
    """Requests about vouchers, whose label hangs on nothing that a student could see."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        words = [*rng.choices(HARD, k=4), *rng.choices(FILLER, k=4)]
        rng.shuffle(words)
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{' '.join(words)} {seed}{i}"},
            {"role": "assistant", "content": rng.choice(["refund", "delivery", "account", "praise"])},
        ]
        found.append({"id": f"h{i}", "messages": messages, "model": "gpt-4o"})
    return found


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder and traffic of a pilot whose student fails on requests about vouchers."""
    folder = tmp_path_factory.mktemp("augment")
    lines = [*rows(500), *hard(110, 3)]
    random.Random(1).shuffle(lines)
    source = write_rows(folder / "traffic.jsonl", lines)
    pilot([source], folder / "out", LINEAR)
    return folder / "out", source


def is_writing(text: str) -> bool:
    return "JSON array of" in text


class Writer:
    """A teacher that writes new requests about vouchers and answers them; each list says other things."""

    def __init__(self) -> None:
        self.lists = 0
        self.more: list[str] = []

    def __call__(self, text: str, times: int) -> Any:
        if not is_writing(text):
            return "refund"
        self.lists += 1
        rng = random.Random(text)
        wanted = int(text.split("JSON array of ")[1].split()[0])
        made = [
            f"{rng.choice(HARD)} {rng.choice(HARD)} {' '.join(rng.sample(TOPICS, 4))} {rng.randrange(10**6)}"
            for _ in range(wanted)
        ]
        return "Here they are:\n```json\n" + json.dumps([*made, *self.more]) + "\n```"


def augmented(
    piloted: tuple[Path, Path], folder: Path, teacher: TeacherServer, n: int = 12, **more: Any
) -> tuple[AugmentCounts, list[dict[str, Any]], Silent]:
    progress = Silent()
    asking = LabelSettings(**{"frontier": teacher.settings(), "retry": QUICK, **more})
    output = folder / "more.jsonl"
    counts = augment_file(piloted[0], [piloted[1]], output, AugmentSettings(rows=n, asking=asking, threads=1), progress)
    return counts, [json.loads(line) for line in output.read_text().splitlines()], progress


def test_rows_like_the_failures_are_written_and_answered(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    teacher.behave = Writer()
    counts, found, progress = augmented(piloted, tmp_path, teacher)
    assert (counts.kept, counts.wanted, len(found), progress.warnings) == (12, 12, 12, [])
    first = counts.groups[0]
    assert set(first.words) & set(HARD), "the cluster is that of the vouchers"
    assert first.kept == first.wanted >= 6
    names = {group.name for group in counts.groups}
    for row in found:
        assert row["metadata"]["augmented"] in names
        assert row["metadata"]["teacher"] == "teacher-1"
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == SYSTEM
        assert row["messages"][2]["content"] == "refund"
    assert len({row["id"] for row in found}) == 12
    assert KEY not in (tmp_path / "more.jsonl").read_text()


def test_no_prompt_shows_a_calibration_or_test_row(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    teacher.behave = Writer()
    _, found, _ = augmented(piloted, tmp_path, teacher, n=30)
    parts = reopen(piloted[0], [piloted[1]], Silent()).prepared
    prompts = [b["messages"][-1]["content"] for b in teacher.bodies]
    shown = "\n".join(p for p in prompts if is_writing(p))
    assert any(text in shown for text in [*parts.train.texts, *parts.gate.texts])
    unseen = {**dict.fromkeys(parts.calibration.texts), **dict.fromkeys(parts.test.texts)}
    assert len(unseen) > 100
    assert not any(text in shown for text in unseen)
    hidden = [*parts.calibration.ids, *parts.test.ids]
    told = json.dumps([row["metadata"] for row in found])
    assert not any(f'"{identity}"' in told for identity in hidden)


def test_what_repeats_a_row_of_the_traffic_is_not_taken(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    parts = reopen(piloted[0], [piloted[1]], Silent()).prepared
    writer = Writer()
    copies = {"train": parts.train, "gate": parts.gate, "calibration": parts.calibration, "test": parts.test}
    writer.more = [rows.texts[0].upper() + " " for rows in copies.values()]
    writer.more += ["", "ошибка подарочной картой и кодом", "voucher " * 400, 7]  # pyright: ignore[reportAttributeAccessIssue]
    teacher.behave = writer
    counts, found, _ = augmented(piloted, tmp_path, teacher)
    assert counts.kept == 12
    lists = writer.lists
    # What a first list put aside as a training row is one in every list.
    assert counts.refused["near-duplicate of a protected row"] == 3 * lists
    assert counts.refused["near-duplicate of a training row"] == lists
    assert (counts.refused["empty"], counts.refused["another language"]) == (lists, lists)
    assert counts.refused["overlong"] == lists
    index = NearDuplicateIndex()
    for part in copies.values():
        for text in part.texts:
            index.add(text)
    assert all(index.find(row["messages"][1]["content"]) is None for row in found)


def test_answers_go_through_the_checks_of_labelling(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    writer = Writer()
    asked = list[str]()

    def behave(text: str, times: int) -> Any:
        if is_writing(text):
            return writer(text, times)
        asked.append(text)
        kinds = ["refund", "I'm sorry, but I can't help with that.", "a long answer that is no label", "account"]
        return kinds[len(asked) % 4]

    teacher.behave = behave
    counts, found, _ = augmented(piloted, tmp_path, teacher, at_once=1)
    assert counts.kept == 12
    assert {row["messages"][2]["content"] for row in found} <= {"refund", "account"}
    assert counts.labels.refused > 0
    assert counts.labels.unfit > 0
    rejects = [json.loads(line) for line in (tmp_path / "more.rejects.jsonl").read_text().splitlines()]
    assert {r["kind"] for r in rejects} == {"refused", "unfit"}


def test_a_request_on_which_the_teacher_contradicts_itself_is_not_taken(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    writer = Writer()

    def behave(text: str, times: int) -> Any:
        if is_writing(text):
            return writer(text, times)
        split = ["refund", "delivery", "account", "praise"]
        return [choice(x) for x in (split if random.Random(text).random() < 0.5 else ["praise"] * 3 + ["refund"])]

    teacher.behave = behave
    counts, found, _ = augmented(piloted, tmp_path, teacher, samples=4)
    assert {row["messages"][2]["content"] for row in found} == {"praise"}
    assert all(row["metadata"]["agreement"] == 0.75 for row in found)
    assert counts.labels.unfit > 0


def test_the_budget_holds_and_the_same_command_goes_on(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer, prices: Path
) -> None:
    # A provider that counts nothing is charged at the upper estimate: some 11 USD a call.
    teacher.behave, teacher.usage = Writer(), False
    more: dict[str, Any] = {"prices": prices, "at_once": 1}
    counts, found, _ = augmented(piloted, tmp_path, teacher, budget=60.0, **more)
    assert counts.out_of_money
    assert 0 < len(found) < 12
    assert counts.labels.left > 0
    assert counts.labels.spent_usd is not None
    assert 30 < counts.labels.spent_usd <= 60
    paid = len(teacher.bodies)
    counts, found, _ = augmented(piloted, tmp_path, teacher, budget=600.0, **more)
    assert (counts.kept, len(found), counts.out_of_money) == (12, 12, False)
    assert set(teacher.asked.values()) == {1}, "nothing is paid for twice"
    assert len(teacher.bodies) > paid
    before = len(teacher.bodies)
    again, same, _ = augmented(piloted, tmp_path, teacher, budget=600.0, **more)
    assert (len(teacher.bodies), same, again.kept) == (before, found, 12)


def test_a_run_that_the_provider_ended_goes_on(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    writer, calls = Writer(), list[int]()

    def behave(text: str, times: int) -> Any:
        calls.append(1)
        return failing(401) if len(calls) > 6 else writer(text, times)

    teacher.behave = behave
    with pytest.raises(ProviderError, match="the same command goes on from there"):
        augmented(piloted, tmp_path, teacher, at_once=1)
    assert not (tmp_path / "more.jsonl").exists()
    answered = {b["messages"][-1]["content"] for b in teacher.bodies[:6]}
    teacher.bodies.clear()
    teacher.behave = writer
    counts, _, _ = augmented(piloted, tmp_path, teacher, at_once=1)
    assert counts.kept == 12
    assert not answered & {b["messages"][-1]["content"] for b in teacher.bodies}


def test_a_teacher_that_repeats_itself_is_not_asked_for_ever(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer
) -> None:
    def behave(text: str, times: int) -> Any:
        if not is_writing(text):
            return "refund"
        return json.dumps(["my voucher for the scooter can not be redeemed today"]) if "voucher" in text else "no list"

    teacher.behave = behave
    counts, found, progress = augmented(piloted, tmp_path, teacher, n=20)
    assert len(found) == 1
    assert counts.refused["near-duplicate of an earlier new request"] > 0
    assert any("19 of 20 rows are missing" in w for w in progress.warnings)


def test_other_traffic_than_the_pilots_is_refused(
    tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer, traffic: Callable[..., Path]
) -> None:
    asking = LabelSettings(frontier=teacher.settings())
    settings = AugmentSettings(rows=3, asking=asking)
    for lines, says in (
        (rows(400, seed=9), "these are not the rows that .* was made from"),
        (rows(300, system="Another service."), "no row is of the bundle's workload"),
    ):
        with pytest.raises(DataError, match=says):
            augment_file(piloted[0], [traffic(lines)], tmp_path / "o.jsonl", settings, Silent())
    assert teacher.bodies == []


def test_a_pilot_trains_on_what_was_written(tmp_path: Path, piloted: tuple[Path, Path], teacher: TeacherServer) -> None:
    teacher.behave = Writer()
    augmented(piloted, tmp_path, teacher)
    found = pilot([piloted[1], tmp_path / "more.jsonl"], tmp_path / "out", LINEAR)
    assert found.rows.augmented == 12
    # A pilot of a pilot: the rows that were written are known again.
    again = reopen(tmp_path / "out", [piloted[1], tmp_path / "more.jsonl"], Silent())
    assert len(again.prepared.train) == found.rows.train


def test_the_command_line(
    tmp_path: Path,
    piloted: tuple[Path, Path],
    teacher: TeacherServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TIERCEL_FRONTIER_KEY", KEY)
    teacher.behave = Writer()
    output = tmp_path / "more.jsonl"
    arguments = ["augment", str(piloted[0]), str(piloted[1]), "--output", str(output), "--rows", "5"]
    assert run(arguments) == 2
    assert "augment needs a teacher" in capsys.readouterr().err
    arguments += ["--frontier-url", teacher.url, "--model", "teacher-1"]
    assert run([*arguments, "--rows", "0"]) == 2
    assert run([*arguments, "--budget", "1"]) == 2
    assert "no price is known for teacher-1" in capsys.readouterr().err
    assert run(arguments) == 0
    told = capsys.readouterr().out
    assert f"5 of 5 rows written to {output}" in told
    assert f"next: tiercel pilot {piloted[1]} {output}" in told
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 5
