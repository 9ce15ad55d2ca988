"""Bundles as far as their manifests: enough for what finds and names them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tiercel.datasets.templates import RequestReader, Template, WorkloadKey
from tiercel.flows.bundle import FORMAT, Manifest

__all__ = ["write_manifest"]


def write_manifest(folder: Path, system: str = "Answer with one word.") -> Path:
    """A bundle as far as its manifest, for a workload with this system prompt."""
    reader = RequestReader(key=WorkloadKey(template=Template(pieces=(system,))))
    manifest = Manifest(
        format=FORMAT,
        version="0.1.0",
        task="classification",
        reader=reader,
        student="classifier",
        frontier=None,
        files={},
    )
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder
