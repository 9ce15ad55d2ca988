"""Pilots by segment and by user: thresholds where a certificate is had, the frontier where not, and proof that verifies."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import LINEAR, SYSTEM, rows, write_rows
from tiercel import load, verify_bundle
from tiercel.cli.main import run
from tiercel.errors import BundleError, CertificateError, ConfigurationError, DataError
from tiercel.flows.answering import answer_file
from tiercel.flows.bundle import SEGMENTED, WHOLE
from tiercel.flows.certifying import check_segment, cluster_field
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.progress import Silent
from tiercel.report.page import render_page
from tiercel.report.result import PilotResult
from tiercel.routing.certificate import Certificate
from tiercel.routing.segments import SegmentedCertificate

TRAFFIC = Callable[..., Path]


def by_team(n: int = 1_500) -> list[dict[str, Any]]:
    """Two teams that are easy, one whose answers are noise, one with a single row, and rows without a team."""
    lines, rng = rows(n, noise=0.01), random.Random(1)
    for i, line in enumerate(lines):
        if i == 3:
            line["metadata"] = {"team": "lonely"}
            continue
        team = rng.choice(["gold", "gold", "silver", "noise", None])
        line["metadata"] = {"team": team} if team else {}
        if team == "noise":
            line["messages"][2]["content"] = rng.choice(["refund", "delivery", "account", "praise"])
    return lines


SETTINGS = PilotSettings(students=("linear",), max_loss=0.1, segment="team")


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PilotResult]:
    folder = tmp_path_factory.mktemp("segments")
    return folder / "out", pilot([write_rows(folder / "t.jsonl", by_team())], folder / "out", SETTINGS)


def ask(text: str) -> list[dict[str, object]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


SURE = ask("parcel courier tracking late address shipping")


def test_a_segment_is_answered_where_it_is_certified_and_nowhere_else(piloted: tuple[Path, PilotResult]) -> None:
    out, result = piloted
    assert result.segments is not None
    by_name = {s.name: s for s in result.segments.segments}
    assert by_name["gold"].threshold is not None
    assert by_name["gold"].offload > 0.8
    assert by_name["noise"].offload < 0.3
    if "lonely" in by_name:
        assert not by_name["lonely"].tested
    bundle = load(out)
    told = {
        name: bundle.answer(SURE, metadata=metadata)
        for name, metadata in {"gold": {"team": "gold"}, "one": {"team": "lonely"}, "new": {"team": "new"}}.items()
    }
    assert (told["gold"].tier, told["gold"].answer, told["gold"].segment) == ("student", "delivery", "gold")
    assert told["one"].tier == "frontier"
    assert (told["new"].tier, told["new"].reason) == ("frontier", "segment not certified")
    assert told["new"].proposal is not None
    assert bundle.answer(SURE, metadata={}).segment == "", "requests without a team are a segment too"
    assert bundle.answer(SURE).reason == "segment unknown", "a caller who gives no metadata may hide the team"


def test_the_report_and_the_page_show_every_segment(piloted: tuple[Path, PilotResult]) -> None:
    out, result = piloted
    assert result.segments is not None
    names = {s.name: s for s in result.segments.segments}
    assert sum(s.rows for s in names.values()) == result.rows.calibration
    assert sum(s.test_rows for s in names.values()) <= result.rows.test
    assert result.certificate.method == "bonferroni"
    held = sum(s.threshold is not None for s in names.values())
    assert f"in each of {held} of {len(names)} segments by team" in result.verdict
    page = (out / "report.html").read_text()
    assert "Segments by team" in page
    assert "✓ certified" in page
    assert "(none)" in page
    assert "a group of users" not in page
    card = (out / "bundle" / "card.md").read_text()
    assert "segments by team that are certified (bonferroni)" in card
    loaded = json.loads((out / "report.json").read_text())
    assert loaded["segments"]["field"] == "team"


def test_the_certificate_of_segments_verifies_and_is_the_bundles(piloted: tuple[Path, PilotResult]) -> None:
    out, result = piloted
    certificate, outcome = verify_bundle(out)
    assert isinstance(certificate, SegmentedCertificate)
    assert outcome.offload == pytest.approx(result.certificate.offload)
    assert len(certificate.rows) + sum(certificate.others.values()) == result.rows.calibration
    assert run(["certificate", "verify", str(out)]) == 0
    manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    assert manifest["format"] == SEGMENTED == WHOLE + 1


def test_a_threshold_put_into_the_policy_is_refused(piloted: tuple[Path, PilotResult], tmp_path: Path) -> None:
    import hashlib

    shutil.copytree(piloted[0] / "bundle", tmp_path / "bundle")
    policy, manifest = tmp_path / "bundle" / "policy.json", tmp_path / "bundle" / "manifest.json"

    def put(**changes: Any) -> None:
        policy.write_text(json.dumps(json.loads(policy.read_text()) | changes))
        said = json.loads(manifest.read_text())
        said["files"]["policy.json"] = hashlib.sha256(policy.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(said))

    before = json.loads(policy.read_text())
    put(thresholds=before["thresholds"] | {"lonely": 0.1})
    with pytest.raises(CertificateError, match="not the certified one"):
        verify_bundle(tmp_path / "bundle")
    put(thresholds=before["thresholds"], threshold=0.5)
    with pytest.raises(CertificateError, match="not the certified one"):
        verify_bundle(tmp_path / "bundle")
    put(threshold=None, segment="language")
    with pytest.raises(CertificateError):
        verify_bundle(tmp_path / "bundle")


def test_a_file_of_requests_is_answered_by_segment(piloted: tuple[Path, PilotResult], tmp_path: Path) -> None:
    lines = [{"id": t, "messages": SURE, "metadata": {"team": t}} for t in ("gold", "lonely", "unheard-of")]
    counts = answer_file(load(piloted[0]), write_rows(tmp_path / "q.jsonl", lines), tmp_path / "a.jsonl", Silent())
    assert (counts.student, counts.unanswered) == (1, 2)


def test_a_bundle_of_one_threshold_keeps_the_format_that_older_programs_read(linear_pilot: Path) -> None:
    assert json.loads((linear_pilot / "bundle" / "manifest.json").read_text())["format"] == WHOLE
    certificate, _ = verify_bundle(linear_pilot)
    assert isinstance(certificate, Certificate)
    assert certificate.format == 1


@pytest.mark.parametrize("field", ["language", "label"])
def test_language_and_label_need_no_metadata(field: str, tmp_path: Path, traffic: TRAFFIC) -> None:
    settings = PilotSettings(students=("linear",), max_loss=0.15, segment=field, segment_control="e-bh")
    result = pilot([traffic(rows(900, noise=0.01))], tmp_path / "out", settings)
    assert result.segments is not None
    certificate, _ = verify_bundle(tmp_path / "out")
    assert certificate.plan.method == "e-bh"
    answered = load(tmp_path / "out").answer(ask("please my parcel was late and the courier with the address for you"))
    names = {s.name for s in result.segments.segments}
    assert answered.segment == ("delivery" if field == "label" else "en")
    assert names <= {"en", "und", "de"} if field == "language" else names == {"refund", "delivery", "account", "praise"}
    assert (answered.tier == "student") == any(
        s.threshold is not None for s in result.segments.segments if s.name == answered.segment
    )
    assert "on average at most 5 %" in result.verdict or result.certificate.bound is None


def test_segments_too_small_for_any_certificate_leave_all_with_the_frontier(tmp_path: Path, traffic: TRAFFIC) -> None:
    lines = rows(300)
    for i, line in enumerate(lines):
        line["metadata"] = {"team": str(i % 40)}
    result = pilot([traffic(lines)], tmp_path / "out", SETTINGS)
    assert result.certificate.bound is None
    assert "no segment by team has the" in result.certificate.advice
    verify_bundle(tmp_path / "out")
    assert load(tmp_path / "out").answer(SURE, metadata={"team": "3"}).reason == "not certified"
    render_page(result)


def of_users(users: int, each: int, *, bad: float) -> list[dict[str, Any]]:
    """Rows of users; the answers of some are noise throughout."""
    rng, lines = random.Random(2), rows(users * each)
    noisy = [rng.random() < bad for _ in range(users)]
    for i, line in enumerate(lines):
        user = i % users
        line["metadata"] = {"user": f"u{user}"}
        if noisy[user]:
            line["messages"][2]["content"] = rng.choice(["refund", "delivery", "account", "praise"])
    return lines


def test_users_that_go_wrong_together_are_counted_instead_of_rows(tmp_path: Path, traffic: TRAFFIC) -> None:
    settings = PilotSettings(students=("linear",), max_loss=0.2)
    result = pilot([traffic(of_users(400, 4, bad=0.06))], tmp_path / "out", settings)
    clusters = result.clusters
    assert clusters is not None
    assert clusters.cap == 4
    assert clusters.clusters == pytest.approx(clusters.rows / 4, abs=1)
    assert clusters.design_effect > 1.25
    certificate, _ = verify_bundle(tmp_path / "out")
    assert isinstance(certificate, Certificate)
    assert certificate.clusters is not None
    assert len(set(certificate.clusters)) == clusters.clusters
    assert certificate.plan.method in ("betting", "hoeffding-bentkus")
    assert any("design effect" in w for w in result.warnings)
    assert "counts for more than 4 requests" in (tmp_path / "out" / "report.html").read_text()


def test_parts_share_no_user(tmp_path: Path, traffic: TRAFFIC) -> None:
    from tiercel.flows.preparation import prepare, task_of
    from tiercel.flows.traffic import read_workload

    read = read_workload([traffic(of_users(100, 4, bad=0.0))], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    found = prepare(
        read.key,
        read.examples,
        None,
        task=task,
        labels=labels,
        shape=shape,
        max_loss=0.1,
        seed=1,
        progress=Silent(),
        cluster="user",
    )
    parts = [found.train, found.gate, found.calibration, found.test]
    users = [{m["user"] for m in part.metadata if m} for part in parts]
    assert all(users)
    assert all(not (a & b) for i, a in enumerate(users) for b in users[i + 1 :])


def test_few_users_are_warned_of_with_their_design_effect(tmp_path: Path, traffic: TRAFFIC) -> None:
    result = pilot([traffic(of_users(8, 120, bad=0.3))], tmp_path / "out", LINEAR)
    assert result.clusters is not None
    assert result.clusters.cap is None
    assert any("design effect" in w and "these alone" in w for w in result.warnings)
    certificate, _ = verify_bundle(tmp_path / "out")
    assert isinstance(certificate, Certificate)
    assert certificate.clusters is None


def test_users_are_counted_where_that_is_asked_for(tmp_path: Path, traffic: TRAFFIC) -> None:
    settings = PilotSettings(students=("linear",), max_loss=0.2, cluster="user")
    result = pilot([traffic(of_users(300, 3, bad=0.0))], tmp_path / "out", settings)
    assert result.clusters is not None
    assert result.clusters.cap == 3


def test_clusters_are_looked_for_only_where_most_rows_say_and_some_repeat() -> None:
    some: list[dict[str, object] | None] = [{"user": "a"}, {"user": "a"}, *({"user": str(i)} for i in range(18))]
    assert cluster_field(some, None) == "user"
    assert cluster_field([*some, None, None, None], None) is None
    assert cluster_field([{"user": str(i)} for i in range(9)], None) is None
    assert cluster_field([{"team": "x"}, None], "team") == "team"
    assert cluster_field([], None) is None
    with pytest.raises(ConfigurationError, match="--cluster is 'team'"):
        cluster_field(some, "team")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"segment": "region"}, "its metadata has team"),
        ({"segment": ""}, "one is empty"),
        ({"segment": "team", "segment_control": "hope"}, "bonferroni, e-bh"),
        ({"loss": "bleu"}, "exact, field-f1"),
        ({"loss": "field-f1"}, "needs answers with fields"),
        ({"cluster": "region"}, "--cluster is 'region'"),
    ],
)
def test_what_can_not_part_or_measure_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path, traffic: TRAFFIC
) -> None:
    with pytest.raises((ConfigurationError, DataError, BundleError), match=words):
        pilot([traffic(by_team(200))], tmp_path / "out", PilotSettings(**({"students": ("linear",)} | settings)))
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_label_parts_only_answers_that_are_labels() -> None:
    with pytest.raises(ConfigurationError, match="needs answers that are labels"):
        check_segment("label", "extraction", [])
    check_segment("label", "classification", [])
    check_segment("language", "sql", [])
    with pytest.raises(ConfigurationError, match="no row has metadata"):
        check_segment("team", "sql", [None])


def test_field_f1_measures_answers_and_the_frontier_alike(traffic: TRAFFIC) -> None:
    from tiercel.flows.preparation import prepare, task_of
    from tiercel.flows.traffic import read_workload
    from tiercel.types import Answer

    lines = rows(200)
    for i, line in enumerate(lines):
        line["messages"][2]["content"] = json.dumps({"kind": line["messages"][2]["content"], "number": i})
        line["reference"] = json.dumps({"kind": "other", "number": i})
    read = read_workload([traffic(lines)], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    common = {"task": task, "labels": labels, "shape": shape, "max_loss": 0.1, "seed": 1, "progress": Silent()}
    for measure, half in (("exact", 1.0), ("field-f1", 0.5)):
        found = prepare(read.key, read.examples, None, measure=measure, **common)
        assert set(found.gate.frontier_loss) == {half}
        losses = found.losses(found.gate, [Answer(content="no json"), *found.gate.frontier[1:]])
        assert losses.tolist() == [1.0] + [half] * (len(found.gate) - 1)
