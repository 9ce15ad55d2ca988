"""From a file of judged and verified answers to a record that certifies their mean loss, or says that it can't."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from tiercel.datasets.sources import iterate_rows
from tiercel.errors import CertificateError, ConfigurationError, DataError
from tiercel.flows.seeds import check_seed
from tiercel.flows.storage import check_output, make_folder, write_file
from tiercel.routing.judged import KIND, JudgedCertificate, JudgedRow, certify_judged, verify_judged

__all__ = ["certify_file", "is_judged_record", "read_judged", "verify_record"]


def read_judged(source: Path, *, scores: bool = False) -> list[JudgedRow]:
    """The rows of a file of JSON Lines: `id`, `judged`, and `verified` where somebody has looked.

    Args:
        source: the file, also with .gz.
        scores: whether 1 is right and 0 is wrong, as in `responses[].score`; else both are losses.

    Raises:
        DataError: a row can't be used, with its line: nothing is left out, as that could be what the judge got wrong.
    """
    rows, lines = list[JudgedRow](), dict[str, int]()
    for raw in iterate_rows(source):
        try:
            if raw.error is not None:
                raise DataError(raw.error)
            name, judged, verified = _read(raw.value, scores)
            if name in lines:
                raise DataError(f"id {name!r} stands on line {lines[name]} too; an answer counts once")
        except DataError as error:
            raise DataError(f"{source}, line {raw.line}: {error}") from None
        lines[name] = raw.line
        key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        rows.append(JudgedRow(key, judged, verified))
    if not rows:
        raise DataError(f"{source} holds no rows; give JSON Lines with id, judged and, on some rows, verified")
    return rows


def certify_file(
    source: Path,
    *,
    max_loss: float,
    confidence: float,
    scores: bool = False,
    seed: int = 0,
    output: Path | None = None,
) -> JudgedCertificate:
    """Certify the answers of a file, and write the record where `output` says.

    Raises:
        ConfigurationError: the bound or the confidence can't be, or the output is the source.
        DataError: a row can't be used, or none is verified.
        StorageError: the record can't be written.
    """
    if not 0 < max_loss < 1:
        raise ConfigurationError(f"--max-loss is {max_loss}; give a share between 0 and 1, such as 0.05")
    if not 0.5 <= confidence < 1:
        raise ConfigurationError(f"--confidence is {confidence}; give one from 0.5 to below 1, such as 0.95")
    check_seed(seed)
    if output is not None:
        check_output(output, [source])
    rows = read_judged(source, scores=scores)
    if all(row.verified is None for row in rows):
        raise DataError(
            f"{source}: no row is verified, and a judge alone certifies nothing; draw rows at random and verify them"
        )
    certificate = certify_judged(rows, max_loss=max_loss, confidence=confidence, seed=seed)
    if output is not None:
        make_folder(output.parent, "--output")
        write_file(output, msgspec.json.encode(certificate), "--output")
    return certificate


def is_judged_record(path: Path) -> bool:
    """Whether `path` is a file, and so no bundle."""
    return path.is_file()


def verify_record(path: Path) -> JudgedCertificate:
    """Make the record in `path` again from its rows.

    Raises:
        CertificateError: it is no record of this program, or does not lead to its claim.
    """
    try:
        content = path.read_bytes()
        raw = msgspec.json.decode(content)
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise CertificateError(f"{path} is no record of `tiercel certify`; give that file, or a bundle's folder")
        certificate = msgspec.json.decode(content, type=JudgedCertificate)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CertificateError(f"{path} can't be read: {error}") from None
    return verify_judged(certificate)


def _read(value: Any, scores: bool) -> tuple[str, float, float | None]:
    if not isinstance(value, dict):
        raise DataError("a row is an object with id, judged and, where somebody has looked, verified")
    name = value.get("id")
    if not isinstance(name, (str, int)) or isinstance(name, bool) or name == "":
        raise DataError("`id` is missing; give each answer one of its own")
    if value.get("judged") is None:
        raise DataError("`judged` is missing; give what the judge says, from 0 to 1")
    judged = _number("judged", value["judged"], scores)
    verified = value.get("verified")
    return str(name), judged, None if verified is None else _number("verified", verified, scores)


def _number(field: str, value: Any, scores: bool) -> float:
    # A truth value could mean that a row is verified, or that it is right.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"`{field}` is {value!r}; give a number from 0 to 1")
    if not 0 <= value <= 1:
        raise DataError(f"`{field}` is {value}, outside [0, 1]")
    return 1.0 - value if scores else float(value)
