from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from tests.gateway.manifests import write_manifest
from tiercel.gateway.settings import read_settings
from tiercel.gateway.starter import KNOWN, look_around, starting_file

KEY = "sk-live-0123456789abcdef"


def written(folder: Path, environ: dict[str, str]) -> str:
    text = starting_file(look_around(folder, environ))
    (folder / "tiercel.toml").write_text(text, encoding="utf-8")
    return text


def test_the_file_works_where_nothing_is_found(tmp_path: Path) -> None:
    written(tmp_path, {})
    settings = read_settings(tmp_path / "tiercel.toml", {})
    assert settings.providers == ()
    assert settings.workloads == ()
    assert not settings.server.needs_keys


def test_providers_of_the_environment_are_named_without_their_keys(tmp_path: Path) -> None:
    environ = {known.variable: KEY for known in KNOWN} | {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/"}
    text = written(tmp_path, environ)
    assert KEY not in text
    settings = read_settings(tmp_path / "tiercel.toml", environ)
    assert [p.name for p in settings.chain()] == [known.name for known in KNOWN]
    assert all(p.upstream()["api_key"] == KEY for p in settings.providers)
    assert [p.name for p in settings.providers if p.responses] == ["openai"]
    assert settings.warnings == ()


def test_an_empty_key_is_no_provider(tmp_path: Path) -> None:
    assert look_around(tmp_path, {"OPENAI_API_KEY": " "}).providers == ()


@pytest.mark.parametrize("url", ["", "https://user:hunter2@host", "https://host/?sig=hunter2", 'https://host"\nx="'])
def test_a_url_that_may_hold_a_secret_is_not_written(tmp_path: Path, url: str) -> None:
    environ = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": url}
    assert look_around(tmp_path, environ).providers == ()


def test_bundles_are_found_and_named_after_their_pilots(tmp_path: Path) -> None:
    write_manifest(tmp_path / "helpdesk" / "bundle", "One.")
    write_manifest(tmp_path / "pilots" / "letters" / "bundle", "Two.")
    write_manifest(tmp_path / 'odd "name" é' / "bundle", "Three.")
    (tmp_path / "website").mkdir()
    (tmp_path / "website" / "manifest.json").write_text('{"name": "no bundle"}')
    written(tmp_path, {})
    settings = read_settings(tmp_path / "tiercel.toml", {})
    named = {w.name: w.bundle for w in settings.workloads}
    assert named == {
        "helpdesk": tmp_path / "helpdesk" / "bundle",
        "letters": tmp_path / "pilots" / "letters" / "bundle",
        "odd-name": tmp_path / 'odd "name" é' / "bundle",
    }


def test_of_several_bundles_for_one_workload_the_newest_is_taken(tmp_path: Path) -> None:
    old = write_manifest(tmp_path / "a" / "bundle")
    write_manifest(tmp_path / "b" / "bundle")
    os.utime(old / "manifest.json", (1, 1))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert look_around(tmp_path, {}).bundles == (Path("b/bundle"),)


def test_what_stands_as_a_comment_is_right_too(tmp_path: Path) -> None:
    write_manifest(tmp_path / "pilot" / "bundle")
    text = starting_file(look_around(tmp_path / "none", {}))
    lines = [
        line.removeprefix("# ") if " = " in line or line.startswith("# [[") else line for line in text.splitlines()
    ]
    (tmp_path / "tiercel.toml").write_text("\n".join(lines))
    (tmp_path / "prices.csv").write_text("model,input,output\nm,1,2\n")
    tomllib.loads("\n".join(lines))
    environ = {"OPENAI_API_KEY": KEY}
    text = "\n".join(lines).replace('providers = ["openai", "anthropic"]', 'providers = ["local", "openai"]')
    (tmp_path / "tiercel.toml").write_text(text)
    settings = read_settings(tmp_path / "tiercel.toml", environ)
    assert [p.name for p in settings.chain()] == ["local", "openai"]
    assert settings.workloads[0].budget_usd == 100
