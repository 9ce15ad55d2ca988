from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tiercel.errors import ConfigurationError
from tiercel.providers import prices
from tiercel.providers.prices import Price, PriceTable, cost_usd
from tiercel.types import Usage

PRICE = Price(input=2.0, cached_input=0.5, output=8.0)


def test_cached_tokens_cost_their_own_price_and_reasoning_is_output() -> None:
    usage = Usage(input_tokens=1_000, cached_input_tokens=400, output_tokens=300, reasoning_tokens=200)
    assert cost_usd(usage, PRICE) == pytest.approx((600 * 2.0 + 400 * 0.5 + 300 * 8.0) / 1e6)


def test_a_log_that_counts_more_cached_tokens_than_tokens_costs_nothing_negative() -> None:
    assert cost_usd(Usage(input_tokens=10, cached_input_tokens=40), PRICE) == pytest.approx(40 * 0.5 / 1e6)
    assert cost_usd(Usage(), PRICE) == 0


def test_what_is_written_to_a_cache_costs_its_own_price_or_that_of_input() -> None:
    usage = Usage(input_tokens=1_000, cached_input_tokens=400, cache_write_tokens=300, cache_write_1h_tokens=100)
    dear = Price(input=2.0, cached_input=0.5, output=8.0, cache_write=2.5, cache_write_1h=4.0)
    assert cost_usd(usage, dear) == pytest.approx((200 * 2.0 + 400 * 0.5 + 300 * 2.5 + 100 * 4.0) / 1e6)
    assert cost_usd(usage, PRICE) == pytest.approx((600 * 2.0 + 400 * 0.5) / 1e6)


def test_writes_to_anthropics_cache_cost_more_than_input() -> None:
    table = PriceTable()
    for name, price in table.prices.items():
        if name.startswith("claude-"):
            assert price.cache_write is not None
            assert price.cache_write_1h == 2 * price.input
            assert 1.2 * price.input <= price.cache_write <= 1.25 * price.input
        else:
            assert (price.cache_write, price.cache_write_1h) == (None, None)


def test_a_users_prices_of_cache_writes_are_read(tmp_path: Path) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_text("model,input,output,cache_write,cache_write_1h\nm,1,2,1.25,\n")
    found = PriceTable(extra).find("m")
    assert found == Price(input=1, cached_input=1, output=2, cache_write=1.25)


@pytest.mark.parametrize(("name", "price"), [("text-embedding-3-small", 0.02), ("text-embedding-ada-002", 0.1)])
def test_embeddings_have_a_price_of_input_alone(name: str, price: float) -> None:
    assert PriceTable().find(name) == Price(input=price, cached_input=price, output=0)


def test_the_table_that_ships_holds_every_row_of_its_file() -> None:
    lines = Path(prices.__file__).with_name("prices.csv").read_text("utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if line and not line.startswith("#")))
    table = PriceTable().prices
    assert len(rows) == len({r["model"] for r in rows}) == len(table)
    for row in rows:
        found = table[row["model"].lower()]
        assert found.input == float(row["input"])
        assert found.output == float(row["output"])
        assert found.cached_input == float(row["cached_input"] or row["input"])
        assert found.cached_input <= found.input


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("gpt-5", "gpt-5"),
        ("GPT-5-Mini", "gpt-5-mini"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("openai/gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("openrouter/openai/gpt-5", "gpt-5"),
        ("house-model-20250514", "house-model"),
        ("vertex_ai/house-model@20250514", "house-model"),
        ("house-model-latest", "house-model"),
        ("house-model-preview-06-05", "house-model"),
        ("house-model-0125", "house-model"),
    ],
)
def test_a_dated_or_prefixed_name_finds_its_model(tmp_path: Path, name: str, plain: str) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_text("model,input,cached_input,output\nhouse-model,1,0.1,3\n")
    table = PriceTable(extra)
    assert table.find(name) is not None
    assert table.find(name) == table.prices[plain]


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "no-such-model",
        "gpt-5-turbo-of-another-house",
        "5",
        "2025-08-07",
        "ft:gpt-4o-2024-08-06:house::id",
        "openai/gpt-4o:online",
        "gpt-4o:free",
    ],
)
def test_a_model_that_is_not_in_the_table_has_no_price(name: str | None) -> None:
    assert PriceTable().find(name) is None


def test_a_dated_name_with_a_price_of_its_own_keeps_it(tmp_path: Path) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_text("model,input,output\nm,1,2\nm-2024-05-13,5,15\n")
    found = PriceTable(extra).find("m-2024-05-13")
    assert found == Price(input=5, cached_input=5, output=15)


def test_a_users_price_goes_before_the_one_that_ships(tmp_path: Path) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_bytes(b"\xef\xbb\xbf# ours\nmodel,input,output,cached_input\n\n GPT-5 ,9,99,0\n")
    table = PriceTable(extra)
    assert table.find("gpt-5") == Price(input=9, cached_input=0, output=99)
    assert table.find("gpt-5-mini") == PriceTable().find("gpt-5-mini")


@pytest.mark.parametrize(
    "row",
    ["m,-1,2,3", "m,nan,2,3", "m,1,inf,3", "m,1,2,inf", "m,cheap,2,3", "m,1", "m,,1,2", "m,1,2,", "m,1,2,3,-1"],
)
def test_a_row_that_is_no_price_is_named(tmp_path: Path, row: str) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_text(f"model,input,cached_input,output,cache_write\nok,1,1,1\n{row}\n")
    with pytest.raises(ConfigurationError, match=r"prices\.csv, row 3: needs model,input,cached_input,output"):
        PriceTable(extra)


def test_wrong_columns_are_a_clear_error(tmp_path: Path) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_text("name,in,out\nm,1,2\n")
    with pytest.raises(ConfigurationError, match="needs model,input"):
        PriceTable(extra)


def test_a_file_that_is_not_utf8_is_a_clear_error(tmp_path: Path) -> None:
    extra = tmp_path / "prices.csv"
    extra.write_bytes(b"model,input,output\nmod\xe8le,1,2\n")
    with pytest.raises(ConfigurationError, match=r"prices\.csv"):
        PriceTable(extra)


@pytest.mark.parametrize("where", ["missing.csv", "."])
def test_a_missing_file_or_a_folder_is_a_clear_error(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match="check --prices"):
        PriceTable(tmp_path / where)
