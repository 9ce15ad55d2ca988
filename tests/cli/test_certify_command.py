"""`tiercel certify` and `tiercel certificate verify` on real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flows.conftest import write_rows
from tiercel.cli.main import run


def _rows(rate: float, *, missed: float = 0.0, n: int = 1_200, verified: int = 300) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    wrong = rng.random(n) < rate
    judged = wrong & (rng.random(n) >= missed)
    seen = set(rng.permutation(n)[:verified].tolist())
    return [
        {"id": f"a{i}", "judged": float(judged[i])} | ({"verified": float(wrong[i])} if i in seen else {})
        for i in range(n)
    ]


def test_a_good_student_is_certified_and_the_record_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, record = write_rows(tmp_path / "judged.jsonl", _rows(0.02)), tmp_path / "record.json"
    assert run(["certify", str(source), "--max-loss", "0.08", "--output", str(record)]) == 0
    told = capsys.readouterr().out
    assert "have a mean loss of at most 0.08" in told
    assert "asymptotic, certifies nothing" in told
    assert run(["certificate", "verify", str(record)]) == 0
    assert "follows from its 1,200 rows" in capsys.readouterr().out
    assert run(["certificate", "verify", str(record), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["certified"], found["rows"], found["verified_rows"]) == (True, True, 1200, 300)
    assert '"a17"' not in record.read_text(), "a record holds hashes of ids only"


def test_a_kind_judge_does_not_get_a_bad_student_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "judged.jsonl", _rows(0.3, missed=0.95))
    assert run(["certify", str(source), "--max-loss", "0.08", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert not found["certified"]
    assert found["judge"]["bias"]["high"] < 0
    assert found["judge"]["missed"]["value"] > 0.8


def test_scores_are_turned_into_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = _rows(0.02)
    scores = [{k: v if k == "id" else 1 - v for k, v in row.items()} for row in losses]
    shown = []
    for name, lines, options in (("losses", losses, []), ("scores", scores, ["--scores"])):
        source = write_rows(tmp_path / f"{name}.jsonl", lines)
        assert run(["certify", str(source), "--max-loss", "0.08", "--json", *options]) == 0
        shown.append(json.loads(capsys.readouterr().out)["upper"])
    assert shown[0] == pytest.approx(shown[1])
    # Scores taken for losses certify nothing: nearly all would be wrong.
    assert run(["certify", str(tmp_path / "scores.jsonl"), "--max-loss", "0.08"]) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"id": "x", "judged": 1.2}, "`judged` is 1.2, outside [0, 1]"),
        ({"id": "x", "judged": -0.1}, "outside [0, 1]"),
        ({"id": "x", "judged": 0, "verified": 3}, "`verified` is 3, outside"),
        ({"id": "x", "judged": 0, "verified": True}, "`verified` is True; give a number"),
        ({"id": "x", "judged": "good"}, "`judged` is 'good'; give a number"),
        ({"id": "x"}, "`judged` is missing"),
        ({"judged": 0}, "`id` is missing"),
        ({"id": "a3", "judged": 0}, "id 'a3' stands on line 4 too"),
        (["a list"], "a row is an object"),
        ('{"id": "x", "judged": NaN}', "not valid JSON"),
        ('{"id": "x", "jud', "not valid JSON"),
    ],
)
def test_a_row_that_can_not_be_is_named_by_its_line(
    line: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "judged.jsonl", [*_rows(0.0, n=9, verified=3), line])
    assert run(["certify", str(source), "--max-loss", "0.1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {source}, line 10: ")
    assert words in told
    assert told.count("\n") == 1


def test_files_that_can_not_be_certified_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = write_rows(tmp_path / "none.jsonl", _rows(0.0, n=50, verified=0))
    assert run(["certify", str(none), "--max-loss", "0.1"]) == 2
    assert "a judge alone certifies nothing" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").touch()
    assert run(["certify", str(tmp_path / "empty.jsonl"), "--max-loss", "0.1"]) == 2
    assert "holds no rows" in capsys.readouterr().err
    assert run(["certify", str(tmp_path / "gone.jsonl"), "--max-loss", "0.1"]) == 2
    capsys.readouterr()
    assert run(["certify", str(none), "--max-loss", "1.5"]) == 2
    assert "--max-loss is 1.5" in capsys.readouterr().err


def test_a_record_that_was_changed_or_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, record = write_rows(tmp_path / "judged.jsonl", _rows(0.02)), tmp_path / "record.json"
    assert run(["certify", str(source), "--max-loss", "0.08", "-o", str(record)]) == 0
    content = json.loads(record.read_text())
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content | {"max_loss": 0.01}))
    assert run(["certificate", "verify", str(changed)]) == 1
    changed.write_text(record.read_text()[:200])
    assert run(["certificate", "verify", str(changed)]) == 1
    changed.write_text('{"kind": "other"}')
    capsys.readouterr()
    assert run(["certificate", "verify", str(changed)]) == 1
    assert "no record of `tiercel certify`" in capsys.readouterr().err
