"""Turning logs of any form into the data contract: the story of `tiercel import`."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from tiercel.datasets.contract import encode_example
from tiercel.datasets.importing import ImportCounts, RejectFile, read_traffic
from tiercel.datasets.sources import CsvColumns
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder
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
        ConfigurationError: the output is one of the inputs, or has another ending.
        StorageError: it can't be written.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigurationError(f"--output is {output}; give a name that ends in .jsonl or .jsonl.gz")
    if output.resolve() in {p.resolve() for p in paths}:
        raise ConfigurationError(f"--output {output} is also an input; choose another name")
    make_folder(output.parent)
    rejects = rejects or output.with_name(output.name.split(".jsonl")[0] + ".rejects.jsonl")
    rejects.unlink(missing_ok=True)
    counts = ImportCounts()
    aside = output.with_name(output.name + ".part")
    progress.stage("importing")
    with guarded(output):
        try:
            zipped = output.suffix == ".gz"
            with (
                gzip.open(aside, "wb", compresslevel=5) if zipped else aside.open("wb") as stream,
                RejectFile(rejects) as reject_file,
            ):
                rows = read_traffic(paths, counts, reject_file, format_name=format_name, columns=columns)
                for example in rows:
                    stream.write(encode_example(example) + b"\n")
                    if counts.kept % 5_000 == 0:
                        progress.step(counts.kept, 0)
            if not counts.kept:
                reason = counts.reasons.most_common(1)[0][0] if counts.reasons else "no rows"
                raise DataError(f"none of {counts.read} rows can be used; the most frequent reason: {reason}")
            aside.replace(output)
        finally:
            aside.unlink(missing_ok=True)
    warn_of_gaps(counts, progress)
    return counts
