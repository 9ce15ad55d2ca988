"""A fitted routing policy as a folder: JSON, safetensors and ONNX only, so that reading it runs no code.

policy.json             models, gates, the path of thresholds, the certified one
gates.safetensors       arrays of the gates
certificate.json        the claim and its rows
encoder.onnx, tokenizer.json    where a signal reads embeddings
report.html, result.json
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import BundleError, CertificateError, ConfigurationError
from tiercel.flows.routing_embedding import ENCODER_FILES
from tiercel.flows.storage import guarded, write_file
from tiercel.routing.certificate import Certificate, verify_certificate
from tiercel.routing.curves import Costs
from tiercel.routing.delegation import DelegationGate, GateState
from tiercel.routing.exchange import Exchanges
from tiercel.routing.path import Decision, Gating, Step, decide, path_scores, step_at
from tiercel.routing.signal import SIGNALS, Signal, make_signals

__all__ = ["FORMAT", "RoutePolicy", "RouteRecord", "load_policy", "save_policy"]

FORMAT = 1
_POLICY, _GATES, _CERTIFICATE = "policy.json", "gates.safetensors", "certificate.json"


class RouteRecord(Struct, frozen=True, kw_only=True):
    """A policy as it is stored."""

    format: int
    weak_model: str
    strong_model: str
    gating: Gating
    path: tuple[Step, ...]
    """Steps that were fixed before the certificate's rows were looked at, strictest first."""
    costs: Costs
    costs_from: str
    """log, prices, options or assumed."""
    gates: dict[str, dict[str, Any]]
    """What each gate holds beside its arrays, by stage."""
    training_rows: int
    files: dict[str, str] = {}
    """SHA-256 of the gates' arrays and of the encoder, by name."""
    threshold: float | None = None
    """Certified, on the path's score; None when nothing is."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the threshold: what was fixed before the certificate."""
        bare = msgspec.structs.replace(self, threshold=None)
        return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()

    @property
    def step(self) -> Step | None:
        """The certified thresholds."""
        return step_at(self.path, self.threshold)


class RoutePolicy:
    """Gates with their thresholds.

    Args:
        record: as stored.
        gates: by stage, "pre" and "post" as far as `record.gating` asks for them.
    """

    def __init__(self, record: RouteRecord, gates: Mapping[str, DelegationGate]) -> None:
        self.record = record
        self.gates = dict(gates)

    def scores(self, exchanges: Exchanges) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probability that delegating pays by the gate on the request and by that on the answer, shape (n,) each.

        A gate that the policy does not have says 0.
        """
        nothing = np.zeros(len(exchanges))
        return tuple(self.gates[s].score(exchanges) if s in self.gates else nothing for s in ("pre", "post"))  # pyright: ignore[reportReturnType]

    def safety(self, exchanges: Exchanges) -> NDArray[np.float64]:
        """The score that the certificate is about, shape (n,): how early on the path the weak answer is used."""
        return path_scores(self.record.path, *self.scores(exchanges))

    def decide(self, exchanges: Exchanges) -> list[Decision]:
        """What becomes of each of n requests; all go to the strong model where nothing is certified."""
        step = self.record.step
        if step is None:
            return [Decision.STRONG] * len(exchanges)
        return decide(step, *self.scores(exchanges))


def save_policy(
    folder: Path, policy: RoutePolicy, certificate: Certificate | None, encoder: Path | None
) -> RoutePolicy:
    """Write gates, record and certificate into `folder`.

    Without a certificate the record is complete but for its threshold: its digest is what a certificate is issued for.

    Returns:
        The policy whose record names the files as they were written.
    """
    from safetensors.numpy import save

    arrays = {
        f"{stage}.{name}": np.ascontiguousarray(array)
        for stage, gate in policy.gates.items()
        for name, array in gate.state().arrays.items()
    }
    content = save(arrays)
    write_file(folder / _GATES, content)
    files = {_GATES: hashlib.sha256(content).hexdigest()}
    if encoder is not None:
        for name in ENCODER_FILES:
            with guarded(folder / name):
                if encoder.resolve() != folder.resolve():
                    shutil.copyfile(encoder / name, folder / name)
            files[name] = _sha256(folder / name)
    record = msgspec.structs.replace(policy.record, files=files)
    if certificate is not None:
        record = msgspec.structs.replace(record, threshold=certificate.threshold)
        write_file(folder / _CERTIFICATE, msgspec.json.encode(certificate))
    write_file(folder / _POLICY, msgspec.json.format(msgspec.json.encode(record), indent=1))
    return RoutePolicy(record, policy.gates)


def load_policy(folder: Path, own: Mapping[str, type[Signal]] | None = None) -> tuple[RoutePolicy, Certificate]:
    """The policy of a folder, checked against its certificate.

    Args:
        folder: that `tiercel route fit` wrote.
        own: signals of a user's file, by name, where the policy was fitted with such.

    Raises:
        BundleError: a file is missing, changed, or no policy.
        CertificateError: the certificate does not follow from its rows or is another policy's.
        ConfigurationError: the policy needs signals of a file that was not given.
    """
    record = _decoded(folder, _POLICY, RouteRecord)
    if record.format != FORMAT:
        raise BundleError(f"{folder}: its format is {record.format}, this program reads {FORMAT}; upgrade tiercel")
    for name, digest in record.files.items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise BundleError(f"{folder / name} is missing or not the file that was written; fit the policy again")
    certificate = _decoded(folder, _CERTIFICATE, Certificate)
    if certificate.policy != record.digest or certificate.threshold != record.threshold:
        raise CertificateError(f"{folder}: the certificate is of another policy; fit it again")
    verify_certificate(certificate)
    try:
        gates = _gates(folder, record, own or {})
    except (KeyError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, (ConfigurationError, BundleError)):
            raise
        raise BundleError(f"{folder}: the gates can't be read ({type(error).__name__}); fit the policy again") from None
    return RoutePolicy(record, gates), certificate


def _gates(folder: Path, record: RouteRecord, own: Mapping[str, type[Signal]]) -> dict[str, DelegationGate]:
    from safetensors.numpy import load_file

    arrays = load_file(folder / _GATES)
    gates = dict[str, DelegationGate]()
    for stage, values in record.gates.items():
        for name in values["signals"]:
            # A policy may name signals that ship or that the caller hands in, never a module of its own choice.
            if name not in SIGNALS and name not in own:
                raise ConfigurationError(f"{folder} was fitted with the signal {name!r}; give its file with --signals")
        mine = {n.removeprefix(f"{stage}."): a for n, a in arrays.items() if n.startswith(f"{stage}.")}
        gates[stage] = DelegationGate.restore(
            GateState(values=values, arrays=mine), make_signals(values["signals"], own)
        )
    return gates


def _decoded(folder: Path, name: str, kind: type[Any]) -> Any:
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{folder} is no routing policy: it has no {name}; make one with: tiercel route fit")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BundleError(f"{path} can't be read: {error}; fit the policy again") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
