from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from tiercel.routing.policy import Policy, PolicyRecord, limits_of

GATE = {"choice": "first signal", "centre": [0.0], "scale": [1.0], "weights": [1.0], "bias": 0.0}
WHOLE = PolicyRecord(signals=("confidence",), gate=GATE, threshold=0.5)
BY_TEAM = PolicyRecord(signals=("confidence",), gate=GATE, segment="team", thresholds={"a": 0.5, "b": None, "": 0.9})


def test_each_segment_has_its_threshold_and_the_rest_stays_with_the_frontier() -> None:
    scores = np.array([0.6, 0.4, 0.6, 0.6, 0.6, 0.95, 0.99])
    accepted = Policy(BY_TEAM).accepts(scores, ["a", "a", "b", "unheard of", "", "", None])
    assert accepted.tolist() == [True, False, False, False, False, True, False]


def test_a_score_of_0_is_never_accepted() -> None:
    low = msgspec.structs.replace(BY_TEAM, thresholds={"a": 0.0})
    assert Policy(low).accepts(np.array([0.0, 1e-9]), ["a", "a"]).tolist() == [False, True]


def test_a_request_that_was_not_read_to_its_end_is_outside_whatever_the_gates_rows_are_like() -> None:
    names = ("confidence", "familiarity")
    signals = np.array([[1.0, 0.5], [2.0, -0.4], [3.0, 0.3]])
    gate = {"choice": "", "centre": [0.0, 0.0], "scale": [1.0, 1.0], "weights": [1.0, 0.0], "bias": 0.0}
    limits = limits_of(signals, names)
    assert limits["familiarity"][0] == 0.0
    policy = Policy(PolicyRecord(signals=names, gate=gate, limits=limits, threshold=0.5))
    scores = policy.score(np.array([[9.0, -0.01], [0.5, 0.1], [0.5, 1.0]]))
    assert policy.accepts(scores).tolist() == [False, True, True]
    assert limits_of(signals[[0, 2]], names)["familiarity"][0] == 0.3


def test_one_threshold_needs_no_segments() -> None:
    assert Policy(WHOLE).accepts(np.array([0.6, 0.4])).tolist() == [True, False]


def test_whether_anything_is_certified() -> None:
    replace = msgspec.structs.replace
    assert WHOLE.certified
    assert BY_TEAM.certified
    assert not replace(WHOLE, threshold=None).certified
    assert not replace(BY_TEAM, thresholds={"a": None}).certified


def test_the_digest_holds_the_field_and_leaves_the_thresholds_out() -> None:
    replace = msgspec.structs.replace
    assert replace(BY_TEAM, thresholds={}).digest == BY_TEAM.digest
    assert replace(BY_TEAM, segment="user").digest != BY_TEAM.digest
    assert replace(WHOLE, threshold=None).digest == WHOLE.digest


def test_the_digest_of_one_threshold_is_that_of_programs_without_segments() -> None:
    bare = {"signals": ["confidence"], "gate": dict(sorted(GATE.items())), "limits": {}, "threshold": None}
    assert WHOLE.digest == hashlib.sha256(msgspec.json.encode(bare)).hexdigest()
