from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.conftest import chat
from tiercel.datasets import csv_records, sources
from tiercel.datasets.sources import CsvColumns, RawRow, iterate_rows
from tiercel.errors import DataError

COLUMNS = CsvColumns(input="question", answer="label")
LINES = b"".join(json.dumps(chat(f"q{i}", "a")).encode() + b"\n" for i in range(1_000))


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _rows(path: Path, columns: CsvColumns | None = None) -> list[RawRow]:
    return list(iterate_rows(path, columns))


def test_lines_stream_with_their_numbers_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    path = _file(tmp_path, "t.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}\n{"a": 3}')
    assert [(r.line, r.value) for r in _rows(path)] == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.log", "t"])
def test_any_other_name_is_read_as_lines(tmp_path: Path, name: str) -> None:
    assert [r.value for r in _rows(_file(tmp_path, name, b"1\n2\n"))] == [1, 2]


@pytest.mark.parametrize("line", [b'{"a": "cut in ha', b'{"a": NaN}', b'{"a": "\xff"}', b"\x80\x81", b"[" * 100_000])
def test_a_broken_line_is_a_row_with_its_number_and_reason_and_the_next_is_read(tmp_path: Path, line: bytes) -> None:
    first, broken, last = _rows(_file(tmp_path, "t.jsonl", b"1\n" + line + b"\n3\n"))
    assert (first.value, last.value, last.line) == (1, 3, 3)
    assert broken.line == 2
    assert broken.error is not None
    assert broken.error.startswith("not valid JSON: ")
    assert broken.raw == line


def test_a_message_of_200_kb_is_read(tmp_path: Path) -> None:
    text = "ä" * 200_000
    (row,) = _rows(_file(tmp_path, "t.jsonl", json.dumps(chat(text)).encode()))
    assert row.value["messages"][0]["content"] == text


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n7\n"])
def test_a_line_beyond_the_limit_is_rejected_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: bytes
) -> None:
    monkeypatch.setattr(sources, "LONGEST_LINE", 1_000)
    rows = _rows(_file(tmp_path, "t.jsonl", b"1\n" + b"2" * 5_500 + ending))
    assert rows[0].value == 1
    assert rows[1].line == 2
    assert rows[1].error is not None
    assert "longer than" in rows[1].error
    assert [(r.line, r.value) for r in rows[2:]] == ([(3, 7)] if ending.endswith(b"7\n") else [])


def test_gzip_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    assert len(_rows(_file(tmp_path, "t.jsonl.gz", gzip.compress(LINES)))) == 1_000
    assert [r.value for r in _rows(_file(tmp_path, "t.JSON.GZ", gzip.compress(b"[1, 2]")))] == [1, 2]
    (row,) = _rows(_file(tmp_path, "t.csv.gz", gzip.compress(b"question,label\nq,a\n")), COLUMNS)
    assert row.value == chat("q", "a")
    assert [r.value for r in _rows(_file(tmp_path, "t.gz", gzip.compress(b"1\n2\n")))] == [1, 2]


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_a_truncated_gzip_gives_its_whole_lines_and_one_row_that_says_where_it_breaks_off(
    tmp_path: Path, keep: float
) -> None:
    packed = gzip.compress(LINES)
    rows = _rows(_file(tmp_path, "t.jsonl.gz", packed[: int(len(packed) * keep)]))
    assert all(r.error is None for r in rows[:-1])
    assert [r.value for r in rows[:-1]] == [chat(f"q{i}", "a") for i in range(len(rows) - 1)]
    assert rows[-1].error is not None
    assert "breaks off" in rows[-1].error
    assert rows[-1].line == len(rows)


