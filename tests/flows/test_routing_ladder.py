"""The stories of `tiercel route` for ladders of three models and for abstention, on made-up recordings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.conftest import write_lines
from tests.flows.recorded import ladder_file, ladder_rows
from tiercel.errors import BundleError, CertificateError, ConfigurationError, DataError
from tiercel.flows.ladder_policy import is_ladder, load_ladder
from tiercel.flows.progress import Silent
from tiercel.flows.routing_ladder import evaluate_ladder, fit_ladder
from tiercel.flows.routing_settings import RouteSettings
from tiercel.flows.routing_traffic import RecordedTiers, read_recording, tiers_of
from tiercel.routing.ladder import ABSTAINED
from tiercel.routing.path import Gating

MODELS = ("tiny", "mid", "huge")
COSTS = (1.0, 4.0, 20.0)
FEW = ("length", "difficulty", "arithmetic", "request_words")


def _read(path: Path, **options: Any) -> RecordedTiers:
    return tiers_of(read_recording([path], Silent()), MODELS, Silent(), **{"costs": COSTS, **options})


def _settings(**changes: Any) -> RouteSettings:
    return RouteSettings(**{"gating": Gating.POST, "max_loss": 0.1, "signals": FEW, **changes})


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ladder_file(tmp_path_factory.mktemp("traffic"), 500)


@pytest.fixture(scope="module")
def fitted(traffic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("policy") / "route"
    fit_ladder(_read(traffic), _settings(), out, Silent())
    return out


def test_a_ladder_keeps_its_bound_on_new_traffic_and_every_tier_answers(fitted: Path, tmp_path: Path) -> None:
    assert is_ladder(fitted)
    policy, certificate = load_ladder(fitted)
    recorded = _read(ladder_file(tmp_path, 600, seed=5))
    result = evaluate_ladder(policy, certificate, recorded, Silent())
    at = result.operating
    assert at is not None
    shares = [t.answers or 0.0 for t in result.tiers]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0.02
    assert result.tiers[0].asked == 1.0 > (result.tiers[2].asked or 0)
    assert at.excess_loss.low <= 0.1 and at.saved > 0.25 and at.unanswered == 0
    assert result.cautions == []


def test_the_report_names_every_tier_and_what_fewer_tiers_cost(fitted: Path) -> None:
    page = (fitted / "report.html").read_text()
    assert "tiny-1b" in page and "mid-3b" in page and "with fewer tiers" in page and "<script" not in page
    result = msgspec.json.decode((fitted / "result.json").read_bytes())
    assert [s["models"] for s in result["shorter"]] == [["tiny-1b", "huge-9"], ["mid-3b", "huge-9"]]


def test_answers_of_cheaper_tiers_are_there_when_a_dearer_one_is_judged(traffic: Path) -> None:
    first, second = _read(traffic).exchanges
    assert first.items[0].others == ()
    assert second.items[0].others == (first.items[0].answer,)


def test_a_ladder_may_say_nothing_where_its_last_tier_would_err(traffic: Path, tmp_path: Path) -> None:
    settings = _settings(abstention_loss=0.4)
    policy, result = fit_ladder(_read(traffic), settings, tmp_path / "route", Silent())
    assert result.operating is not None and result.operating.unanswered > 0.05
    again, certificate = load_ladder(tmp_path / "route")
    fresh = _read(ladder_file(tmp_path, 500, seed=8))
    scores, hopeless = again.scores(fresh.exchanges)
    silent = again.choose(scores, hopeless) == ABSTAINED
    assert silent.mean() > 0.05 and fresh.scores[silent, -1].mean() < 0.4 < 0.9 < fresh.scores[~silent, -1].mean()
    assert evaluate_ladder(again, certificate, fresh, Silent()).abstention_loss == 0.4
    assert again.record.digest == policy.record.digest


def test_gates_on_requests_send_each_to_one_tier_and_personal_data_to_the_first(tmp_path: Path) -> None:
    rows = ladder_rows(300, seed=3)
    for row in rows[::8]:
        row["messages"][0]["content"] += " Mail ann.smith@example.com."
    recorded = _read(write_lines(tmp_path / "t.jsonl", *rows))
    settings = _settings(gating=Gating.PRE, signals=("length", "difficulty"), max_loss=0.2, keep_private=True)
    policy, result = fit_ladder(recorded, settings, tmp_path / "r", Silent())
    assert result.operating is not None
    assert sum(t.asked or 0.0 for t in result.tiers) == pytest.approx(1)
    private = np.array(["@" in e.request for e in recorded.exchanges[0].items])
    scores, hopeless = policy.scores(recorded.exchanges)
    assert (policy.choose(scores, hopeless)[private] == 0).all()
    bare = type(policy)(msgspec.structs.replace(policy.record, step=None), policy.gates)
    assert ((bare.choose(scores, hopeless) == 0) == private).all()


def test_rows_of_the_certificate_are_recognised_at_an_evaluation(fitted: Path, traffic: Path) -> None:
    policy, certificate = load_ladder(fitted)
    result = evaluate_ladder(policy, certificate, _read(traffic), Silent())
    assert any("rows of the certificate" in c for c in result.cautions)


def test_a_bound_too_tight_certifies_nothing_and_a_tier_worse_than_a_cheaper_one_is_named(tmp_path: Path) -> None:
    rows = ladder_rows(300, seed=4)
    for number, row in enumerate(rows):
        row["responses"][1]["score"] = float(number % 3 == 0)
    recorded = _read(write_lines(tmp_path / "t.jsonl", *rows))
    policy, result = fit_ladder(recorded, _settings(max_loss=0.001), tmp_path / "r", Silent())
    assert any("mid-3b costs more than tiny-1b and is worse" in c for c in result.cautions)
    assert policy.record.step is None and result.operating is None
    assert set(policy.choose(*policy.scores(recorded.exchanges)).tolist()) == {2}
    assert "✕ not certified" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gating": Gating.BOTH}, "--stage is pre or post"),
        ({"abstention_loss": 1.0}, "--abstention-loss must lie between 0 and 1"),
        ({"signals": ("sql_execution",)}, "give --database"),
        ({"signals": ("context_fit",)}, "give --window"),
    ],
)
def test_settings_that_make_no_ladder_are_refused(
    changes: dict[str, Any], problem: str, traffic: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        fit_ladder(_read(traffic), _settings(**changes), tmp_path / "r", Silent())


@pytest.mark.parametrize(
    ("models", "options", "problem"),
    [
        (("mid", "tiny", "huge"), {"costs": None}, "each model must cost more than the one before"),
        (MODELS, {"costs": (1.0, 2.0)}, "2 costs are given for 3 models"),
        (("tiny", "mid", "mid-3b"), {}, "name mid-3b more than once"),
        (("tiny", "middle", "huge"), {}, "no scored answers of 'middle'"),
    ],
)
def test_models_and_costs_that_make_no_ladder_are_refused(
    tmp_path: Path, models: tuple[str, ...], options: dict[str, Any], problem: str
) -> None:
    rows = ladder_rows(20)
    for row in rows:
        for response, cost in zip(row["responses"], COSTS, strict=True):
            response["cost_usd"] = cost / 1_000
    recording = read_recording([write_lines(tmp_path / "t.jsonl", *rows)], Silent())
    with pytest.raises(ConfigurationError, match=problem):
        tiers_of(recording, models, Silent(), group=False, **options)


def test_costs_that_nobody_knows_are_a_guess_that_is_said(traffic: Path) -> None:
    progress = Silent()
    found = tiers_of(read_recording([traffic], Silent()), MODELS, progress, group=False)
    assert found.costs_from == "assumed" and found.costs == pytest.approx((1.0, 20**0.5, 20.0))
    assert any("--tier-costs" in w for w in progress.warnings)


def test_rows_that_lack_a_tier_are_left_out_and_none_at_all_is_refused(tmp_path: Path) -> None:
    rows = ladder_rows(30)
    del rows[3]["responses"][1]
    progress = Silent()
    found = tiers_of(
        read_recording([write_lines(tmp_path / "t.jsonl", *rows)], Silent()), MODELS, progress, costs=COSTS
    )
    assert (len(found.keys), found.left_out) == (29, 1)
    assert any("1 of 30 rows lack a scored answer of one of tiny-1b, mid-3b, huge-9" in w for w in progress.warnings)
    with pytest.raises(DataError, match="29 rows have scored answers of all models, 100 are needed"):
        fit_ladder(found, _settings(), tmp_path / "r", Silent())


def test_a_gate_that_has_nothing_to_learn_names_its_tier(tmp_path: Path) -> None:
    rows = ladder_rows(200)
    for row in rows:
        row["responses"][1]["score"] = row["responses"][2]["score"]
    with pytest.raises(DataError, match=r"gate on mid-3b .* huge-9's answer is better on 0 of"):
        fit_ladder(_read(write_lines(tmp_path / "t.jsonl", *rows)), _settings(), tmp_path / "r", Silent())


def _edit(path: Path, change: Any) -> None:
    value = msgspec.json.decode(path.read_bytes())
    change(value)
    path.write_bytes(msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: (f / "gates.safetensors").write_bytes(b"x"), "not the file that was written"),
        (lambda f: _edit(f / "policy.json", lambda v: v.update(format=9)), "upgrade"),
        (lambda f: _edit(f / "policy.json", lambda v: v["step"].update(thresholds=[1.0, 1.0])), "of another ladder"),
        (lambda f: _edit(f / "certificate.json", lambda v: v["rows"].pop()), "certify other|excess loss|changed"),
        (lambda f: (f / "certificate.json").write_text("{}"), "can't be read"),
    ],
)
def test_a_ladder_that_was_changed_is_refused(fitted: Path, tmp_path: Path, spoil: Any, problem: str) -> None:
    copy = Path(shutil.copytree(fitted, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises((BundleError, CertificateError), match=problem):
        load_ladder(copy)
