from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import BundleError
from tiercel.flows.bundle import FORMAT
from tiercel.flows.lineage import LINEAGE_FILE, lineage_of, trained_on


def _bundle(folder: Path, record: bytes | None, files: dict[str, str] | None = None) -> Path:
    """What `trained_on` reads of a bundle: its manifest and its lineage."""
    folder.mkdir(parents=True)
    key = {"template": {"pieces": []}}
    manifest = {
        "format": FORMAT,
        "version": "0",
        "task": "classification",
        "reader": {"key": key},
        "student": "classifier",
        "frontier": None,
        "files": files or {},
    }
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    if record is not None:
        (folder / LINEAGE_FILE).write_bytes(record)
    return folder


@given(st.lists(st.text(), max_size=60), st.lists(st.text(), max_size=20))
def test_exactly_the_rows_that_it_was_trained_on_are_named(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], others: list[str]
) -> None:
    folder = _bundle(tmp_path_factory.mktemp("lineage") / "bundle", lineage_of(rows))
    assert trained_on(folder, [*rows, *others]) == set(rows)
    assert trained_on(folder, others) == set(rows) & set(others)
    assert trained_on(folder, iter(rows)) == set(rows)


def test_the_same_rows_give_the_same_bytes_in_any_order() -> None:
    rows = [f"row-{number}" for number in range(1_000)]
    assert lineage_of(rows) == lineage_of(reversed(rows)) == lineage_of(rows + rows[:10])
    assert lineage_of(rows) != lineage_of(rows[1:])


def test_a_lineage_is_smaller_than_its_hashes_and_holds_no_id() -> None:
    rows = [f"patient-{number}" for number in range(20_000)]
    record = lineage_of(rows)
    assert len(record) < 7 * len(rows)
    assert b"patient" not in record


def test_ten_thousand_rows_are_told_apart_from_ten_thousand_others(tmp_path: Path) -> None:
    rows, others = [f"a{n}" for n in range(10_000)], [f"b{n}" for n in range(10_000)]
    assert trained_on(_bundle(tmp_path / "bundle", lineage_of(rows)), rows + others) == set(rows)


def test_the_folder_of_a_pilot_stands_for_its_bundle(tmp_path: Path) -> None:
    _bundle(tmp_path / "pilot" / "bundle", lineage_of(["a"]))
    assert trained_on(tmp_path / "pilot", ["a", "b"]) == {"a"}


def test_a_bundle_without_lineage_is_no_bundle_without_rows(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not say which rows"):
        trained_on(_bundle(tmp_path / "bundle", None), ["a"])
    with pytest.raises(BundleError, match="no such folder"):
        trained_on(tmp_path / "nowhere", ["a"])


def test_a_changed_lineage_is_refused(tmp_path: Path) -> None:
    folder = _bundle(tmp_path / "bundle", lineage_of(["a"]), {LINEAGE_FILE: "0" * 64})
    with pytest.raises(BundleError, match="was changed"):
        trained_on(folder, ["a"])


def _forms() -> list[tuple[str, bytes]]:
    whole = lineage_of(str(number) for number in range(100))
    head = len(b"tiercel-lineage-1\n")
    number = int.from_bytes(whole[head : head + 8])
    return [
        ("empty", b""),
        ("another file", b"PK\x03\x04" + whole),
        ("no number", whole[:head]),
        ("cut off", whole[:-5]),
        ("too few", whole[:head] + (number + 1).to_bytes(8) + whole[head + 8 :]),
        ("too many", whole[:head] + (number - 1).to_bytes(8) + whole[head + 8 :]),
        ("a bomb", whole[:head] + (2**60).to_bytes(8) + whole[head + 8 :]),
        ("not compressed", whole[: head + 8] + b"\0" * 800),
    ]


@pytest.mark.parametrize(("name", "record"), _forms(), ids=[name for name, _ in _forms()])
def test_a_damaged_lineage_is_one_line(name: str, record: bytes, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"lineage\.bin"):
        trained_on(_bundle(tmp_path / "bundle", record), ["1"])


def test_a_real_bundle_can_carry_one(linear_pilot: Path, tmp_path: Path) -> None:
    shutil.copytree(linear_pilot / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / LINEAGE_FILE).write_bytes(lineage_of(["a", "b"]))
    # The manifest of a bundle without a digest for it, or with the right one, is taken.
    manifest = msgspec.json.decode((tmp_path / "bundle" / "manifest.json").read_bytes())
    manifest["files"].pop(LINEAGE_FILE, None)
    (tmp_path / "bundle" / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert trained_on(tmp_path / "bundle", ["b", "c"]) == {"b"}
