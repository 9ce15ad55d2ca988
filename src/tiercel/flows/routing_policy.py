"""A fitted routing policy as a folder: JSON, safetensors and ONNX only, so that reading it runs no code.

policy.json             models, gates, the path of thresholds, the certified one
gates.safetensors       arrays of the gates
certificate.json        the claim and its rows
encoder.onnx, tokenizer.json    where a signal reads embeddings
report.html, result.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import CertificateError
from tiercel.flows.routing_files import CERTIFICATE, POLICY, check_files, read_gates, read_record, write_gates
from tiercel.flows.storage import write_file
from tiercel.routing.certificate import Certificate, verify_certificate
from tiercel.routing.curves import Costs
from tiercel.routing.delegation import DelegationGate
from tiercel.routing.exchange import Exchanges
from tiercel.routing.limit_signals import holds_personal_data
from tiercel.routing.path import MUST_STAY, STRICTEST, Decision, Gating, Step, decide, path_scores, step_at
from tiercel.routing.signal import Signal

__all__ = ["FORMAT", "RoutePolicy", "RouteRecord", "load_policy", "save_policy"]

FORMAT = 1


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
    keep_private: bool = False
    """Whether requests with personal data stay with the weak model, whatever the gates say of them."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the threshold: what was fixed before the certificate."""
        content = msgspec.to_builtins(msgspec.structs.replace(self, threshold=None), order="deterministic")
        if not self.keep_private:
            del content["keep_private"]  # which the first policies did not have
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()

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

        A gate that the policy does not have says 0; of what must stay the first says `MUST_STAY`.
        """
        pre, post = (
            self.gates[s].score(exchanges) if s in self.gates else np.zeros(len(exchanges)) for s in ("pre", "post")
        )
        return (np.where(holds_personal_data(exchanges), MUST_STAY, pre) if self.record.keep_private else pre), post

    def safety(self, exchanges: Exchanges) -> NDArray[np.float64]:
        """The score that the certificate is about, shape (n,): how early on the path the weak answer is used."""
        return path_scores(self.record.path, *self.scores(exchanges))

    def decide(self, exchanges: Exchanges) -> list[Decision]:
        """What becomes of each of n requests; where nothing is certified, all that may go to the strong model do."""
        return decide(self.record.step or STRICTEST, *self.scores(exchanges))


def save_policy(
    folder: Path, policy: RoutePolicy, certificate: Certificate | None, encoder: Path | None
) -> RoutePolicy:
    """Write gates, record and certificate into `folder`.

    Without a certificate the record is complete but for its threshold: its digest is what a certificate is issued for.

    Returns:
        The policy whose record names the files as they were written.
    """
    files = write_gates(folder, policy.gates, encoder)
    record = msgspec.structs.replace(policy.record, files=files)
    if certificate is not None:
        record = msgspec.structs.replace(record, threshold=certificate.threshold)
        write_file(folder / CERTIFICATE, msgspec.json.encode(certificate))
    write_file(folder / POLICY, msgspec.json.format(msgspec.json.encode(record), indent=1))
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
    record = read_record(folder, POLICY, RouteRecord)
    check_files(folder, record.format, FORMAT, record.files)
    certificate = read_record(folder, CERTIFICATE, Certificate)
    if certificate.policy != record.digest or certificate.threshold != record.threshold:
        raise CertificateError(f"{folder}: the certificate is of another policy; fit it again")
    verify_certificate(certificate)
    return RoutePolicy(record, read_gates(folder, record.gates, own or {})), certificate
