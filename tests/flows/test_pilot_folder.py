"""A pilot writes over an earlier pilot's outcome and over nothing else, and says so before it trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiercel.errors import ConfigurationError
from tiercel.flows.pilot_folder import check_pilot_folder, clear_work


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a bundle as a pilot leaves it."""
    bundle = tmp_path / "out" / "bundle"
    (bundle / "students").mkdir(parents=True)
    (bundle / "students" / "a.json").write_text("{}")
    manifest = {"format": 99, "files": {"students/a.json": "00"}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "out"


def test_a_bundle_that_a_pilot_wrote_may_be_replaced_that_of_a_newer_program_too(out: Path, tmp_path: Path) -> None:
    check_pilot_folder(out, [])
    check_pilot_folder(tmp_path / "new", [])
    (tmp_path / "empty" / "bundle").mkdir(parents=True)
    check_pilot_folder(tmp_path / "empty", [])


@pytest.mark.parametrize("manifest", [None, "{}", "no json", '{"name": "app", "files": ["a"]}'])
def test_a_folder_of_the_users_that_is_called_bundle_is_refused(tmp_path: Path, manifest: str | None) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "thesis.tex").write_text("mine")
    if manifest is not None:
        (bundle / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigurationError, match="is no bundle that a pilot wrote; move it away, or choose another"):
        check_pilot_folder(tmp_path, [])
    assert (bundle / "thesis.tex").read_text() == "mine"


def test_a_file_that_the_user_put_into_a_bundle_is_not_deleted_with_it(out: Path) -> None:
    (out / "bundle" / "notes.md").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"notes\.md is no file of the bundle"):
        check_pilot_folder(out, [])


@pytest.mark.parametrize("name", ["report.json", "rejects.jsonl", "rejects-test.jsonl", "bundle/t.jsonl", ".work/t"])
def test_traffic_that_lies_where_the_outcome_goes_is_refused(out: Path, name: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text('{"file": 1}\n')
    with pytest.raises(ConfigurationError, match=r"another (folder|place) with --out"):
        check_pilot_folder(out, [out / name])


def test_only_what_pilots_keep_for_later_is_cleared(out: Path) -> None:
    (out / ".work" / "0123456789abcdef").mkdir(parents=True)
    clear_work(out)
    assert not (out / ".work").exists()
    (out / ".work" / "mine").mkdir(parents=True)
    clear_work(out)
    assert (out / ".work" / "mine").is_dir()
