from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.manifests import write_manifest
from tiercel.cli.options import config_file, price_file, served_bundles, store_of
from tiercel.errors import ConfigurationError

OTHERS = '[[provider]]\nname = "openai"\nkey_env = "TIERCEL_TEST_IS_NOT_SET"\n'


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_file_of_settings_the_defaults_hold() -> None:
    assert config_file(None) is None
    assert (store_of(None, None), served_bundles(None), price_file(None)) == ("tiercel.db", [], None)


def test_what_is_given_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("model,input,cached_input,output\nm,1,1,1\n")
    write_manifest(tmp_path / "bundle")
    text = '[capture]\nstore = "a.db"\n[costs]\nprices = "prices.csv"\n[[workload]]\nname = "w"\nbundle = "bundle"\n'
    Path("tiercel.toml").write_text(OTHERS + text)
    assert store_of(None, None) == str(tmp_path / "a.db")
    assert store_of("b.db", None) == "b.db"
    assert price_file(None) == tmp_path / "prices.csv"
    assert price_file(Path("other.csv")) == Path("other.csv")
    assert served_bundles(None) == [tmp_path / "bundle"]


def test_a_file_that_is_named_wins_over_the_one_of_this_folder(tmp_path: Path) -> None:
    Path("tiercel.toml").write_text('[capture]\nstore = "a.db"\n')
    (tmp_path / "etc").mkdir()
    Path("etc/other.toml").write_text('[capture]\nstore = "b.db"\n')
    assert store_of(None, Path("etc/other.toml")) == str(tmp_path / "etc" / "b.db")
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: no such file"):
        store_of(None, Path("nowhere.toml"))


def test_only_mistakes_of_the_section_that_is_asked_for_are_told() -> None:
    Path("tiercel.toml").write_text(f'{OTHERS}[sever]\n[capture]\nstore = "a.db"\nqueue = 0\n')
    assert price_file(None) is None
    with pytest.raises(ConfigurationError, match=r"^tiercel\.toml: capture\.queue: 0 does not fit"):
        store_of(None, None)
