"""What is written takes the place of nothing that a user may want to keep, and a failure says what to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tiercel.errors import ConfigurationError, StorageError
from tiercel.flows.storage import check_output, make_folder, moved_into, new_file, replace_folder, write_file

READ_ONLY = Path("/sys")
"""Of the kernel, which lets not even root make a file there."""
linux = pytest.mark.skipif(not READ_ONLY.is_dir(), reason="the kernel's read-only folder is Linux's")


@linux
def test_a_read_only_folder_is_one_clear_error_that_names_the_commands_option() -> None:
    path = READ_ONLY / "tiercel-test"
    with pytest.raises(StorageError, match=r"^/sys: can't write there \(Permission denied\).*with --out$"):
        make_folder(READ_ONLY)
    with pytest.raises(StorageError, match=r"^/sys/tiercel-test: can't write there .*with --output$"):
        make_folder(path, "--output")
    with pytest.raises(StorageError, match=r"can't write there \(Permission denied\).*with --dir$"):
        write_file(path, b"x", "--dir")
    with pytest.raises(StorageError, match=r"with --output$"), new_file(path, "--output"):
        raise AssertionError("the block must not run")
    assert not path.exists()


@linux
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["import", "t.jsonl", "-o", "/sys/t.jsonl"], "--output"),
        (["import", "t.jsonl", "-o", "t2.jsonl", "--rejects", "/sys/r.jsonl"], "--rejects"),
        (["pilot", "t.jsonl", "--out", "/sys/pilot"], "--out"),
        (["label", "t.jsonl", "-o", "/sys/l.jsonl", "--frontier-url", "http://127.0.0.1:9"], "--output"),
        (["certify", "j.jsonl", "--max-loss", "0.5", "-o", "/sys/c.json"], "--output"),
        (["init", "--dir", "/sys"], "--dir"),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_a_command_names_its_own_option_where_it_can_not_write(
    arguments: list[str],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tiercel.cli.main import run

    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text('{"messages": [{"role": "user", "content": "q"}]}\nno json\n')
    Path("j.jsonl").write_text("".join(f'{{"id": {i}, "judged": 0, "verified": 0}}\n' for i in range(40)))
    assert run(arguments) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: /sys")
    assert told.endswith(f"choose another place with {option}")


def test_an_output_that_is_an_input_is_refused_by_any_name(tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    source.write_text("1\n")
    (tmp_path / "link.jsonl").symlink_to(source)
    os.link(source, tmp_path / "hard.jsonl")
    for name in ("t.jsonl", "link.jsonl", "hard.jsonl", "../" + tmp_path.name + "/t.jsonl"):
        with pytest.raises(ConfigurationError, match="is also an input; choose another name"):
            check_output(tmp_path / name, [source])
    check_output(tmp_path / "other.jsonl", [source])


def test_an_input_that_stands_where_the_output_is_written_aside_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "t.jsonl.part"
    part.write_text("1\n")
    with pytest.raises(ConfigurationError, match="is also an input"):
        check_output(tmp_path / "t.jsonl", [part])


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes with names")
def test_an_output_that_is_a_folder_or_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigurationError, match="is no regular file"):
            check_output(path, [])
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_takes_the_place_of_another_and_leaves_the_users_copy_of_it(tmp_path: Path) -> None:
    for name in ("new", "bundle", "bundle.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "it").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "bundle.old"]
    assert (tmp_path / "bundle" / "it").read_text() == "new"
    assert (tmp_path / "bundle.old" / "it").read_text() == "bundle.old"


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("before")
    with pytest.raises(KeyError), moved_into(path) as aside:
        aside.write_text("after")
        raise KeyError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
