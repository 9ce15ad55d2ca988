"""The pilot from a file of traffic to bundle and report, on workloads small enough to train in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.flows.conftest import LINEAR, SYSTEM, rows, write_rows
from tests.flows.tiny import make_encoder
from tiercel import load, verify_bundle
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.progress import Silent
from tiercel.report.result import PilotResult

TRAFFIC = Callable[..., Path]


def test_report_has_every_field_that_is_promised(linear_pilot: Path) -> None:
    report = json.loads((linear_pilot / "report.json").read_text())
    assert {"workload", "task", "rows", "students", "policy", "certificate", "test", "cost"} <= report.keys()
    assert {"train", "calibration", "test", "rejected", "duplicates"} <= report["rows"].keys()
    student = report["students"][0]
    assert {"name", "rung", "accuracy", "loss", "latency_ms", "train_seconds", "size_bytes"} <= student.keys()
    assert {"cost_per_1k_usd", "macro_f1", "macro_precision", "macro_recall"} <= student.keys()
    assert student["cost_per_1k_usd"] > 0
    assert report["details"]["labels"][0].keys() >= {"label", "precision", "recall", "f1", "rows"}
    assert student["accuracy"].keys() == {"value", "low", "high"}
    assert student["latency_ms"].keys() == {"p50", "p99"}
    assert {"student", "thresholds", "offload"} <= report["policy"].keys()
    assert {"max_loss", "confidence", "bound", "offload", "n", "method"} <= report["certificate"].keys()
    assert {"offload", "excess_loss", "accuracy", "escalated"} <= report["test"].keys()
    assert {
        "frontier_usd_per_1k",
        "policy_usd_per_1k",
        "saved_fraction",
        "saved_usd_per_year",
        "break_even_days",
    } <= report["cost"].keys()
    msgspec.convert(report, PilotResult)


def test_an_empty_list_of_rungs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--students names no rung"):
        pilot([tmp_path / "none.jsonl"], tmp_path / "out", PilotSettings(students=()))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"micro_size": 49_999}, "--micro-size is 49,999; give parameters from 50,000 to 100,000,000"),
        ({"micro_size": 10**9}, "--micro-size is 1,000,000,000; give parameters from"),
        ({"micro_size": 10**6, "students": ("linear",)}, "--micro-size is for the rung micro, which --students leaves"),
        ({"precision": "q5_0"}, "--precision is 'q5_0'; choose from q4_0, q4_k_m, q8_0, f16"),
        ({"precision": "f16", "students": ("tagger",)}, "--precision is for the rungs micro and slm, which --students"),
    ],
)
def test_a_decoder_that_can_not_be_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PilotSettings(**settings).check()
    PilotSettings(micro_size=10**6, precision="q4_k_m", students=("micro",)).check()


def test_settings_of_a_decoder_that_was_not_trained_are_told(tmp_path: Path) -> None:
    told = Silent()
    settings = PilotSettings(max_loss=0.3, micro_size=10**6, precision="f16")
    pilot([write_rows(tmp_path / "traffic.jsonl", rows(200))], tmp_path / "out", settings, progress=told)
    unused = [warning.partition(": ")[0] for warning in told.warnings if "was not used" in warning]
    assert unused == ["--micro-size was not used", "--precision was not used"]


def test_pilot_certifies_an_easy_workload_and_the_certificate_verifies(linear_pilot: Path) -> None:
    report = json.loads((linear_pilot / "report.json").read_text())
    assert report["certificate"]["bound"] == 0.05
    assert report["certificate"]["offload"] > 0.8
    assert report["test"]["excess_loss"]["value"] <= 0.05
    certificate, outcome = verify_bundle(linear_pilot)
    assert outcome.threshold == certificate.threshold is not None
    assert len(certificate.rows) == report["rows"]["calibration"]


def test_costs_follow_from_price_offload_and_volume(linear_pilot: Path) -> None:
    report = json.loads((linear_pilot / "report.json").read_text())
    cost, offload = report["cost"], report["certificate"]["offload"]
    student = report["students"][0]["cost_per_1k_usd"]
    assert cost["policy_usd_per_1k"] == pytest.approx((1 - offload) * cost["frontier_usd_per_1k"] + student)
    # One request every 600 seconds.
    assert cost["requests_per_year"] == pytest.approx(365 * 86_400 / 600, rel=0.02)
    saved = cost["frontier_usd_per_1k"] - cost["policy_usd_per_1k"]
    assert cost["saved_usd_per_year"] == pytest.approx(saved / 1000 * cost["requests_per_year"])


def test_equal_runs_give_equal_bundles(tmp_path: Path, traffic: TRAFFIC) -> None:
    path = traffic(rows(400, noise=0.05))
    for name in ("a", "b"):
        pilot([path], tmp_path / name, LINEAR)

    def content(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content(tmp_path / "a" / "bundle") == content(tmp_path / "b" / "bundle")


def test_parts_share_no_near_duplicate(tmp_path: Path, traffic: TRAFFIC) -> None:
    from tiercel.flows.preparation import prepare, task_of
    from tiercel.flows.traffic import read_workload

    base = rows(200)
    copies = [json.loads(json.dumps(r).replace("the ", "the  ").replace('"id": "r', '"id": "c')) for r in base]
    for copy in copies:
        copy["messages"][1]["content"] += " !"
    read = read_workload([traffic([*base, *copies])], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    assert labels is not None
    prepared = prepare(
        read.key,
        read.examples,
        None,
        task=task,
        labels=labels,
        shape=shape,
        max_loss=0.05,
        seed=3,
        progress=Silent(),
    )
    parts = [prepared.train, prepared.gate, prepared.calibration, prepared.test]
    numbers = [{i.lstrip("rc") for i in part.ids} for part in parts]
    assert all(not (a & b) for i, a in enumerate(numbers) for b in numbers[i + 1 :])
    assert sum(map(len, parts)) == 400


def test_rows_that_repeat_the_test_file_are_left_out(tmp_path: Path, traffic: TRAFFIC) -> None:
    everything = rows(500)
    test = traffic(everything[:100], "test.jsonl")
    result = pilot([traffic(everything)], tmp_path / "out", LINEAR, test=test)
    assert result.rows.test == 100
    assert result.rows.leaked >= 100
    assert result.rows.train + result.rows.gate + result.rows.calibration + result.rows.leaked == 500


def test_a_test_file_may_hold_more_rows_of_other_workloads(tmp_path: Path, traffic: TRAFFIC) -> None:
    other = rows(60, system="Translate the message into French, please, and say nothing else.", seed=3)
    tool = {"type": "function", "function": {"name": "cancel_order", "parameters": {}}}
    with_tools = [row | {"id": f"t{i}", "tools": [tool]} for i, row in enumerate(rows(20, seed=4))]
    test = traffic([*other, *with_tools, *rows(40, seed=2)], "test.jsonl")
    result = pilot([traffic(rows(300))], tmp_path / "out", LINEAR, test=test)
    assert result.rows.test == 40
    assert f"80 of 120 rows of {test} are of another workload, left out" in result.warnings


def test_repeats_of_another_workload_are_no_volume_of_this_one(tmp_path: Path, traffic: TRAFFIC) -> None:
    def anonymous(*, system: str, seed: int) -> list[dict[str, object]]:
        return [{k: v for k, v in row.items() if k != "id"} for row in rows(300, system=system, seed=seed)]

    own = anonymous(system=SYSTEM, seed=0)
    other = anonymous(system="Translate what follows into French, please, and nothing else.", seed=1)[:100]
    results = {}
    for name, lines in {"alone": [*own, *own[:50]], "mixed": [*own, *own[:50], *other, *other * 5]}.items():
        results[name] = pilot([traffic(lines, f"{name}.jsonl")], tmp_path / name, LINEAR)
    assert [r.rows.duplicates for r in results.values()] == [50, 50]
    volumes = [r.cost.requests_per_year for r in results.values()]
    assert volumes[0] == volumes[1] == pytest.approx(350 / 300 * 365 * 86_400 / 600, rel=0.02)


def test_an_out_of_scope_label_is_told_by_its_name_and_measured(tmp_path: Path, traffic: TRAFFIC) -> None:
    lines = rows(600)
    for row in lines:
        if row["messages"][2]["content"] == "praise":
            row["messages"][2]["content"] = "Out of scope"
    scope = pilot([traffic(lines)], tmp_path / "out", LINEAR).scope
    assert scope is not None
    assert scope.label == "Out of scope"
    assert 0 < scope.outside < scope.rows
    assert scope.auroc > 0.95
    assert "Out of scope" in (tmp_path / "out" / "report.html").read_text()
    assert pilot([traffic(rows(300), "b.jsonl")], tmp_path / "b", LINEAR).scope is None


def test_verified_references_count_for_the_student(tmp_path: Path, traffic: TRAFFIC) -> None:
    """A frontier that is wrong in one row of ten, half of them verified: the frontier's accuracy is seen."""
    noisy = rows(1_200, noise=0.13, seed=5)
    clean = rows(1_200, seed=5)
    right = {r["messages"][1]["content"]: r["messages"][2]["content"] for r in clean}
    for row in noisy[::2]:
        text = row["messages"][1]["content"]
        if text in right:
            row["reference"] = right[text]
    result = pilot([traffic(noisy)], tmp_path / "out", LINEAR)
    assert result.certificate.verified_rows > 0
    assert result.test.frontier_accuracy is not None
    verify_bundle(tmp_path / "out")


