"""A decoder whose answers a tagger seconds: offered where both were trained, and served as it was judged."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flows.test_structure import SYSTEM, as_json, encoder, order, write
from tiercel import load, verify_bundle
from tiercel.flows import micro_rung, pilot
from tiercel.flows.candidates import Candidate
from tiercel.flows.pilot import PilotSettings

pytest.importorskip("xllamacpp")

__all__ = ["encoder"]


def test_a_tagger_that_agrees_is_a_signal_of_the_served_decoder(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_rung, "PLAN", {"size": 250_000, "epochs": 12})
    offered = list[Candidate]()

    def choose(candidates: list[Candidate]) -> Candidate:
        offered.extend(candidates)
        return candidates[-1]

    monkeypatch.setattr(pilot, "_choose", choose)
    traffic = write(tmp_path / "traffic.jsonl", 600, as_json)
    settings = PilotSettings(max_loss=0.5, encoder=str(encoder), threads=1, students=("tagger", "micro"))
    result = pilot.pilot([traffic], tmp_path / "out", settings)
    tagger, micro, both = offered
    assert [s.name for s in result.students] == ["tagger", "micro", "micro-seconded"]
    assert both.stage.train_seconds == 0.0
    assert both.size_bytes == micro.size_bytes + tagger.size_bytes
    for part in ("gate", "calibration"):
        assert [a.text for a in both.responses[part].answers] == [a.text for a in micro.responses[part].answers]
        agree = both.responses[part].signals[:, -1]
        assert set(agree) <= {0.0, 1.0}
    agree = both.responses["calibration"].signals[:, -1] > 0
    right, second_right = micro.losses["calibration"] == 0, tagger.losses["calibration"] == 0
    assert 0 < agree.mean() < 1
    assert (agree == second_right)[right].all(), "to agree with what is right is to be right"
    verify_bundle(tmp_path / "out")
    bundle = load(tmp_path / "out")
    assert bundle.student.signals[-1] == "agreement"
    requests = [order(random.Random(i))[0] for i in range(8)]
    served, own, second = (r.respond(requests) for r in (bundle.student, micro.responder, tagger.responder))
    assert [a.text for a in served.answers] == [a.text for a in own.answers]
    same: list[Any] = [_value(a.text) == _value(b.text) for a, b in zip(own.answers, second.answers, strict=True)]
    assert (served.signals[:, -1] == np.array(same, dtype=float)).all()
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": requests[0]}]
    assert bundle.answer(asked).tier in ("student", "frontier")


def _value(text: str) -> object:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
