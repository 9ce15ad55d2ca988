"""The files that every routing policy is made of: gates, encoder, and records of JSON."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from tiercel.errors import BundleError, ConfigurationError
from tiercel.flows.routing_embedding import ENCODER_FILES
from tiercel.flows.storage import check_output, guarded, write_file
from tiercel.routing.delegation import DelegationGate, GateState
from tiercel.routing.signal import SIGNALS, Signal, make_signals

__all__ = ["CERTIFICATE", "POLICY", "check_files", "check_policy_folder", "read_gates", "read_record", "write_gates"]

POLICY, CERTIFICATE = "policy.json", "certificate.json"
_GATES = "gates.safetensors"
_AGAIN = "fit the policy again"

Record = TypeVar("Record", bound=Struct)


def check_policy_folder(out: Path, inputs: Sequence[Path]) -> None:
    """Raise `ConfigurationError` where a policy would be written over a bundle, or over what is read."""
    advice = "choose another folder with --out"
    if (out / "manifest.json").exists():
        raise ConfigurationError(f"{out} holds a bundle, whose policy would be written over; {advice}")
    for name in (POLICY, CERTIFICATE, _GATES, *ENCODER_FILES, "result.json", "report.html"):
        check_output(out / name, inputs, what=str(out / name), advice=advice)


def write_gates(folder: Path, gates: Mapping[str, DelegationGate], encoder: Path | None) -> dict[str, str]:
    """Write the arrays of gates, and the encoder that they read embeddings of; SHA-256 of each file by name."""
    from safetensors.numpy import save

    arrays = {
        f"{name}.{key}": np.ascontiguousarray(array)
        for name, gate in gates.items()
        for key, array in gate.state().arrays.items()
    }
    content = save(arrays)
    write_file(folder / _GATES, content)
    files = {_GATES: hashlib.sha256(content).hexdigest()}
    for name in ENCODER_FILES if encoder is not None else ():
        assert encoder is not None
        with guarded(folder / name):
            if encoder.resolve() != folder.resolve():
                shutil.copyfile(encoder / name, folder / name)
        files[name] = _sha256(folder / name)
    return files


def read_record(folder: Path, name: str, kind: type[Record]) -> Record:
    """A record of JSON.

    Raises:
        BundleError: it is not there, or is no such record.
    """
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{folder} is no routing policy: it has no {name}; make one with: tiercel route fit")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BundleError(f"{path} can't be read: {error}; {_AGAIN}") from None


def check_files(folder: Path, found: int, known: int, files: Mapping[str, str]) -> None:
    """Raise `BundleError` for a policy of a newer format, or one whose files are not those that were written."""
    if found != known:
        raise BundleError(f"{folder}: its format is {found}, this program reads {known}; upgrade tiercel")
    for name, digest in files.items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise BundleError(f"{folder / name} is missing or not the file that was written; {_AGAIN}")


def read_gates(
    folder: Path, states: Mapping[str, dict[str, Any]], own: Mapping[str, type[Signal]]
) -> dict[str, DelegationGate]:
    """The gates of a policy by name.

    Args:
        folder: of the policy.
        states: what each gate holds beside its arrays.
        own: signals of a user's file, by name.

    Raises:
        BundleError: the arrays are not those of the gates.
        ConfigurationError: a gate needs a signal of a file that was not given.
    """
    try:
        return _gates(folder, states, own)
    except (ConfigurationError, BundleError):
        raise
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise BundleError(f"{folder}: the gates can't be read ({type(error).__name__}); {_AGAIN}") from None


def _gates(
    folder: Path, states: Mapping[str, dict[str, Any]], own: Mapping[str, type[Signal]]
) -> dict[str, DelegationGate]:
    from safetensors.numpy import load_file

    arrays = load_file(folder / _GATES)
    gates = dict[str, DelegationGate]()
    for name, values in states.items():
        # A policy may name signals that ship or that the caller hands in, never a module of its own choice.
        foreign = next((s for s in values["signals"] if s not in SIGNALS and s not in own), None)
        if foreign is not None:
            raise ConfigurationError(f"{folder} was fitted with the signal {foreign!r}; give its file with --signals")
        mine = {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}
        state = GateState(values=values, arrays=mine)
        gates[name] = DelegationGate.restore(state, make_signals(values["signals"], own))
    return gates


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
