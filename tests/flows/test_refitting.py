"""The chosen rungs trained once more with the gate's rows: what changes, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import LINEAR, rows
from tests.flows.tiny import make_encoder
from tiercel import load
from tiercel.flows.bundle import read_certificate
from tiercel.flows.candidates import Candidate, LadderSettings
from tiercel.flows.ladder import climb
from tiercel.flows.pilot import pilot
from tiercel.flows.preparation import Prepared, prepare, row_key, task_of
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.routing.certificate import Certificate
from tiercel.students.ngrams import ngrams

TRAFFIC = Callable[..., Path]


def prepared_of(path: Path) -> Prepared:
    read = read_workload([path], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    return prepare(
        read.key, read.examples, None, task=task, labels=labels, shape=shape, max_loss=0.05, seed=0, progress=Silent()
    )


def settings_in(work: Path, encoder: Path | None = None) -> LadderSettings:
    return LadderSettings(
        students=("linear",) if encoder is None else ("encoder",),
        encoder=None if encoder is None else str(encoder),
        max_loss=0.05,
        confidence=0.95,
        seed=0,
        threads=1,
        work=work,
    )


def refitted(first: Candidate) -> Candidate:
    assert first.refit is not None
    return first.refit()


class Said(Silent):
    """Keeps the names of the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)


def test_the_gate_still_learns_from_rows_that_its_student_had_not_seen(tmp_path: Path, traffic: TRAFFIC) -> None:
    prepared = prepared_of(traffic(rows(400, noise=0.05)))
    (first,), _ = climb(prepared, settings_in(tmp_path / "work"), Silent())
    again = refitted(first)
    assert again.responses["gate"] is first.responses["gate"]
    np.testing.assert_array_equal(again.losses["gate"], first.losses["gate"])
    assert again.expected_offload == first.expected_offload
    for part in ("calibration", "test"):
        assert not np.array_equal(again.responses[part].signals, first.responses[part].signals)
        rows_of_part = getattr(prepared, part)
        served = again.responder.respond(rows_of_part.texts)
        np.testing.assert_allclose(again.responses[part].signals, served.signals, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(again.losses[part], prepared.losses(rows_of_part, served.answers))


def test_it_has_learnt_the_words_of_the_gate_rows(tmp_path: Path, traffic: TRAFFIC) -> None:
    prepared = prepared_of(traffic(rows(400)))
    (first,), _ = climb(prepared, settings_in(tmp_path / "work"), Silent())
    said = {feature for text in prepared.gate.texts for feature in ngrams(text)}

    def known(candidate: Candidate) -> set[str]:
        return said & set(candidate.responder.student.parts[0].vocabulary)  # pyright: ignore

    assert known(refitted(first)) == said
    assert known(first) < said


def test_the_certificate_is_over_what_the_bundle_answers(tmp_path: Path, traffic: TRAFFIC) -> None:
    path = traffic(rows(900, noise=0.02))
    result = pilot([path], tmp_path / "out", LINEAR)
    assert "trained once more with the gate's" in result.students[0].note
    bundle, certificate = load(tmp_path / "out"), read_certificate(tmp_path / "out" / "bundle")
    assert isinstance(certificate, Certificate)
    examples = {row_key(e): e for e in read_workload([path], Silent()).examples}
    chosen = [examples[row.key] for row in certificate.rows]
    texts = [bundle.manifest.reader.read(e.messages) or "" for e in chosen]
    served = bundle.student.respond(texts)
    np.testing.assert_allclose(
        bundle.policy.score(served.signals), [row.score for row in certificate.rows], rtol=1e-6, atol=1e-9
    )
    wrong = [a.text != (e.answer.text if e.answer else None) for a, e in zip(served.answers, chosen, strict=True)]
    assert wrong == [row.student_loss == 1 for row in certificate.rows]


def test_where_the_gate_rows_are_few_beside_the_others_nothing_is_trained_again(
    tmp_path: Path, traffic: TRAFFIC
) -> None:
    prepared = prepared_of(traffic(rows(400)))
    few = prepared.gate.take(np.arange(len(prepared.train) // 11))
    (first,), _ = climb(replace(prepared, gate=few), settings_in(tmp_path / "work"), Silent())
    assert first.refit is None


def test_encoders_are_trained_again_and_taken_up_when_cut_off(tmp_path: Path, traffic: TRAFFIC) -> None:
    texts = [r["messages"][1]["content"] for r in rows(300)]
    encoder = make_encoder(tmp_path / "encoder", texts)
    prepared = prepared_of(traffic(rows(300, noise=0.3)))
    settings = settings_in(tmp_path / "work", encoder)
    candidates, _ = climb(prepared, settings, Silent())
    twins = next(c for c in candidates if c.name == "encoder-twins")
    again = refitted(twins)
    assert again.stage.train_seconds > twins.stage.train_seconds
    assert again.size_bytes == pytest.approx(twins.size_bytes, rel=0.2)
    assert again.responder.student.powers == twins.responder.student.powers  # pyright: ignore
    said = Said()
    candidates, _ = climb(prepared, settings, said)
    taken = refitted(next(c for c in candidates if c.name == "encoder-twins"))
    assert not any("fine-tuning" in s or "training linear" in s for s in said.stages)
    np.testing.assert_array_equal(taken.responses["test"].signals, again.responses["test"].signals)
