"""Which rows a bundle was trained on, so that a deletion can name the bundles that saw what was deleted.

A bundle keeps no ids: it keeps eight bytes of a hash of each, which is enough to answer for an id whether it was among
them. The chance that a strange id is taken for one of n rows is n / 2^64.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiercel.errors import BundleError
from tiercel.flows.bundle import locate, read_manifest

__all__ = ["LINEAGE_FILE", "lineage_of", "trained_on"]

LINEAGE_FILE = "lineage.bin"
"""Name within a bundle."""
_MAGIC = b"tiercel-lineage-1\n"
_MOST_ROWS = 1 << 28


def lineage_of(ids: Iterable[str]) -> bytes:
    """What a bundle keeps of the ids of its training rows; the same bytes for the same set of ids.

    A mark, the number of rows as eight bytes, and, compressed by zlib, the sorted hashes as differences, each of eight
    bytes from high to low: first the highest byte of all of them, then the next, because the high ones are zero.

    Args:
        ids: of the rows, in any order; repeated ones count once.
    """
    hashes = np.unique(_hashes(ids))
    planes = np.diff(hashes, prepend=np.uint64(0)).astype(">u8").view(np.uint8).reshape(-1, 8).T
    return _MAGIC + hashes.size.to_bytes(8, "big") + zlib.compress(planes.tobytes(), 9)


def trained_on(bundle: Path, ids: Iterable[str]) -> set[str]:
    """Those of `ids` whose rows `bundle` was trained on.

    Args:
        bundle: a bundle, or the folder of the pilot that wrote it.
        ids: of rows.

    Raises:
        BundleError: it is no bundle, has no lineage, or its lineage was changed.
    """
    folder = locate(bundle)
    path = folder / LINEAGE_FILE
    try:
        record = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder} does not say which rows it was trained on; run its pilot again") from None
    except OSError as error:
        raise BundleError(f"{path} can't be read: {error.strerror or error}") from None
    digest = read_manifest(folder).files.get(LINEAGE_FILE)
    if digest is not None and hashlib.sha256(record).hexdigest() != digest:
        raise BundleError(f"{path} was changed after the bundle was written; take the bundle from its source again")
    known = _read(record, path)
    asked = list(ids)
    return {id_ for id_, found in zip(asked, np.isin(_hashes(asked), known), strict=True) if found}


def _hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Hashes of shape (n,)."""
    digests = b"".join(hashlib.blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _read(record: bytes, path: Path) -> NDArray[np.uint64]:
    """The sorted hashes, of shape (n,)."""
    head = len(_MAGIC) + 8
    number = int.from_bytes(record[len(_MAGIC) : head], "big")
    if not record.startswith(_MAGIC) or len(record) < head or number > _MOST_ROWS:
        raise BundleError(f"{path} is no lineage of this program; take the bundle from its source again")
    try:
        # One byte more than can be right, so that a file made to fill the memory is seen.
        planes = zlib.decompressobj().decompress(record[head:], 8 * number + 1)
    except zlib.error:
        planes = b""
    if len(planes) != 8 * number:
        raise BundleError(f"{path} is damaged; take the bundle from its source again")
    differences = np.frombuffer(planes, np.uint8).reshape(8, number).T.copy().view(">u8").reshape(-1)
    return np.cumsum(differences.astype(np.uint64), dtype=np.uint64)