def test_a_truncated_gzip_of_csv_gives_its_rows_and_one_that_says_where_it_breaks_off(tmp_path: Path) -> None:
    packed = gzip.compress(b"question,label\n" + b"".join(b"question %d,a\n" % i for i in range(5_000)))
    rows = _rows(_file(tmp_path, "t.csv.gz", packed[: len(packed) // 2]), COLUMNS)
    assert len(rows) > 10
    assert rows[-1].error is not None
    assert "breaks off" in rows[-1].error


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_a_truncated_gzip_of_one_list_gives_its_whole_items_and_one_row_that_says_where_it_breaks_off(
    tmp_path: Path, keep: float
) -> None:
    packed = gzip.compress(b"[" + b",\n".join(LINES.splitlines()) + b"]")
    rows = _rows(_file(tmp_path, "t.json.gz", packed[: int(len(packed) * keep)]))
    assert [r.value for r in rows[:-1]] == [chat(f"q{i}", "a") for i in range(len(rows) - 1)]
    assert len(rows) > (10 if keep > 0.02 else 0)
    assert "breaks off" in (rows[-1].error or "")


def test_a_gzip_with_a_wrong_checksum_is_not_called_something_else(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[-6] ^= 0xFF
    path = _file(tmp_path, "t.jsonl.gz", bytes(packed))
    try:
        reason = _rows(path)[-1].error or ""
    except DataError as error:
        reason = str(error)
    assert reason
    assert "is not a gzip file" not in reason


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.json.gz", "t.csv.gz"])
def test_a_gz_that_is_no_gzip_is_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"named \.gz but is not a gzip file; rename it"):
        _rows(_file(tmp_path, name, b'{"a": 1}\n'), COLUMNS)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl: no such file; check the path"):
        _rows(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="is a folder; name the file"):
        _rows(tmp_path)


def test_a_json_file_holds_a_list_an_object_with_data_or_one_row(tmp_path: Path) -> None:
    assert [r.value for r in _rows(_file(tmp_path, "l.json", b'[{"a": 1}, 2]'))] == [{"a": 1}, 2]
    assert [r.value for r in _rows(_file(tmp_path, "d.json", b'{"object": "list", "data": [1, 2]}'))] == [1, 2]
    assert [r.value for r in _rows(_file(tmp_path, "o.json", b'{"messages": []}'))] == [{"messages": []}]


def test_a_byte_order_mark_before_a_list_is_passed_over(tmp_path: Path) -> None:
    assert [r.value for r in _rows(_file(tmp_path, "t.json", b"\xef\xbb\xbf[\n  1,\n  2\n]\n"))] == [1, 2]


def test_json_lines_named_json_are_read_as_lines(tmp_path: Path) -> None:
    rows = _rows(_file(tmp_path, "t.json", b"1\n2\n{broken\n"))
    assert [r.value for r in rows[:2]] == [1, 2]
    assert rows[2].line == 3
    assert rows[2].error is not None


def test_a_list_cut_in_half_keeps_its_whole_items_and_the_rest_is_rejected(tmp_path: Path) -> None:
    whole, cut = _rows(_file(tmp_path, "t.json", b'[{"a": 1},\n {"a": "x\\'))
    assert whole.value == {"a": 1}
    assert (cut.error, cut.line, cut.item, cut.raw) == ("the list breaks off here", 2, 2, b'{"a": "x\\')


def test_one_broken_item_of_an_indented_list_spoils_no_other(tmp_path: Path) -> None:
    items = [b'{\n  "a": 1\n }', b'{\n  "a": NaN\n }', b'{"a": "\xff"}', b'{"a": [2}', b"", b'{"a": 3}']
    rows = _rows(_file(tmp_path, "t.json", b"[\n " + b",\n ".join(items) + b"\n]\n"))
    assert [r.value for r in rows if r.error is None] == [{"a": 1}]
    assert [(r.line, r.item) for r in rows[:3]] == [(2, 1), (5, 2), (8, 3)]
    assert "item 2" in (rows[1].error or "")
    assert rows[1].raw == items[1]
    assert rows[2].raw == items[2]


def test_items_after_a_broken_one_are_read(tmp_path: Path) -> None:
    rows = _rows(_file(tmp_path, "t.json", b'{"data": [{"a": NaN}, 1, , {"a": 1], 2], "more": [3]}'))
    assert [(r.item, r.value) for r in rows if r.error is None] == [(2, 1), (5, 2)]


def test_an_object_over_several_lines_is_one_row_unless_something_follows_it(tmp_path: Path) -> None:
    (one,) = _rows(_file(tmp_path, "t.json", b'\n{\n"messages": []\n}\n'))
    assert (one.value, one.line) == ({"messages": []}, 2)
    rows = _rows(_file(tmp_path, "t.json", b'{\n"messages": []\n}\nand so on\n'))
    assert b"\n".join(r.raw for r in rows if r.error) == b'{\n"messages": []\n}\nand so on'


@pytest.mark.parametrize("first", [b"{broken", b'{"a": NaN}', b'{"a": "x}', b'{"a": 1}}'])
def test_lines_named_json_are_lines_though_the_first_is_broken(tmp_path: Path, first: bytes) -> None:
    rows = _rows(_file(tmp_path, "t.json", first + b'\n{"a": 2}\n'))
    assert [(r.line, r.value) for r in rows] == [(1, None), (2, {"a": 2})]


def test_an_item_beyond_the_limit_is_rejected_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST_LINE", 1_000)
    first, long, last = _rows(_file(tmp_path, "t.json", b'[1,\n"' + b"x" * 5_000 + b'\n",\n3]'))
    assert (first.value, last.value, last.line) == (1, 3, 4)
    assert "longer than" in (long.error or "")
    assert (long.line, len(long.raw)) == (2, 999)


@pytest.mark.parametrize("content", [b"", b"  \n"])
def test_an_empty_json_file_has_no_rows(tmp_path: Path, content: bytes) -> None:
    assert _rows(_file(tmp_path, "t.json", content)) == []


def test_csv_columns_become_a_chat(tmp_path: Path) -> None:
    content = (
        "\ufeffkey,question,label,prompt,truth,model,when\n"
        '1,"Wo ist\r\nmein ""Paket""?",Zürich,Be brief.,Bern,gpt-4o,2025-03-01\n'
        "2,hm,other,Be brief.,,,\n"
    )
    columns = CsvColumns(
        input="question", answer="label", system="prompt", reference="truth", id="key", model="model", created="when"
    )
    first, second = _rows(_file(tmp_path, "t.csv", content.encode()), columns)
    assert first.value == {
        **chat('Wo ist\r\nmein "Paket"?', "Zürich", "Be brief."),
        "reference": "Bern",
        "id": "1",
        "model": "gpt-4o",
        "created": "2025-03-01",
    }
    assert second.value == {**chat("hm", "other", "Be brief."), "id": "2"}


def test_wrong_csv_columns_are_a_clear_error_that_lists_what_there_is(tmp_path: Path) -> None:
    path = _file(tmp_path, "t.csv", b"text,label\nq,a\n")
    with pytest.raises(DataError, match=r"no column 'question'; its columns are: text, label"):
        _rows(path, COLUMNS)
    with pytest.raises(DataError, match=r"import, .*--csv-input and --csv-answer; its columns are: text, label"):
        _rows(path)
    with pytest.raises(DataError, match=r"no column 'id'"):
        _rows(path, CsvColumns(input="text", answer="label", id="id"))


def test_an_empty_csv_is_a_clear_error(tmp_path: Path) -> None:
    path = _file(tmp_path, "t.csv", b"")
    for columns in (None, COLUMNS):
        with pytest.raises(DataError, match="column"):
            _rows(path, columns)


def test_csv_rows_of_another_width_or_broken_utf8_are_rejected_one_by_one(tmp_path: Path) -> None:
    rows = _rows(_file(tmp_path, "t.csv", b"question,label\nq,a\nq\nq,a,x\nq\xff,a\nlast,a\n"), COLUMNS)
    assert [r.error is None for r in rows] == [True, False, False, False, True]
    assert [r.line for r in rows] == [2, 3, 4, 5, 6]
    assert "2 columns" in (rows[1].error or "")
    assert "2 columns" in (rows[2].error or "")
    assert "not valid UTF-8" in (rows[3].error or "")


def test_a_csv_row_that_lacks_its_question_is_rejected(tmp_path: Path) -> None:
    (row,) = _rows(_file(tmp_path, "t.csv", b"label,question\na\n"), COLUMNS)
    assert row.error is not None


def test_broken_utf8_in_the_csv_of_a_logger_is_rejected_too(tmp_path: Path) -> None:
    rows = _rows(_file(tmp_path, "t.csv", b"id,type,input,output\n1,GENERATION,h\xff,a\n2,GENERATION,h,a\n"))
    assert [r.error is None for r in rows] == [False, True]
    assert rows[1].value == {"id": "2", "type": "GENERATION", "input": "h", "output": "a"}


def test_a_stray_quotation_mark_costs_its_own_line_alone(tmp_path: Path) -> None:
    lines = [b"q%d,a" % i for i in range(200)]
    lines[20], lines[90] = b'"q20,a', b'"q90,a'
    rows = _rows(_file(tmp_path, "t.csv", b"question,label\n" + b"\n".join(lines) + b"\n"), COLUMNS)
    assert [(r.line, r.raw) for r in rows if r.error] == [(22, lines[20]), (92, lines[90])]
    assert [r.value for r in rows if not r.error] == [chat(f"q{i}", "a") for i in range(200) if i not in (20, 90)]


def test_a_field_of_absurdly_many_lines_is_given_up_at_its_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_records, "MOST_LINES", 50)
    content = b'question,label\n"q\n' + b"x,a\n" * 60 + b'",a\nlast,a\n'
    rows = _rows(_file(tmp_path, "t.csv", content), COLUMNS)
    assert (rows[0].line, rows[0].raw) == (2, b'"q')
    assert "more than 50 lines" in (rows[0].error or "")
    assert [r.value for r in rows if not r.error] == [chat("x", "a")] * 60 + [chat("last", "a")]


def test_a_csv_line_beyond_the_limit_is_rejected_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST_LINE", 1_000)
    content = b"question,label\n" + b"x" * 5_000 + b',a\n"q\n' + b"y" * 5_000 + b'",a\nlast,a\n'
    rows = _rows(_file(tmp_path, "t.csv", content), COLUMNS)
    assert [r.line for r in rows] == [2, 3, 4, 5]
    assert [r.error is None for r in rows] == [False, False, False, True]
    assert rows[-1].value == chat("last", "a")


def test_a_null_byte_costs_its_own_row_alone(tmp_path: Path) -> None:
    rows = _rows(_file(tmp_path, "t.csv", b"question,label\nq,a\nq\x00,a\nlast,a\n"), COLUMNS)
    assert [r.raw for r in rows if r.error] in ([], [b"q\x00,a"])
    assert rows[-1].value == chat("last", "a")


def test_a_row_keeps_the_bytes_that_it_was_read_from(tmp_path: Path) -> None:
    (row,) = _rows(_file(tmp_path, "t.csv", b'question,label\r\n"two\r\nlines \xff",a\r\n'), COLUMNS)
    assert (row.line, row.error, row.raw) == (2, "not valid UTF-8", b'"two\r\nlines \xff",a')
    (row,) = _rows(_file(tmp_path, "t.jsonl", b'{"a":  1}\r\n'))
    assert row.raw == b'{"a":  1}'


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has a file that can be opened and not read")
def test_a_file_that_can_not_be_read_is_a_clear_error() -> None:
    with pytest.raises(DataError, match=r"^/proc/self/mem can't be read: Input/output error"):
        _rows(Path("/proc/self/mem"))
