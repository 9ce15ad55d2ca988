from __future__ import annotations

import json

import numpy as np
import pytest

from tiercel.cli.main import run
from tiercel.stats.bounds import binomial_pvalue


def test_the_rows_planned_certify_as_often_as_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--max-loss", "0.05", "--expected-loss", "0.025", "--offload", "0.8", "--confidence", "0.9"]
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["expected_loss"] == pytest.approx(0.02)
    rng = np.random.default_rng(1)
    for row in found["rows"]:
        for n, risk, bound in ((row["calibration"], 0.02, 0.05), (row["audits"], 0.025, 0.05 / 0.8)):
            holds = np.array([binomial_pvalue(k, n, bound) <= 0.1 for k in range(n + 1)])
            had = holds[rng.binomial(n, risk, 20_000)].mean()
            assert row["chance"] - 0.01 <= had <= row["chance"] + 0.2
        assert row["traffic"] == -(-row["calibration"] * 100 // 26)
        assert row["audits"] < row["calibration"], "of what is not answered no audit is needed"


def test_segments_hold_together_with_the_chance_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--max-loss", "0.1", "--expected-loss", "0.02", "--segments", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rng = np.random.default_rng(2)
    for row in found["rows"]:
        n = row["calibration"]
        assert row["calibration_in_all"] == 3 * n
        holds = np.array([binomial_pvalue(k, n, 0.1) <= 0.05 / 3 for k in range(n + 1)])
        assert holds[rng.binomial(n, 0.02, (20_000, 3))].all(axis=1).mean() >= row["chance"] - 0.01


def test_the_table_reads_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 0
    told = capsys.readouterr().out
    assert "loss at most 2 % with 95 % confidence, 1 % expected over all requests" in told
    assert "without an error: 149 calibration rows" in told
    assert "590" in told
    assert run(["plan", "--segments", "4", "--expected-loss", "0.03"]) == 0
    told = capsys.readouterr().out
    assert "no number" in told
    assert "allow more" in told


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-loss", "0"),
        ("--max-loss", "nan"),
        ("--confidence", "1"),
        ("--expected-loss", "-0.1"),
        ("--offload", "0"),
        ("--segments", "0"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", option, value]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {option} is ")
    assert told.count("\n") == 1


def test_a_student_that_answers_little_needs_no_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--max-loss", "0.05", "--offload", "0.04", "--expected-loss", "0.5", "--json"]) == 0
    assert {row["audits"] for row in json.loads(capsys.readouterr().out)["rows"]} == {0}