def test_noise_gives_no_certificate_and_says_what_is_needed(tmp_path: Path, traffic: TRAFFIC) -> None:
    result = pilot([traffic(rows(500, noise=1.0))], tmp_path / "out", PilotSettings(students=("linear",)))
    assert result.certificate.bound is None
    assert result.policy.student is None
    assert result.test.offload == 0
    assert result.certificate.advice
    _, outcome = verify_bundle(tmp_path / "out")
    assert outcome.threshold is None
    answered = load(tmp_path / "out").answer([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "x"}])
    assert (answered.tier, answered.answer, answered.reason) == ("frontier", None, "not certified")


def test_several_labels_a_request(tmp_path: Path, traffic: TRAFFIC) -> None:
    rng = np.random.default_rng(0)
    from tests.flows.conftest import WORDS

    lines = []
    for i in range(600):
        chosen = [k for k in WORDS if rng.random() < 0.4] or ["praise"]
        words = [w for k in chosen for w in rng.choice(WORDS[k], 3)]
        rng.shuffle(words)
        lines.append(
            {
                "messages": [
                    {"role": "user", "content": " ".join(words) + f" {i}"},
                    {"role": "assistant", "content": ", ".join(chosen)},
                ]
            }
        )
    result = pilot([traffic(lines)], tmp_path / "out", PilotSettings(students=("linear",), max_loss=0.1))
    assert "several labels" in result.workload.answer_shape
    assert result.certificate.offload > 0.5
    answered = load(tmp_path / "out").answer(
        [{"role": "user", "content": "parcel courier tracking password login reset"}]
    )
    assert answered.answer is None or {p.strip() for p in answered.answer.split(",")} == {"delivery", "account"}


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [r["messages"][1]["content"] for r in rows(500)]
    return make_encoder(tmp_path_factory.mktemp("encoder"), texts)


