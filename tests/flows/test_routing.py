"""The stories of `tiercel route` on made-up recordings, and every kind of bad input with its outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.conftest import write_lines
from tests.flows.recorded import recorded_file, recorded_rows
from tiercel.errors import BundleError, CertificateError, ConfigurationError, DataError, TiercelError
from tiercel.flows.progress import Silent
from tiercel.flows.routing import compare_routers, evaluate_route, fit_route
from tiercel.flows.routing_policy import load_policy
from tiercel.flows.routing_settings import RouteSettings
from tiercel.flows.routing_traffic import Recorded, pair_of, read_recording
from tiercel.routing.path import Decision, Gating
from tiercel.routing.signal import load_signal_file

FEW = ("length", "difficulty", "arithmetic")


def _read(path: Path, progress: Silent | None = None, **options: Any) -> Recorded:
    progress = progress or Silent()
    return pair_of(
        read_recording([path], progress), "tiny", "huge", progress, weak_cost=1.0, strong_cost=10.0, **options
    )


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_file(tmp_path_factory.mktemp("traffic"), 700)


@pytest.fixture(scope="module")
def fitted(traffic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("policy") / "route"
    settings = RouteSettings(max_loss=0.08)
    fit_route(_read(traffic), settings, out, Silent())
    return out


def test_a_fit_leaves_a_policy_that_keeps_its_bound_on_new_traffic(fitted: Path, tmp_path: Path) -> None:
    policy, certificate = load_policy(fitted)
    assert policy.record.step is not None
    result = evaluate_route(policy, certificate, _read(recorded_file(tmp_path, 600, seed=5)), Silent())
    at = result.operating
    assert at is not None
    assert at.weak_share + at.direct_share + at.escalated_share == pytest.approx(1)
    assert at.weak_share > 0.4
    assert at.excess_loss.low <= 0.08
    assert at.saved > 0.25
    figures = {f.name: f for f in result.routers}
    # A wrong sum can be seen in the answer, not in the request.
    assert figures["answer gate"].apgr.value > figures["request gate"].apgr.value + 0.05
    assert figures["request gate"].apgr.value > 0.6
    assert result.cautions == []


def test_the_folder_holds_no_code_and_a_page_that_tells_the_outcome(fitted: Path) -> None:
    assert {p.name for p in fitted.iterdir()} == {
        "policy.json",
        "gates.safetensors",
        "certificate.json",
        "result.json",
        "report.html",
    }
    page = (fitted / "report.html").read_text()
    assert "tiny-1b" in page and "answer gate" in page and "<svg" in page and "<script" not in page


def test_decisions_follow_the_thresholds_and_all_is_escalated_without_any(fitted: Path, traffic: Path) -> None:
    policy, _ = load_policy(fitted)
    recorded = _read(traffic)
    found = policy.decide(recorded.exchanges)
    safety = policy.safety(recorded.exchanges)
    assert policy.record.threshold is not None
    assert [d == Decision.WEAK for d in found] == (safety >= policy.record.threshold).tolist()
    bare = msgspec.structs.replace(policy.record, threshold=None)
    assert set(type(policy)(bare, policy.gates).decide(recorded.exchanges)) == {Decision.STRONG}


@pytest.mark.parametrize("gating", [Gating.PRE, Gating.POST])
def test_one_gate_alone_can_be_fitted(gating: Gating, traffic: Path, tmp_path: Path) -> None:
    recorded = _read(traffic)
    policy, result = fit_route(
        recorded, RouteSettings(gating=gating, max_loss=0.1, signals=FEW), tmp_path / "route", Silent()
    )
    assert [g.stage for g in result.gates] == [str(gating)]
    assert result.operating is not None
    assert (result.operating.escalated_share == 0) == (gating == Gating.PRE)
    again, _ = load_policy(tmp_path / "route")
    assert np.array_equal(again.safety(recorded.exchanges), policy.safety(recorded.exchanges))


def test_rows_of_the_certificate_are_recognised_at_an_evaluation(fitted: Path, traffic: Path) -> None:
    policy, certificate = load_policy(fitted)
    result = evaluate_route(policy, certificate, _read(traffic), Silent())
    assert any("rows of the certificate" in c for c in result.cautions)


def test_routers_are_compared_on_rows_that_they_were_not_fitted_on(tmp_path: Path) -> None:
    result = compare_routers(_read(recorded_file(tmp_path, 400)), RouteSettings(folds=2, signals=FEW), Silent())
    figures = {f.name: f for f in result.routers}
    assert list(figures) == [
        "random",
        "length",
        "TF-IDF",
        "request gate, trained on errors",
        "request gate",
        "answer gate, trained on errors",
        "answer gate",
        "oracle",
    ]
    assert figures["random"].apgr.value == pytest.approx(0.5)
    assert figures["random"].apgr.value < figures["request gate"].apgr.value < figures["answer gate"].apgr.value
    assert figures["answer gate"].apgr.value < figures["oracle"].apgr.value
    assert figures["oracle"].auroc_value.value == 1.0


def test_a_users_own_signal_is_used_stored_and_asked_for(traffic: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "from tiercel.routing.signal import Signal, Stage\n"
        "class Twice(Signal):\n"
        "    name, stage = 'twice', Stage.PRE\n"
        "    def columns(self):\n"
        "        return ('says_twice',)\n"
        "    def transform(self, exchanges):\n"
        "        return np.array([[float('twice' in e.request)] for e in exchanges.items])\n"
    )
    own = load_signal_file(path)
    settings = RouteSettings(gating=Gating.PRE, max_loss=0.1, signals=("length", "twice"))
    fit_route(_read(traffic), settings, tmp_path / "route", Silent(), own=own)
    with pytest.raises(ConfigurationError, match="'twice'; give its file with --signals"):
        load_policy(tmp_path / "route")
    policy, _ = load_policy(tmp_path / "route", own)
    assert policy.record.gates["pre"]["signals"] == ["length", "twice"]


def test_requests_with_personal_data_stay_where_a_policy_keeps_them(traffic: Path, tmp_path: Path) -> None:
    rows = recorded_rows(300, seed=2)
    for row in rows[::7]:
        row["messages"][0]["content"] += " Write to ann.smith@example.com."
    recorded = _read(write_lines(tmp_path / "t.jsonl", *rows))
    private = np.array(["@" in e.request for e in recorded.exchanges.items])
    settings = RouteSettings(max_loss=0.12, signals=FEW, keep_private=True)
    _, result = fit_route(recorded, settings, tmp_path / "route", Silent())
    assert result.private_share is not None and 0.03 < result.private_share < 0.3
    policy, _ = load_policy(tmp_path / "route")
    found = np.array(policy.decide(recorded.exchanges), dtype=object)
    assert (found[private] == Decision.WEAK).all() and (found[~private] != Decision.WEAK).any()
    bare = msgspec.structs.replace(policy.record, threshold=None)
    nothing = np.array(type(policy)(bare, policy.gates).decide(recorded.exchanges), dtype=object)
    assert ((nothing == Decision.WEAK) == private).all() and set(nothing[~private]) == {Decision.STRONG}


def test_a_record_without_the_rule_of_personal_data_has_the_digest_that_it_always_had(fitted: Path) -> None:
    policy, certificate = load_policy(fitted)
    stored = msgspec.json.decode((fitted / "policy.json").read_bytes())
    del stored["keep_private"]
    older = msgspec.convert(stored, type(policy.record))
    assert older.digest == policy.record.digest == certificate.policy


def _spoil(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**row, "responses": [{**row["responses"][0], **changes}, row["responses"][1]]}


def test_rows_that_lack_an_answer_of_a_model_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = recorded_rows(120)
    rows[3]["responses"] = rows[3]["responses"][:1]
    rows[4] = _spoil(rows[4], score=None)
    rows[5]["responses"] = []
    progress = Silent()
    recorded = _read(write_lines(tmp_path / "t.jsonl", *rows), progress)
    assert (len(recorded.exchanges), recorded.left_out) == (117, 3)
    assert any("3 of 120 rows lack a scored answer" in w for w in progress.warnings)


def test_scores_outside_their_range_are_set_aside_with_their_rows(tmp_path: Path) -> None:
    rows = recorded_rows(120)
    rows[1], rows[2] = _spoil(rows[1], score=1.5), _spoil(rows[2], score=-0.1)
    progress = Silent()
    recording = read_recording([write_lines(tmp_path / "t.jsonl", *rows)], progress, rejects=tmp_path / "rejects.jsonl")
    assert len(recording.examples) == 118
    assert any("2 of 120 rows were set aside" in w and "outside [" in w for w in progress.warnings)
    assert (tmp_path / "rejects.jsonl").read_text().count("\n") == 2


def test_rows_that_repeat_are_dropped_and_ids_that_repeat_are_renamed(tmp_path: Path) -> None:
    rows = recorded_rows(120)
    rows[1] = rows[0]
    rows[3]["id"] = rows[2]["id"]
    progress = Silent()
    recorded = _read(write_lines(tmp_path / "t.jsonl", *rows), progress)
    assert len(recorded.exchanges) == 119 == len(set(recorded.keys))
    assert any("1 rows repeat another whole" in w for w in progress.warnings)
    assert any("1 rows bear the id of another row" in w for w in progress.warnings)


def _all(rows: list[dict[str, Any]], weak: float, strong: float) -> list[dict[str, Any]]:
    for row in rows:
        row["responses"][0]["score"], row["responses"][1]["score"] = weak, strong
    return rows


def _without_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_spoil(r, content=None) for r in rows]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (lambda: _all(recorded_rows(120), 1.0, 1.0), "better on 0 of"),
        (lambda: _all(recorded_rows(120), 0.0, 1.0), "all but 0 of"),
        (lambda: recorded_rows(60), "60 rows have scored answers of all models, 100 are needed"),
        (lambda: _without_text(recorded_rows(120)), "use --stage pre"),
        (lambda: [{**r, "responses": []} for r in recorded_rows(20)], "no row has `responses` with a `score`"),
        (lambda: [{**r, "responses": r["responses"][:1]} for r in recorded_rows(20)], "no scored answers of 'huge'"),
    ],
)
def test_traffic_that_can_t_be_routed_is_refused_with_what_to_do(rows: Any, problem: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", *rows())
    with pytest.raises((DataError, ConfigurationError), match=problem):
        fit_route(_read(path), RouteSettings(), tmp_path / "route", Silent())
    assert not (tmp_path / "route" / "policy.json").exists()


@pytest.mark.parametrize(
    ("weak", "strong", "options", "problem"),
    [
        ("medium", "huge", {}, "no scored answers of 'medium'; it holds: huge-9"),
        ("", "huge", {}, "2 models of"),
        ("tiny", "tiny-1b", {}, "name tiny-1b more than once"),
        ("tiny", "huge", {"weak_cost": 3.0, "strong_cost": 2.0}, "must cost more"),
        ("tiny", "huge", {"weak_cost": 3.0}, "give both"),
    ],
)
def test_models_and_costs_that_make_no_pair_are_refused(
    traffic: Path, weak: str, strong: str, options: Any, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        pair_of(read_recording([traffic], Silent()), weak, strong, Silent(), group=False, **options)


def test_costs_come_from_the_log_the_price_table_or_a_guess_that_is_said(tmp_path: Path) -> None:
    rows = recorded_rows(20)
    progress = Silent()
    guessed = pair_of(read_recording([write_lines(tmp_path / "a.jsonl", *rows)], progress), "tiny", "huge", progress)
    assert guessed.costs_from == "assumed" and any("--weak-cost" in w for w in progress.warnings)
    for row in rows:
        row["responses"][0]["cost_usd"], row["responses"][1]["cost_usd"] = 0.001, 0.03
    logged = pair_of(read_recording([write_lines(tmp_path / "b.jsonl", *rows)], Silent()), "tiny", "huge", Silent())
    assert logged.costs_from == "log"
    assert (logged.costs.weak, logged.costs.strong) == (pytest.approx(0.001), pytest.approx(0.03))
    for row in rows:
        for response, name in zip(row["responses"], ("gpt-4o-mini", "gpt-4o"), strict=True):
            response["model"] = name
            del response["cost_usd"]
    priced = pair_of(
        read_recording([write_lines(tmp_path / "c.jsonl", *rows)], Silent()), "gpt-4o-mini", "gpt-4o", Silent()
    )
    assert priced.costs_from == "prices" and priced.costs.strong > 5 * priced.costs.weak


@pytest.mark.parametrize(("option", "value"), [("max_loss", 0.0), ("max_loss", 1.5), ("confidence", 1.0)])
def test_settings_out_of_their_range_are_refused(option: str, value: float, traffic: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must lie between 0 and 1"):
        fit_route(_read(traffic), RouteSettings(**{option: value}), tmp_path / "route", Silent())


def test_a_bound_too_tight_for_the_rows_certifies_nothing_and_says_so(traffic: Path, tmp_path: Path) -> None:
    policy, result = fit_route(
        _read(traffic), RouteSettings(max_loss=0.001, gating=Gating.PRE, signals=FEW), tmp_path / "r", Silent()
    )
    assert policy.record.threshold is None and result.operating is None
    assert any("needs" in c for c in result.cautions)
    assert "✕ not certified" in (tmp_path / "r" / "report.html").read_text()


def _edit(path: Path, change: Any) -> None:
    value = msgspec.json.decode(path.read_bytes())
    change(value)
    path.write_bytes(msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: (f / "gates.safetensors").write_bytes(b"x" * 100), "not the file that was written"),
        (lambda f: (f / "policy.json").unlink(), "no policy.json"),
        (lambda f: (f / "policy.json").write_text("{"), "can't be read"),
        (lambda f: _edit(f / "policy.json", lambda v: v.update(format=99)), "upgrade"),
        (lambda f: _edit(f / "policy.json", lambda v: v["path"].pop()), "of another policy"),
        (lambda f: _edit(f / "policy.json", lambda v: v.update(threshold=0.01)), "of another policy"),
        (lambda f: _edit(f / "certificate.json", lambda v: v["rows"].pop()), "certif|changed|give"),
    ],
)
def test_a_policy_that_was_changed_is_refused(fitted: Path, tmp_path: Path, spoil: Any, problem: str) -> None:
    import shutil

    copy = Path(shutil.copytree(fitted, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises((BundleError, CertificateError), match=problem) as caught:
        load_policy(copy)
    assert isinstance(caught.value, TiercelError)
