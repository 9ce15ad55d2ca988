"""Turning logs of any form into the data contract: the story of `tiercel import`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tiercel.datasets.contract import encode_example
from tiercel.datasets.importing import ImportCounts, read_traffic
from tiercel.datasets.sources import CsvColumns
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.progress import Progress
from tiercel.flows.rejects import RejectFile, rejects_beside
from tiercel.flows.storage import check_output, make_folder, new_file
from tiercel.flows.traffic import warn_of_gaps

__all__ = ["convert"]


def convert(
    paths: Sequence[Path],
    output: Path,
    progress: Progress,
    *,
    rejects: Path | None = None,
    format_name: str = "auto",
    columns: CsvColumns | None = None,
) -> ImportCounts:
    """Write the rows of all files as one file of the data contract, in bounded memory.

    Args:
        paths: files of traffic.
        output: `.jsonl` or `.jsonl.gz`; appears when it is whole.
        progress: is told how many rows were read.
        rejects: file for rows that can't be read; beside the output when None.
        format_name: as for `read_traffic`.
        columns: as for `read_traffic`.

    Raises:
        DataError: no row can be used.
        ConfigurationError: the output has another ending, or would be written over an input; so would the rejects.
        StorageError: it can't be written.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigurationError(f"--output is {output}; give a name that ends in .jsonl or .jsonl.gz")
    check_output(output, paths)
    rejects = rejects or rejects_beside(output)
    check_output(rejects, [output], what=f"--rejects {rejects}", role="the output")
    counts = ImportCounts()
    progress.stage("importing")
    with RejectFile(rejects, paths) as reject_file:
        make_folder(output.parent, "--output")
        with suppress(_NothingUsable), new_file(output, "--output") as stream:
            rows = read_traffic(paths, counts, reject_file, format_name=format_name, columns=columns)
            for example in rows:
                stream.write(encode_example(example) + b"\n")
                if counts.kept % 5_000 == 0:
                    progress.step(counts.kept, 0)
            if not counts.kept:
                raise _NothingUsable
    if not counts.kept:
        reason = counts.reasons.most_common(1)[0][0] if counts.reasons else "no rows"
        raise DataError(f"none of {counts.read} rows can be used; the most frequent reason: {reason}")
    warn_of_gaps(counts, progress)
    return counts


class _NothingUsable(Exception):
    """Leaves no output, while the rejected rows are kept."""
