"""Bundles: what they answer, and that a changed, foreign or newer one is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import SYSTEM, rows
from tiercel import load, verify_bundle
from tiercel.errors import BundleError, CertificateError


@pytest.fixture
def bundle(linear_pilot: Path, tmp_path: Path) -> Path:
    shutil.copytree(linear_pilot / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def ask(text: str, system: str = SYSTEM) -> list[dict[str, object]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def test_answers_what_it_is_sure_of(bundle: Path) -> None:
    answered = load(bundle).answer(ask("parcel courier tracking late"))
    assert (answered.tier, answered.answer) == ("student", "delivery")
    assert 0.5 < answered.confidence < 1
    assert answered.latency_ms > 0


def test_escalates_what_it_cannot_read(bundle: Path) -> None:
    answered = load(bundle).answer(ask("zzz qqq xxx"))
    assert (answered.tier, answered.answer, answered.reason) == ("frontier", None, "unsure")


def test_another_workload_is_the_frontiers(bundle: Path) -> None:
    answered = load(bundle).answer(ask("parcel courier tracking late", system="Translate into French."))
    assert (answered.tier, answered.reason) == ("frontier", "another workload")


def test_an_image_is_the_frontiers(bundle: Path) -> None:
    parts = [
        {"type": "text", "text": "parcel late"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
    ]
    answered = load(bundle).answer([{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}])
    assert answered.tier == "frontier"


def test_text_parts_are_read(bundle: Path) -> None:
    parts = [{"type": "text", "text": "parcel courier tracking late"}]
    answered = load(bundle).answer([{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}])
    assert answered.answer == "delivery"


def test_an_answer_does_not_depend_on_its_batch(bundle: Path) -> None:
    loaded = load(bundle)
    requests = [r["messages"][:2] for r in rows(60, seed=9)]
    together = loaded.answer_many(requests)
    alone = [loaded.answer(r) for r in requests]
    assert [(a.tier, a.answer) for a in together] == [(a.tier, a.answer) for a in alone]
    assert [a.confidence for a in together] == pytest.approx([a.confidence for a in alone], abs=1e-6)


def test_loading_and_answering_need_no_training_library(bundle: Path) -> None:
    code = (
        "import sys, tiercel; "
        f"b = tiercel.load({str(bundle)!r}); b.answer([{{'role': 'user', 'content': 'x'}}]); "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", ["policy.json", "certificate.json", "card.md", "students/linear/linear.safetensors", "manifest.json"]
)
def test_a_cut_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match=r"changed|corrupted"):
        load(bundle)


def test_a_missing_file_is_refused_by_name(bundle: Path) -> None:
    (bundle / "students/linear/linear.json").unlink()
    with pytest.raises(BundleError, match=r"linear\.json is missing"):
        load(bundle)


def test_a_newer_bundle_is_refused_with_its_version(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"format": 99, "version": "7.0"}))
    with pytest.raises(BundleError, match=r"tiercel 7\.0 in format 99.*upgrade"):
        load(bundle)


def test_a_bundle_of_a_format_that_is_gone_is_refused_with_its_version(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"format": 1, "version": "0.0.1"}))
    with pytest.raises(BundleError, match=r"tiercel 0\.0\.1 in format 1, .*run the pilot again"):
        load(bundle)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"no bundle: it has no manifest\.json"):
        load(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        load(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text('{"name": "something else"}')
    with pytest.raises(BundleError, match="no bundle of this program"):
        load(tmp_path)


def test_a_manifest_cannot_reach_outside_the_bundle(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="outside the bundle"):
        load(bundle)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_ever_unpickled(bundle: Path) -> None:
    """A pickle in the place of each file of weights, with its hash in the manifest, is refused and never run."""
    import hashlib

    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in [n for n in manifest["files"] if n.startswith("students/")]:
        content = pickle.dumps(Bomb())
        (bundle / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="can't be read"):
        load(bundle)


def test_verification_refuses_another_policy_and_other_weights(bundle: Path) -> None:
    import hashlib

    verify_bundle(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    policy = json.loads((bundle / "policy.json").read_text())

    def put(name: str, content: bytes) -> None:
        (bundle / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    original = (bundle / "policy.json").read_bytes()
    put("policy.json", json.dumps(policy | {"threshold": policy["threshold"] - 0.1}).encode())
    with pytest.raises(CertificateError, match="not the certified one"):
        verify_bundle(bundle)
    put("policy.json", json.dumps(policy | {"limits": {"familiarity": [0.5, 1.0]}}).encode())
    with pytest.raises(CertificateError, match="another policy"):
        verify_bundle(bundle)
    put("policy.json", b"{}")
    with pytest.raises(CertificateError, match="is corrupted"):
        verify_bundle(bundle)
    put("policy.json", original)
    weights = (bundle / "students/linear/linear.json").read_bytes()
    put("students/linear/linear.json", weights + b" ")
    with pytest.raises(CertificateError, match="other weights"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"gate": {}},
        {"gate": {"kind": "forest"}},
        {"signals": []},
        {"signals": ["confidence"]},
        {"limits": {"moon": [0, 1]}},
        ("signals", 0, "moon"),
        ("signals", 1, "confidence"),
        ("gate", "weights", [1.0]),
        ("gate", "scale", 0.0),
        "reversed",
    ],
    ids=str,
)
def test_a_policy_that_is_not_one_of_the_student_is_refused(bundle: Path, change: Any) -> None:
    policy = json.loads((bundle / "policy.json").read_text())
    if isinstance(change, dict):
        policy |= change
    elif change == "reversed":
        policy["signals"].reverse()
    elif change[1] == "scale":
        policy["gate"]["scale"][0] = change[2]
    else:
        policy[change[0]][change[1]] = change[2]
    content = json.dumps(policy).encode()
    (bundle / "policy.json").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["policy.json"] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"its policy (can't be used|reads other signals).*run the pilot again"):
        load(bundle)
