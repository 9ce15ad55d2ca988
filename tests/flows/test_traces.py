from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.test_lineage import _bundle
from tests.store.rows import content, entry
from tiercel.datasets.importing import ImportCounts, read_traffic
from tiercel.errors import BundleError, ConfigurationError, DataError
from tiercel.flows.lineage import lineage_of
from tiercel.flows.progress import Silent
from tiercel.flows.rejects import RejectFile
from tiercel.flows.traces import export_to_file, forget, report_costs
from tiercel.store.database import Database, open_database
from tiercel.store.entries import append, find
from tiercel.store.retention import user_hash, user_salt


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "store.db")
    yield opened
    opened.close()


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "deep/er/out.jsonl"])
def test_an_export_is_traffic_that_an_import_reads_whole(name: str, database: Database, tmp_path: Path) -> None:
    all_ = [entry(created=float(n), content=content(f"question {n}")) for n in range(25)]
    append(database, all_)
    output = tmp_path / name
    counts = export_to_file(tmp_path / "store.db", output, Silent())
    assert (counts.written, counts.rejected, counts.rejects) == (25, 0, None)
    read = ImportCounts()
    examples = list(read_traffic([output], read, RejectFile(None)))
    assert [e.id for e in examples] == [e.id for e in all_]
    assert read.kept == 25
    if name.endswith("gz"):
        assert len(gzip.decompress(output.read_bytes()).splitlines()) == 25
    assert not list(output.parent.glob("*.part"))


def test_traces_that_are_no_examples_are_set_aside_with_their_reason(database: Database, tmp_path: Path) -> None:
    append(database, [entry(), entry(content=content(answered=" ")), entry(content=content(messages=[]))])
    counts = export_to_file(tmp_path / "store.db", tmp_path / "out.jsonl", Silent())
    assert (counts.written, counts.rejected) == (1, 2)
    assert sum(counts.reasons.values()) == 2
    lines = [json.loads(line) for line in Path(counts.rejects or "").read_text().splitlines()]
    assert "neither text nor tool calls" in lines[0]["reason"]
    assert len(lines) == 2


def test_an_export_of_nothing_leaves_no_file(database: Database, tmp_path: Path) -> None:
    append(database, [entry(content=None)])
    output = tmp_path / "out.jsonl"
    output.write_text("the last one")
    with pytest.raises(DataError, match="holds no such traces"):
        export_to_file(tmp_path / "store.db", output, Silent())
    append(database, [entry(content=content(answered=""))])
    with pytest.raises(DataError, match="none of 1 traces"):
        export_to_file(tmp_path / "store.db", output, Silent())
    assert output.read_text() == "the last one"
    assert not list(tmp_path.glob("*.part"))


def test_an_output_of_another_form_or_a_missing_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ends in \.jsonl"):
        export_to_file(tmp_path / "store.db", tmp_path / "out.parquet", Silent())
    with pytest.raises(ConfigurationError, match="there is no store"):
        export_to_file(tmp_path / "store.db", tmp_path / "out.jsonl", Silent())
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_costs_has_lines_and_their_total(database: Database, tmp_path: Path) -> None:
    append(database, [entry(), entry(tier="student", cost_usd=0.001), entry(cost_usd=None)])
    report = report_costs(tmp_path / "store.db", by=("tier",))
    assert [(line.group["tier"], line.requests, line.unpriced) for line in report.lines] == [
        ("frontier", 2, 1),
        ("student", 1, 0),
    ]
    assert report.total is not None
    assert report.total.requests == 3
    assert report.total.saved_usd == pytest.approx(0.009)
    assert report_costs(tmp_path / "store.db", since=2e9).total is None


def test_forgetting_names_the_bundles_that_learned_from_the_user(database: Database, tmp_path: Path) -> None:
    ada = user_hash("ada", user_salt(database))
    hers = [entry(user=ada, created=float(n)) for n in range(3)]
    his = entry(user=user_hash("bob", user_salt(database)))
    append(database, [*hers, his])
    taught = _bundle(tmp_path / "taught", lineage_of([hers[0].id, hers[2].id, his.id]))
    other = _bundle(tmp_path / "other", lineage_of([his.id]))
    done = forget(tmp_path / "store.db", "ada", bundles=[taught, other])
    assert done.user == ada
    assert done.trace_ids == tuple(e.id for e in hers)
    assert done.contents == 3
    assert done.erased
    assert done.bundles == {str(taught): (hers[0].id, hers[2].id)}
    kept = find(database, his.id)
    assert kept is not None
    assert kept.content is not None


def test_a_trace_whose_content_expired_still_names_its_bundle(database: Database, tmp_path: Path) -> None:
    bare = entry(user=user_hash("ada", user_salt(database)), content=None)
    append(database, [bare])
    taught = _bundle(tmp_path / "taught", lineage_of([bare.id]))
    assert forget(tmp_path / "store.db", "ada", bundles=[taught]).bundles == {str(taught): (bare.id,)}


def test_a_bundle_that_can_not_tell_stops_before_anything_is_deleted(database: Database, tmp_path: Path) -> None:
    hers = entry(user=user_hash("ada", user_salt(database)))
    append(database, [hers])
    with pytest.raises(BundleError, match="does not say"):
        forget(tmp_path / "store.db", "ada", bundles=[_bundle(tmp_path / "old", None)])
    assert find(database, hers.id) == hers


def test_flows_work_on_postgresql_too(postgres_url: str, tmp_path: Path) -> None:
    database = open_database(postgres_url)
    append(database, [entry(user=user_hash("ada", user_salt(database))), entry()])
    database.close()
    assert export_to_file(postgres_url, tmp_path / "out.jsonl", Silent()).written == 2
    report = report_costs(postgres_url, by=("day", "user"))
    assert [line.group["day"] for line in report.lines] == ["2023-11-14"] * 2
    done = forget(postgres_url, "ada")
    assert (done.contents, done.erased) == (1, False)
