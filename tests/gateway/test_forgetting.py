"""What a client, a key or a user does not want kept: audits, cached answers and all names of a user included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway.conftest import SURE, UNSURE, Frontier, Loop, Running, answering, body, messages, send, serving
from tests.gateway.test_auditing import ALL, RIGHT, audited, until
from tests.gateway.test_audits_taken_up import left_behind
from tests.gateway.test_gateway import key_header
from tiercel.flows.traces import ForgetOutcome, forget
from tiercel.gateway.sections import Cache, Settings
from tiercel.store.entries import find
from tiercel.store.export import export_traces
from tiercel.store.keys import create_key

Configured = Callable[..., Settings]
OFF = {"x-tiercel-capture": "off"}


@pytest.fixture
def audits(loop: Loop, configured: Configured, frontier: Frontier) -> Iterator[Running]:
    """A gateway that audits every accepted answer; the frontier agrees with the student."""
    frontier.behave = answering(200, RIGHT)
    with serving(loop, configured(frontier.provider(), monitor=ALL)) as gateway:
        yield gateway


@pytest.fixture
def caching(loop: Loop, configured: Configured, frontier: Frontier) -> Iterator[Running]:
    with serving(loop, configured(frontier.provider(), cache=Cache(enabled=True))) as gateway:
        yield gateway


def forgotten(gateway: Running, user: str) -> ForgetOutcome:
    return forget(str(gateway.database.path), user)


def contents(gateway: Running, count: int) -> list[bool]:
    return [entry.content is not None for entry in gateway.entries(count)]


@pytest.mark.parametrize("by", ["header", "key"])
def test_an_audit_keeps_no_content_where_the_request_keeps_none(audits: Running, by: str) -> None:
    key, secret = create_key(audits.database, "quiet", capture=by == "header")
    audits.worker.keys.refresh()
    headers = {**key_header(secret), **(OFF if by == "header" else {})}
    send(audits.url, body(SURE, user="ada"), headers=headers)
    audited(audits, 1)
    assert contents(audits, 2) == [False, False]
    assert list(export_traces(audits.database)) == []
    answer, audit = audits.entries(2)
    assert (audit.reason, audit.key, audit.user) == ("audit", key.id, answer.user)


def test_a_user_is_forgotten_with_the_audits_of_their_requests(audits: Running) -> None:
    send(audits.url, body(SURE, user="ada"))
    audited(audits, 1)
    assert contents(audits, 2) == [True, True]
    ids = tuple(entry.id for entry in audits.entries(2))
    assert forgotten(audits, "ada").trace_ids == ids
    assert contents(audits, 2) == [False, False]


def test_an_audit_that_another_gateway_takes_up_is_still_its_users_and_its_keys(
    loop: Loop, configured: Configured, frontier: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.gateway import test_audits_taken_up as taken_up

    settings = configured(frontier.provider(), monitor=ALL)
    with serving(loop, settings) as gateway:
        key, secret = create_key(gateway.database, "ada's")

    def as_ada(url: str, asked: dict[str, Any]) -> Any:
        return send(url, {**asked, "user": "ada", "safety_identifier": "acct-7"}, headers=key_header(secret))

    monkeypatch.setattr(taken_up, "send", as_ada)
    left_behind(loop, settings, frontier)
    with serving(loop, settings) as gateway:
        audited(gateway, 1)
        until(lambda: any(e.status == 200 and e.reason == "audit" for e in gateway.entries(1)), "the audit's entry")
        found = [e for e in gateway.entries(1) if e.status == 200]
        assert [(e.reason, e.key, e.content is not None) for e in found[1:]] == [("audit", key.id, True)]
        assert {e.id for e in found} <= set(forgotten(gateway, "ada").trace_ids)


@pytest.mark.parametrize("name", ["ada", "acct-7", "session-3"])
def test_a_user_is_found_by_each_name_that_a_request_gives(gateway: Running, name: str) -> None:
    asked = body(SURE, user="ada", safety_identifier="acct-7", metadata={"user_id": "session-3"})
    id_ = send(gateway.url, asked)[1]["x-tiercel-id"]
    send(gateway.url, body(SURE, user="bob"))
    gateway.entries(2)
    assert forgotten(gateway, name).trace_ids == (id_,)
    entry = find(gateway.database, id_)
    assert entry is not None
    assert (entry.user, entry.further_users, entry.content) == (None, (), None)
    assert all(forgotten(gateway, other).trace_ids == () for other in ("ada", "acct-7", "session-3"))
    assert contents(gateway, 2) == [False, True]


def test_a_user_of_anthropics_messages_is_found(gateway: Running) -> None:
    system, *said = messages(SURE)
    asked = {"model": "m", "max_tokens": 9, "system": system["content"], "messages": said}
    id_ = send(gateway.url, {**asked, "metadata": {"user_id": "ada"}}, "/messages")[1]["x-tiercel-id"]
    gateway.entries(1)
    assert forgotten(gateway, "ada").trace_ids == (id_,)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("by", ["header", "key"])
def test_an_answer_that_is_not_to_be_kept_is_not_cached(
    caching: Running, frontier: Frontier, by: str, stream: bool
) -> None:
    _, quiet = create_key(caching.database, "quiet", tenant="acme", capture=by == "header")
    _, other = create_key(caching.database, "other", tenant="acme")
    caching.worker.keys.refresh()
    headers = {**key_header(quiet), **(OFF if by == "header" else {})}

    def tier(headers: dict[str, str]) -> str:
        return send(caching.url, body(UNSURE, stream=stream), headers=headers)[1]["x-tiercel-tier"]

    assert [tier(headers), tier(headers), tier(key_header(other))] == ["frontier"] * 3
    assert len(frontier.requests) == 3
    assert tier(headers) == "cache"  # what others of the tenant let be kept


def test_forgetting_a_user_forgets_what_is_cached(caching: Running, frontier: Frontier) -> None:
    def tier() -> str:
        return send(caching.url, body(UNSURE, user="ada"))[1]["x-tiercel-tier"]

    assert [tier(), tier()] == ["frontier", "cache"]
    caching.entries(2)
    assert len(forgotten(caching, "ada").trace_ids) == 2
    until(lambda: tier() == "frontier", "the cache's forgetting")
    assert tier() == "cache"
