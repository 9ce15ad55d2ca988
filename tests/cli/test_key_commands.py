"""Commands of virtual keys, as a user meets them."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tiercel.cli.key_commands import register
from tiercel.cli.main import app, run
from tiercel.store.database import open_database
from tiercel.store.key_secrets import is_misspelt
from tiercel.store.keys import find_key, list_keys
from tiercel.store.limits import reserve, settle

if not any(group.name == "keys" for group in app.registered_groups):
    register(app)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store that TIERCEL_STORE names; not made yet."""
    path = tmp_path / "gateway.db"
    monkeypatch.setenv("TIERCEL_STORE", str(path))
    return path


def made(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The secret of a new key."""
    assert run(["keys", "create", *options]) == 0
    return capsys.readouterr().out.strip()


def test_the_secret_is_all_of_stdout_and_a_line_on_stderr_says_that_it_is_shown_once(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "create", "tickets"]) == 0
    told = capsys.readouterr()
    secret = told.out.removesuffix("\n")
    assert secret.startswith("tcl-")
    assert not is_misspelt(secret)
    assert told.err.count("\n") == 1
    assert "will not be shown again" in told.err
    assert secret not in told.err
    database = open_database(store, migrate=False)
    key = find_key(database, secret)
    database.close()
    assert key is not None
    assert (key.name, key.id in told.err) == ("tickets", True)
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def test_every_option_reaches_the_key(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--budget 10 --period day --rpm 60 --tpm 100000 --workload a --workload b --tier student --tier cache"
    switches = "--local-only --no-capture --permission operator --expires 90d --tenant acme --json"
    assert run(["keys", "create", "app", *options.split(), *switches.split()]) == 0
    told = json.loads(capsys.readouterr().out)
    database = open_database(store, migrate=False)
    (key,) = list_keys(database)
    assert find_key(database, told["secret"]) == key
    database.close()
    assert told["key"]["id"] == key.id
    assert (key.budget_usd, key.period, key.requests_per_minute, key.tokens_per_minute) == (10, "day", 60, 100_000)
    assert (key.workloads, key.tiers, key.local_only, key.capture) == (("a", "b"), ("cache", "student"), True, False)
    assert (key.tenant, key.permissions) == ("acme", ("operator",))
    assert key.expires is not None
    assert key.expires - key.created == pytest.approx(90 * 86_400, abs=0.001)


def test_the_list_shows_state_limits_and_what_was_spent_but_no_secret(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = made(capsys, "tickets", "--budget", "10", "--workload", "a", "--permission", "operator")
    made(capsys, "everything")
    database = open_database(store)
    first, second = list_keys(database)
    reservation = reserve(database, [first.scope], usd=2, tokens=5, now=first.created)
    assert settle(database, reservation, usd=1.25, tokens=5)  # pyright: ignore[reportArgumentType]
    database.close()
    assert run(["keys", "revoke", second.id]) == 0
    assert f"{second.id} (everything) is revoked since 2" in capsys.readouterr().out
    assert run(["keys", "list"]) == 0
    told = capsys.readouterr().out
    head, *lines = told.splitlines()
    assert head.split() == ["id", "name", "state", "created", "expires", "spent", "budget", "rpm", "tpm", "allowed"]
    assert [line.split()[:3] for line in lines] == [
        [first.id, "tickets", "valid"],
        [second.id, "everything", "revoked"],
    ]
    assert "1.25 USD" in lines[0]
    assert "10.00 USD/month" in lines[0]
    assert lines[0].rstrip().endswith("workloads a; and operator")
    assert secret not in told
    assert run(["keys", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["valid"], row["spent_usd"]) for row in rows] == [
        (first.id, True, 1.25),
        (second.id, False, 0),
    ]
    assert not any("secret" in row or "digest" in row for row in rows)


def test_an_empty_store_says_what_to_type(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_database(store).close()
    assert run(["keys", "list"]) == 0
    assert "next: tiercel keys create NAME" in capsys.readouterr().out
    assert run(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "a", "--tier", "gold"], "use one of: cache, student, frontier"),
        (["create", "a", "--permission", "root"], "use one of: operator, feedback"),
        (["create", "a", "--period", "week"], "use one of: day, month, total"),
        (["create", "a", "--expires", "soon"], "give a span such as"),
        (["create", "a", "--expires", "2001-01-01"], "a time of expiry that lies ahead"),
        (["create", "a", "--budget", "-1"], "a budget of -1.0 USD"),
        (["create", " "], "printable letters"),
        (["revoke", "key_0"], "there is no key key_0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    open_database(store).close()
    assert run(["keys", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert says in told.err


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "key_0"]])
def test_only_create_makes_a_store(store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["keys", *arguments]) == 2
    assert "there is no store" in capsys.readouterr().err
    assert not store.exists()


def test_the_store_of_the_settings_is_used_where_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TIERCEL_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "gateway.toml").write_text('[capture]\nstore = "keys.db"\n')
    made(capsys, "a", "--config", "etc/gateway.toml")
    assert [path.name for path in tmp_path.glob("*/*.db")] == ["keys.db"]
    assert run(["keys", "list", "--config", "etc/gateway.toml"]) == 0
    id_ = capsys.readouterr().out.splitlines()[1].split()[0]
    assert run(["keys", "revoke", id_, "--config", "etc/gateway.toml"]) == 0


def test_without_a_variable_the_store_is_in_the_folder_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TIERCEL_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    made(capsys, "a")
    assert (tmp_path / "tiercel.db").is_file()


def test_the_commands_load_no_database_before_they_run() -> None:
    code = (
        "import sys, typer; from tiercel.cli.key_commands import register; register(typer.Typer()); "
        "print(sorted({'sqlalchemy', 'alembic', 'msgspec', 'rich.console'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