def test_encoder_rungs_train_quantise_and_serve(tmp_path: Path, traffic: TRAFFIC, tiny_encoder: Path) -> None:
    settings = PilotSettings(students=("linear", "encoder"), encoder=str(tiny_encoder), max_loss=0.05, threads=1)
    result = pilot([traffic(rows(500, noise=0.02))], tmp_path / "out", settings)
    assert [s.name for s in result.students][:3] == ["linear", "encoder-frozen", "encoder-tuned"]
    tuned = result.students[2]
    assert tuned.accuracy is not None
    assert tuned.accuracy.value > 0.9
    assert tuned.precision == "int8" or "fp32 is kept" in tuned.note
    assert tuned.parity is not None
    assert tuned.parity >= 0.995


def test_a_pilot_that_is_killed_goes_on_where_it_stood(tmp_path: Path, traffic: TRAFFIC, tiny_encoder: Path) -> None:
    path, out = traffic(rows(500, noise=0.02)), tmp_path / "out"
    command = [sys.executable, "-c", "from tiercel.cli import main; main()", "pilot", str(path), "--out", str(out)]
    command += ["--students", "linear,encoder", "--encoder", str(tiny_encoder), "--max-loss", "0.05", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "fine-tuning" in line:
                break
        deadline = time.monotonic() + 60
        while not list(out.glob(".work/*/*.checkpoint")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert list(out.glob(".work/*/*.checkpoint")), "killed before the first epoch was kept"
    assert not (out / "bundle").exists()
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    before, _, after = told.stderr.partition("once more with the gate's rows")
    assert "training linear" not in before
    assert "fine-tuning" in before
    assert "training linear" in after
    assert not (out / ".work").exists()
    whole = tmp_path / "whole"
    settings = PilotSettings(students=("linear", "encoder"), encoder=str(tiny_encoder), max_loss=0.05, threads=1)
    pilot([path], whole, settings)
    policy = "bundle/policy.json"
    assert (out / policy).read_bytes() == (whole / policy).read_bytes(), "a resumed pilot differs from a whole one"


def test_ctrl_c_exits_130_and_leaves_nothing_half_written(tmp_path: Path, traffic: TRAFFIC, tiny_encoder: Path) -> None:
    path, out = traffic(rows(500)), tmp_path / "out"
    command = [sys.executable, "-c", "from tiercel.cli import main; main()", "pilot", str(path), "--out", str(out)]
    command += ["--students", "encoder", "--encoder", str(tiny_encoder), "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "embedding" in line:
                break
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(60) == 130
    assert not (out / "bundle").exists()
    assert not (out / "report.json").exists()


class TestBadInput:
    """Each gets the one clear error that a user needs."""

    def refuses(self, path: Path, out: Path, *words: str, **settings: object) -> None:
        with pytest.raises((DataError, ConfigurationError)) as caught:
            pilot([path], out, PilotSettings(**{"students": ("linear",), **settings}))  # type: ignore[arg-type]
        assert all(w in str(caught.value) for w in words), str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (out / "bundle").exists()

    def test_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.jsonl"
        path.touch()
        self.refuses(path, tmp_path / "out", "holds no rows")

    def test_one_row(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        self.refuses(traffic(rows(1)), tmp_path / "out", "1 rows can be used", "at least 60")

    def test_one_label_only(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(200)
        for line in lines:
            line["messages"][2]["content"] = "refund"
        self.refuses(traffic(lines), tmp_path / "out", "every answer is 'refund'")

    def test_answers_all_different(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(200)
        for i, line in enumerate(lines):
            line["messages"][2]["content"] = f"a sentence of its own, number {i}, about nothing"
        self.refuses(traffic(lines), tmp_path / "out", "no student is called 'linear'", "--task classification")

    def test_no_answers(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(200)
        for line in lines:
            del line["messages"][2]
        self.refuses(traffic(lines), tmp_path / "out", "no row has an answer")

    def test_unknown_student(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        self.refuses(traffic(rows(100)), tmp_path / "out", "'forest'", "linear, encoder", students=("forest",))

    def test_bound_outside_range(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        self.refuses(traffic(rows(100)), tmp_path / "out", "--max-loss", "0.02", max_loss=2.0)

    def test_unknown_workload(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        self.refuses(traffic(rows(100)), tmp_path / "out", "no workload '9'", "tiercel workloads", workload="9")

    def test_encoder_that_is_none(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        self.refuses(
            traffic(rows(100)), tmp_path / "out", "has no config.json", students=("encoder",), encoder=str(tmp_path)
        )

    def test_test_file_of_another_workload(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        other = traffic(rows(50, system="Translate the message into French."), "other.jsonl")
        with pytest.raises(DataError, match="no row of the test file belongs to this workload"):
            pilot([traffic(rows(200))], tmp_path / "out", LINEAR, test=other)

    def test_two_tasks_in_one_workload_are_warned_of(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(400)
        for i, line in enumerate(lines[:60]):
            line["messages"][2]["content"] = f"I would say that this one, number {i}, needs a longer answer than a word"
        result = pilot([traffic(lines)], tmp_path / "out", LINEAR)
        assert any("two tasks" in w for w in result.warnings)
        assert result.rows.unparsed == 60

    def test_two_workloads_in_one_file_are_warned_of(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(400) + rows(100, system="Translate what follows into French, please, and nothing else.", seed=1)
        result = pilot([traffic(lines)], tmp_path / "out", LINEAR)
        assert any("2 workloads" in w for w in result.warnings)
        assert result.workload.rows == 400

    def test_label_with_one_example_is_warned_of(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(300)
        lines[7]["messages"][2]["content"] = "legal"
        result = pilot([traffic(lines)], tmp_path / "out", LINEAR)
        assert result.rows.train + result.rows.gate + result.rows.calibration + result.rows.test == 300
        assert any("'legal'" in w for w in result.warnings)

    def test_long_messages_are_read_and_answered(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = rows(200)
        for line in lines[:5]:
            line["messages"][1]["content"] += " lorem" * 35_000
        result = pilot([traffic(lines)], tmp_path / "out", LINEAR)
        assert result.workload.rows == 200

    def test_damaged_rows_are_set_aside_and_counted(self, tmp_path: Path, traffic: TRAFFIC) -> None:
        lines = [*rows(200), '{"messages": [{"role": "user", "content": "cut', '{"messages": NaN}']
        result = pilot([traffic(lines)], tmp_path / "out", LINEAR)
        assert result.rows.rejected == 2
        rejected = [json.loads(x) for x in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
        assert [r["line"] for r in rejected] == [201, 202]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk's end: the same write fails."""
    path = write_rows(tmp_path / "traffic.jsonl", rows(400))
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); from tiercel.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "pilot", str(path), "--out", str(tmp_path / "out"), "--students", "linear"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "error: " in told.stderr.splitlines()[-1]
    assert "disk is full" in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, traffic: TRAFFIC) -> None:
    path, blocked = traffic(rows(100)), tmp_path / "file"
    blocked.write_text("not a folder")
    command = [sys.executable, "-c", "from tiercel.cli import main; main()", "pilot", str(path)]
    told = subprocess.run([*command, "--out", str(blocked / "out")], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].startswith(f"error: {blocked}")
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"requests_a_day": -5.0}, "--requests-per-day"),
        ({"requests_a_day": float("nan")}, "--requests-per-day"),
        ({"threads": 0}, "--threads"),
        ({"examples": -1}, "--examples"),
        ({"max_loss": float("nan")}, "--max-loss"),
        ({"confidence": float("nan")}, "--confidence"),
    ],
)
def test_a_number_that_can_not_be_is_refused_by_its_option(setting: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{option} is "):
        PilotSettings(**setting).check()


def test_a_folder_called_bundle_stops_a_pilot_before_it_trains(tmp_path: Path, traffic: TRAFFIC) -> None:
    (tmp_path / "out" / "bundle").mkdir(parents=True)
    (tmp_path / "out" / "bundle" / "app.js").write_text("mine")
    with pytest.raises(ConfigurationError, match="is no bundle that a pilot wrote"):
        pilot([traffic(rows(100))], tmp_path / "out", LINEAR)
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["bundle", "app.js"]
