"""Virtual keys: made, found, revoked, and nowhere to be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.errors import ConfigurationError, StorageError
from tiercel.store.database import Database, open_database
from tiercel.store.key_secrets import digest_of, is_misspelt, new_secret
from tiercel.store.keys import KeyRing, VirtualKey, create_key, find_key, list_keys, revoke_key

NOW = 1_795_176_000.0
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_secrets_differ_have_the_form_of_a_header_value_and_spell_themselves() -> None:
    secrets = {new_secret() for _ in range(200)}
    assert len(secrets) == 200
    for secret in secrets:
        assert secret.startswith("tcl-")
        assert len(secret) == 52
        assert set(secret[4:]) <= set(LETTERS)
        assert not is_misspelt(secret)


@given(st.integers(4, 51), st.sampled_from(LETTERS), st.data())
def test_any_one_wrong_letter_is_noticed(position: int, letter: str, data: st.DataObject) -> None:
    secret = new_secret()
    wrong = secret[:position] + letter + secret[position + 1 :]
    assert is_misspelt(wrong) == (wrong != secret)
    other = data.draw(st.integers(4, 50))
    swapped = secret[:other] + secret[other + 1] + secret[other] + secret[other + 2 :]
    assert is_misspelt(swapped) == (swapped != secret)


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "A", lambda s: s + "\n", lambda s: "tcl-", lambda s: s + "é"]
)
def test_a_key_that_was_cut_or_grew_is_misspelt(change: object) -> None:
    assert is_misspelt(change(new_secret()))  # pyright: ignore[reportCallIssue]


def test_a_key_of_another_maker_is_not_a_misspelt_one() -> None:
    assert not is_misspelt("sk-proj-123")
    assert not is_misspelt("")


@settings(max_examples=25)
@given(st.text(max_size=40))
def test_any_text_has_a_digest(text: str) -> None:
    assert len(digest_of(text)) == 32
    assert len(digest_of(text + "\udc80")) == 32


def test_a_key_comes_back_as_it_was_made(database: Database) -> None:
    key, secret = create_key(
        database,
        "tickets",
        tenant="acme",
        expires=NOW + 60,
        workloads=["a", "b", "a"],
        tiers=["student", "cache"],
        local_only=True,
        budget_usd=12.5,
        period="day",
        requests_per_minute=60,
        tokens_per_minute=100_000,
        capture=False,
        permissions=["feedback", "operator"],
        now=NOW,
    )
    assert (key.workloads, key.tiers) == (("a", "b"), ("cache", "student"))
    assert key.permissions == ("operator", "feedback")
    assert list_keys(database) == (key,)
    assert find_key(database, secret, now=NOW) == key
    limits = key.scope
    assert (limits.id, limits.budget_usd, limits.period, limits.requests_per_minute, limits.tokens_per_minute) == (
        f"key:{key.id}", 12.5, "day", 60, 100_000,
    )  # fmt: skip


def test_a_plain_key_may_do_everything_and_shares_with_nobody(database: Database) -> None:
    key, secret = create_key(database, "plain")
    assert key == VirtualKey(id=key.id, name="plain", tenant=key.id, created=key.created)
    assert not key.scope.limited
    assert find_key(database, secret) == key


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"name": "a\x00b"},
        {"tenant": ""},
        {"expires": NOW},
        {"expires": float("nan")},
        {"workloads": []},
        {"workloads": [""]},
        {"tiers": ["gold"]},
        {"tiers": []},
        {"permissions": ["root"]},
        {"budget_usd": -1},
        {"budget_usd": 1.0, "period": "week"},
        {"requests_per_minute": -1},
        {"tiers": ["frontier"], "local_only": True},
    ],
)
def test_keys_that_make_no_sense_are_refused_and_leave_nothing(
    sqlite_database: Database, wrong: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError):
        create_key(sqlite_database, **{"name": "a", "now": NOW, **wrong})  # pyright: ignore[reportArgumentType]
    assert list_keys(sqlite_database) == ()


def test_wrong_revoked_and_expired_keys_are_not_found(database: Database) -> None:
    _, secret = create_key(database, "expiring", expires=NOW + 60, now=NOW)
    key, other = create_key(database, "revoked", now=NOW + 1)
    ring = KeyRing(database, clock=lambda: moment)
    moment = NOW
    assert ring.refresh()
    assert ring.find(secret) is not None
    assert ring.find(other) == key
    for wrong in ("", "tcl-", new_secret(), secret + " ", secret[:-1], key.id, "\udc80", "x" * 10_000):
        assert ring.find(wrong) is None
        assert find_key(database, wrong, now=NOW) is None
    moment = NOW + 60
    assert ring.find(secret) is None
    assert find_key(database, secret, now=NOW + 60) is None
    revoke_key(database, key.id, now=NOW + 5)
    assert ring.find(other) == key, "not seen before a refresh"
    assert ring.refresh()
    assert ring.find(other) is None
    assert find_key(database, other, now=NOW + 2) is None
    assert [k.revoked for k in list_keys(database)] == [None, NOW + 5]


def test_revoking_twice_keeps_the_first_time(database: Database) -> None:
    key, _ = create_key(database, "a")
    assert revoke_key(database, key.id, now=NOW).revoked == NOW
    assert revoke_key(database, key.id, now=NOW + 1).revoked == NOW


def test_revoking_what_is_not_there_says_so_without_repeating_a_secret(database: Database) -> None:
    _, secret = create_key(database, "a")
    with pytest.raises(ConfigurationError, match="no key key_00") as unknown:
        revoke_key(database, "key_00")
    assert "tiercel keys list" in str(unknown.value)
    with pytest.raises(ConfigurationError, match="no key;") as pasted:
        revoke_key(database, secret)
    assert secret not in str(pasted.value)


def test_a_ring_reads_the_keys_again_only_where_one_has_changed(database: Database) -> None:
    other_gateway = KeyRing(database)
    ring = KeyRing(database, refresh_s=1e6)
    assert (ring.due, ring.age_s) == (True, None)
    assert ring.refresh()
    assert not ring.refresh()
    assert not ring.due
    assert ring.age_s is not None
    key, secret = create_key(database, "a")
    assert ring.find(secret) is None
    assert ring.refresh()
    assert ring.find(secret) == key
    assert other_gateway.find(secret) is None
    assert other_gateway.refresh()
    assert len(other_gateway) == 1


def test_a_ring_keeps_its_keys_while_the_store_is_away(tmp_path: Path) -> None:
    database = open_database(tmp_path / "store.db")
    key, secret = create_key(database, "a")
    ring = KeyRing(database)
    ring.refresh()
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE key_revision RENAME TO elsewhere")
    with pytest.raises(StorageError):
        ring.refresh()
    assert ring.find(secret) == key
    database.close()


def test_the_secret_is_in_no_file_no_log_no_repr_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
    try:
        database = open_database(tmp_path / "store.db")
        key, secret = create_key(database, "a")
        ring = KeyRing(database)
        ring.refresh()
        assert ring.find(secret) == find_key(database, secret) == key
        database.close()
    finally:
        logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    assert "INSERT INTO virtual_keys" in caplog.text
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert digest_of(secret) in stored
    for part in (secret, secret[4:], secret[4:24], secret[-20:]):
        assert part.encode() not in stored
        assert part not in caplog.text + repr(key) + repr(ring) + repr(vars(ring)) + repr(database)
