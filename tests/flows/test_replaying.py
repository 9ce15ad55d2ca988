from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.conftest import chat, write_lines
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.replaying import read_recordings, replay
from tiercel.providers.replay import ReplaySettings


def test_rows_with_an_answer_are_read_and_others_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(
        tmp_path / "recorded.jsonl",
        chat("a", "one"),
        chat("b"),
        b'{"messages": [',
        chat("c", responses=[{"model": "m", "content": "three"}]),
        chat("d", reference="four"),
        {"messages": []},
    )
    found = read_recordings([path, path])
    assert [e.messages[-1].text for e in found] == ["a", "c", "d"] * 2
    assert f"{path}, line 3" in caplog.text
    assert f"{path}, line 6" in caplog.text


def test_many_broken_lines_are_summed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_recordings([write_lines(tmp_path / "recorded.jsonl", *[b"{"] * 50, chat("a", "one"))])
    assert len(caplog.records) == 6
    assert "50 lines" in caplog.text


def test_a_file_without_answers_is_one_clear_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "recorded.jsonl", chat("a"), chat("b"))
    with pytest.raises(DataError, match=r"recorded\.jsonl: none of 2 rows holds an answer"):
        replay([path], ReplaySettings(), "127.0.0.1", 0)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_can_not_be(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigurationError, match="--port"):
        replay([tmp_path / "recorded.jsonl"], ReplaySettings(), "127.0.0.1", port)


def test_content_is_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    read_recordings([write_lines(tmp_path / "recorded.jsonl", chat("my secret", "one"), {"messages": "my secret"})])
    assert "my secret" not in caplog.text
