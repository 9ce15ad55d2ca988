from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import fields

from tiercel.errors import DataError
from tiercel.gateway import sections
from tiercel.gateway._section_reader import description_of, is_secret
from tiercel.gateway.settings import SECTIONS, read_settings
from tiercel.gateway.settings_page import _docstrings, settings_tables, with_tables

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_of_the_settings_is_current() -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "run: make docs"


def test_the_tables_hold_every_setting_and_no_resolved_secret() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", settings_tables(), re.MULTILINE)
    expected = [f.name for kind in SECTIONS.values() for f in fields(kind) if not is_secret(f.type)]
    assert rows == expected
    assert "api_key" not in rows
    assert "store_url" not in rows


def test_every_setting_has_a_docstring_and_says_what_may_stand_there() -> None:
    told = _docstrings()
    for kind in SECTIONS.values():
        for field in fields(kind):
            assert told[kind.__name__, field.name].endswith("."), field.name
            assert is_secret(field.type) or description_of(field.type), field.name


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(DataError, match="no place"):
        with_tables("# Settings")


def test_the_example_of_the_page_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert tomllib.loads(example)
    secret = tmp_path / "groq"
    secret.write_text("gsk-1")
    secret.chmod(0o600)
    path = tmp_path / "tiercel.toml"
    path.write_text(example.replace("/run/secrets/groq", str(secret)))
    environ = {"OPENAI_API_KEY": "sk-1", "SIGNATURE": "s", "TIERCEL_STORE": "postgresql://u:p@h/d"}
    settings = read_settings(path, environ)
    assert [p.name for p in settings.providers] == ["openai", "backup"]
    assert settings.warnings == ()


def test_defaults_of_the_tables_are_those_of_the_values() -> None:
    text = settings_tables()
    assert f"`{sections.Server().port}`" in text
    assert f'`"{sections.Capture().store}"`' in text
