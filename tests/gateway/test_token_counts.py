"""Where an answer comes without token counts, and its provider's tokenizer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import (
    ANSWER,
    KEY,
    UNSURE,
    Frontier,
    Loop,
    answering,
    body,
    chunk,
    messages,
    send,
    serving,
    sse,
)
from tests.providers.test_text_tokenizer import WHOLE, write
from tiercel.errors import ConfigurationError
from tiercel.gateway.sections import Costs, Settings
from tiercel.gateway.settings import read_settings
from tiercel.gateway.state import State
from tiercel.store.database import open_database
from tiercel.store.entries import Entry, find

PRICES = "model,input,cached_input,output\ngpt-frontier,1000,100,10000\nfrontier-1,1000,100,10000\n"


def count(*texts: str) -> int:
    return sum(len(WHOLE.encode(text, add_special_tokens=False).ids) for text in texts)


@pytest.fixture
def entry(loop: Loop, configured: Callable[..., Settings], frontier: Frontier, tmp_path: Path) -> Callable[..., Entry]:
    """The entry of one request."""
    path = write(tmp_path / "tokenizer.json")
    (tmp_path / "prices.csv").write_text(PRICES)

    def asked(data: Any, api: str = "/chat/completions", *, tokenizer: bool = True) -> Entry:
        provider = frontier.provider(tokenizer=path if tokenizer else None)
        settings = configured(provider, bundle=False, costs=Costs(prices=tmp_path / "prices.csv"))
        with serving(loop, settings) as gateway:
            status, headers, _ = send(gateway.url, data, api)
            assert status == 200
        database = open_database(tmp_path / "store.db")
        found = find(database, headers["x-tiercel-id"])
        database.close()
        assert found is not None
        return found

    return asked


def test_a_stream_without_counts_is_counted_by_the_tokenizer(entry: Callable[..., Entry]) -> None:
    found = entry(body(UNSURE, stream=True))
    texts = [m["content"] for m in messages(UNSURE)]
    assert (found.counted_by, found.input_tokens, found.output_tokens) == (
        "tokenizer",
        count(*texts),
        count("delivery"),
    )
    assert found.cost_usd == pytest.approx((1_000 * found.input_tokens + 10_000 * found.output_tokens) / 1e6)


def test_without_a_tokenizer_it_is_estimated(entry: Callable[..., Entry]) -> None:
    assert entry(body(UNSURE, stream=True), tokenizer=False).counted_by == "estimate"


def test_what_the_provider_counts_is_believed(entry: Callable[..., Entry], frontier: Frontier) -> None:
    found = entry(body(UNSURE))
    assert (found.counted_by, found.input_tokens, found.output_tokens) == ("provider", 1, 1)
    last = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    }

    async def streams(request: Any) -> Any:
        return await frontier.stream(request, *sse(chunk("deli"), chunk("very"), last, b"[DONE]"))

    frontier.behave = streams
    found = entry(body(UNSURE, stream=True))
    assert (found.counted_by, found.input_tokens, found.output_tokens) == ("provider", 7, 5)


def test_a_whole_answer_without_counts_is_counted_with_its_calls_tools_and_all_choices(
    entry: Callable[..., Entry], frontier: Frontier
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Paris"}'}}
    choices = [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
            "finish_reason": "tool_calls",
        },
        {"index": 1, "message": {"role": "assistant", "content": "my parcel"}, "finish_reason": "stop"},
    ]
    frontier.behave = answering(200, {**ANSWER, "usage": None, "choices": choices})
    tools = [{"type": "function", "function": {"name": "find"}}]
    found = entry(body(UNSURE, tools=tools, n=2))
    texts = [m["content"] for m in messages(UNSURE)]
    assert found.counted_by == "tokenizer"
    assert found.input_tokens == count(*texts, '[{"type":"function","function":{"name":"find"}}]')
    assert found.output_tokens == count("find", '{"city": "Paris"}', "my parcel")


class TestConfiguration:
    TOML = '[[provider]]\nname = "local"\nurl = "http://127.0.0.1:1/v1"\ntokenizer = "models/tokenizer.json"\n'

    def read(self, folder: Path) -> Settings:
        path = folder / "tiercel.toml"
        path.write_text(self.TOML)
        return read_settings(path, {"KEY": KEY})

    def test_a_path_starts_from_the_files_folder(self, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        path = write(tmp_path / "models" / "tokenizer.json")
        assert self.read(tmp_path).providers[0].tokenizer == path

    def test_a_missing_or_broken_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"provider\[0\]\.tokenizer: .*can't be read"):
            self.read(tmp_path)
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "tokenizer.json").write_text("{}")
        with pytest.raises(ConfigurationError, match=r"provider\[0\]\.tokenizer: .* is no tokenizer\.json"):
            self.read(tmp_path)

    def test_one_that_breaks_later_keeps_a_reload_from_happening(
        self, tmp_path: Path, configured: Callable[..., Settings], frontier: Frontier
    ) -> None:
        database = open_database(tmp_path / "store.db")
        with pytest.raises(ConfigurationError, match="can't be read"):
            State(configured(frontier.provider(tokenizer=tmp_path / "gone.json"), bundle=False), database)
        database.close()
