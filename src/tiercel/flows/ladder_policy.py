"""A fitted ladder of several models as a folder: the same files as a policy of two (`routing_policy.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import CertificateError
from tiercel.flows.routing_files import CERTIFICATE, POLICY, check_files, read_gates, read_record, write_gates
from tiercel.flows.storage import write_file
from tiercel.routing.delegation import DelegationGate
from tiercel.routing.exchange import Exchanges
from tiercel.routing.ladder import LadderPlan, LadderStep, tiers_chosen
from tiercel.routing.ladder_certificate import LadderCertificate, verify_ladder
from tiercel.routing.limit_signals import holds_personal_data
from tiercel.routing.path import MUST_STAY, Gating
from tiercel.routing.signal import Signal

__all__ = ["FORMAT", "HOPELESS", "LadderPolicy", "LadderRecord", "is_ladder", "load_ladder", "save_ladder", "tier_gate"]

FORMAT = 1
HOPELESS = "abstention"
"""Name of the gate that foresees, behind the first tier's answer, whether the last tier is wrong."""

Floats = NDArray[np.float64]


def tier_gate(tier: int) -> str:
    """Name of the gate of a tier, counted from 0."""
    return f"tier{tier + 1}"


class LadderRecord(Struct, frozen=True, kw_only=True):
    """A ladder as it is stored."""

    format: int
    tiers: tuple[str, ...]
    """Names of the m models, cheapest first."""
    gating: Gating
    """pre: each request goes to its tier at once; post: it climbs, and each answer is judged."""
    costs: tuple[float, ...]
    """Mean cost of a call to each."""
    costs_from: str
    """log, prices, options or assumed."""
    gates: dict[str, dict[str, Any]]
    """What each gate holds beside its arrays, by `tier_gate` and `HOPELESS`."""
    plan: LadderPlan
    training_rows: int
    keep_private: bool
    """Whether requests with personal data stay with the first tier, whatever the gates say of them."""
    files: dict[str, str] = {}
    """SHA-256 of the gates' arrays and of the encoder, by name."""
    step: LadderStep | None = None
    """Certified; None when nothing is."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the certified step: what was fixed before the certificate."""
        bare = msgspec.structs.replace(self, step=None)
        return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()

    @property
    def climbs(self) -> bool:
        """Whether a request is shown to all tiers on its way."""
        return self.gating == Gating.POST


class LadderPolicy:
    """The gates of a ladder with their thresholds.

    Args:
        record: as stored.
        gates: by name, one for each tier but the last, and `HOPELESS` where the ladder may abstain.
    """

    def __init__(self, record: LadderRecord, gates: Mapping[str, DelegationGate]) -> None:
        self.record = record
        self.gates = dict(gates)

    def scores(self, exchanges: Sequence[Exchanges]) -> tuple[Floats, Floats | None]:
        """Probability that climbing pays, shape (n, m - 1), and that the last tier is wrong, shape (n,) or None.

        Args:
            exchanges: the n requests with the answers of each tier but the last, m - 1.
        """
        scores = np.column_stack([self.gates[tier_gate(t)].score(e) for t, e in enumerate(exchanges)])
        if self.record.keep_private:
            scores[holds_personal_data(exchanges[0])] = MUST_STAY
        hopeless = self.gates[HOPELESS].score(exchanges[0]) if HOPELESS in self.gates else None
        return scores, hopeless

    def choose(self, scores: Floats, hopeless: Floats | None) -> NDArray[np.int64]:
        """The tier of each of n requests, `ABSTAINED` for none; without a certified step the strictest one decides."""
        return tiers_chosen(self.record.step or self.record.plan.path[0], scores, hopeless)


def save_ladder(
    folder: Path, policy: LadderPolicy, certificate: LadderCertificate | None, encoder: Path | None
) -> LadderPolicy:
    """Write gates, record and certificate into `folder`; as `routing_policy.save_policy`."""
    record = msgspec.structs.replace(policy.record, files=write_gates(folder, policy.gates, encoder))
    if certificate is not None:
        record = msgspec.structs.replace(record, step=certificate.step)
        write_file(folder / CERTIFICATE, msgspec.json.encode(certificate))
    write_file(folder / POLICY, msgspec.json.format(msgspec.json.encode(record), indent=1))
    return LadderPolicy(record, policy.gates)


class _Tiers(Struct):
    tiers: tuple[str, ...] | None = None


def is_ladder(folder: Path) -> bool:
    """Whether the policy of a folder is a ladder.

    Raises:
        BundleError: there is no policy, or it can't be read.
    """
    return read_record(folder, POLICY, _Tiers).tiers is not None


def load_ladder(folder: Path, own: Mapping[str, type[Signal]] | None = None) -> tuple[LadderPolicy, LadderCertificate]:
    """The ladder of a folder, checked against its certificate.

    Args:
        folder: that `tiercel route fit --ladder` wrote.
        own: signals of a user's file, by name, where the ladder was fitted with such.

    Raises:
        BundleError: a file is missing, changed, or no ladder.
        CertificateError: the certificate does not follow from its rows or is another ladder's.
        ConfigurationError: the ladder needs signals of a file that was not given.
    """
    record = read_record(folder, POLICY, LadderRecord)
    check_files(folder, record.format, FORMAT, record.files)
    certificate = read_record(folder, CERTIFICATE, LadderCertificate)
    same = (certificate.policy, certificate.step, certificate.plan) == (record.digest, record.step, record.plan)
    if not same or certificate.tiers != record.tiers:
        raise CertificateError(f"{folder}: the certificate is of another ladder; fit it again")
    verify_ladder(certificate)
    return LadderPolicy(record, read_gates(folder, record.gates, own or {})), certificate
