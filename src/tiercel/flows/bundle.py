"""A bundle: the folder that a pilot leaves and that answers requests.

manifest.json       what it is, and the SHA-256 of every other file
policy.json         gate, signals, threshold
certificate.json    the claim and its record
students/...        weights as ONNX, safetensors and JSON; nothing is ever unpickled
card.md             for people
inputs.safetensors  what requests looked like when it was certified: embeddings, lengths; where rows were enough
lineage.bin         hashes of the ids of the rows that it has seen
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tiercel.datasets.templates import RequestReader, signature_of
from tiercel.engines.protocol import Engine
from tiercel.errors import BundleError, CertificateError, ConfigurationError, ParityError, ProviderError, UserError
from tiercel.flows.inputs import Inputs
from tiercel.flows.storage import guarded, make_folder, replace_folder
from tiercel.routing.calibration import Calibrated
from tiercel.routing.certificate import Certificate, digest_of, verify_certificate
from tiercel.routing.policy import Policy, PolicyRecord
from tiercel.routing.segments import SegmentedCertificate, SegmentedOutcome, segment_of, verify_segments
from tiercel.students.response import Closing, Responder
from tiercel.types import Answer, Message, ToolCall

__all__ = ["FORMAT", "Answered", "Bundle", "Manifest", "load", "verify_bundle", "write_bundle"]

OLDEST = 2
"""The oldest format that this program reads."""
FORMAT = 5
"""Rises when an older program could misread a bundle."""

RESPONDERS = {
    "classifier": "tiercel.flows.classifier:Classifier",
    "tagger": "tiercel.flows.tagging:Tagger",
    "generator": "tiercel.flows.generating:Generator",
    "seconded": "tiercel.flows.seconded:Seconded",
}
"""Classes that read each kind of student, loaded on use."""
DECODERS = ("generator", "seconded")
"""Kinds of students whose model an engine elsewhere may serve."""
ENGINE_KEY = "TIERCEL_ENGINE_KEY"
"""Environment variable with the key of such an engine."""
VLLM = "vllm:"
"""Before the folder or name of a model that a vLLM is to be started with."""

T = TypeVar("T")


class Manifest(Struct, frozen=True, kw_only=True):
    """What a bundle says of itself."""

    format: int
    version: str
    """Version of the program that wrote it."""
    task: str
    reader: RequestReader
    student: str
    """Kind of the student, one of `RESPONDERS`."""
    frontier: str | None
    """Model that answers what is escalated, as far as the log says."""
    files: dict[str, str]
    """SHA-256 by path within the bundle."""
    measure: str = "exact"
    """What the certified loss measures, one of `tasks.losses.LOSSES`."""


class Answered(Struct, frozen=True, kw_only=True):
    """What a bundle says to one request."""

    tier: str
    """"student" or "frontier": who answers, or has to."""
    answer: str | None
    """The student's text; None when the frontier has to answer, or where the student calls tools."""
    confidence: float
    """The gate's score: the probability that the student's answer is as good as the frontier's."""
    latency_ms: float
    """Time that the decision took; requests answered together share it evenly."""
    reason: str
    """"accepted", "unsure", "another workload", "not certified", or, for a policy by segment, "segment not certified"
    or "segment unknown", where the request's metadata was not given."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The student's calls of tools."""
    proposal: Answer | None = None
    """What the student said, accepted or not; None where it was not asked."""
    segment: str | None = None
    """Segment of the request; None where the policy knows none, or the student was not asked."""


class Bundle:
    """A loaded bundle, ready to answer.

    Args:
        folder: where it lies.
        manifest: of it.
        student: that answers.
        policy: gate and threshold.
    """

    def __init__(self, folder: Path, manifest: Manifest, student: Responder, policy: Policy) -> None:
        self.folder = folder
        self.manifest = manifest
        self.student = student
        self.policy = policy

    def answer(
        self,
        messages: Sequence[Message | dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        response_format: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Answered:
        """Answer one request; one that is not of the bundle's workload is for the frontier.

        Args:
            messages: of the chat.
            tools: that the request offers.
            response_format: that the request asks for.
            metadata: of the request; a policy with segments by metadata needs it, if only as an empty one.
        """
        given = None if metadata is None else [metadata]
        return self.answer_many([messages], [signature_of(tools, response_format)], metadata=given)[0]

    def answer_many(
        self,
        requests: Sequence[Sequence[Message | dict[str, Any]]],
        signatures: Sequence[str] | None = None,
        *,
        metadata: Sequence[dict[str, Any] | None] | None = None,
    ) -> list[Answered]:
        """Answer many requests at once; each gets what it would get alone.

        Args:
            requests: messages of each.
            signatures: of each request's tools and response format, as `signature_of` gives it; None where the caller
                has made sure that they are the workload's.
            metadata: of each request, None for one that has none; left out by a caller who does not know. A policy with
                segments by metadata then passes everything on.
        """
        started = time.perf_counter()
        messages = [[m if isinstance(m, Message) else msgspec.convert(m, Message) for m in r] for r in requests]
        texts = [self.manifest.reader.read(m) for m in messages]
        if signatures is not None:
            own = self.manifest.reader.key.signature
            texts = [text if sign == own else None for text, sign in zip(texts, signatures, strict=True)]
        readable = [i for i, text in enumerate(texts) if text is not None]
        known = [text for text in texts if text is not None]
        results: list[Answered | None] = [None] * len(texts)
        if known:
            responses = self.student.respond(known)
            scores = self.policy.score(responses.signals)
            given = None if metadata is None else [metadata[i] for i in readable]
            segments = self._segments(known, given, responses.answers)
            accepted = self.policy.accepts(scores, segments)
            for i, answer, score, fine, segment in zip(
                readable, responses.answers, scores, accepted, segments, strict=True
            ):
                results[i] = Answered(
                    tier="student" if fine else "frontier",
                    answer=answer.content if fine else None,
                    confidence=float(score),
                    latency_ms=0.0,
                    reason="accepted" if fine else self._refusal(segment),
                    tool_calls=answer.tool_calls if fine else (),
                    proposal=answer,
                    segment=segment,
                )
        share = (time.perf_counter() - started) * 1000 / max(1, len(texts))
        stranger = Answered(tier="frontier", answer=None, confidence=0.0, latency_ms=share, reason="another workload")
        return [stranger if r is None else msgspec.structs.replace(r, latency_ms=share) for r in results]

    def close(self) -> None:
        """Let the student's engine go, where it has one."""
        if isinstance(self.student, Closing):
            self.student.close()

    def _segments(
        self, texts: Sequence[str], metadata: Sequence[dict[str, Any] | None] | None, answers: Sequence[Answer]
    ) -> list[str | None]:
        """The segment of each request; None where there are none, or where it hangs on metadata that was not given."""
        field = self.policy.record.segment
        if field is None or (metadata is None and field not in ("label", "language")):
            return [None] * len(texts)
        known = metadata or [None] * len(texts)
        triples = zip(texts, known, answers, strict=True)
        return [segment_of(field, text=t, metadata=m, answer=a) for t, m, a in triples]

    def _refusal(self, segment: str | None) -> str:
        """Why an answer is not used."""
        record = self.policy.record
        if not record.certified:
            return "not certified"
        if record.segment is not None and segment is None:
            return "segment unknown"
        if segment is not None and record.thresholds.get(segment) is None:
            return "segment not certified"
        return "unsure"


def write_bundle(
    folder: Path,
    *,
    version: str,
    task: str,
    reader: RequestReader,
    frontier: str | None,
    student: Responder,
    record: PolicyRecord,
    certificate: Certificate | SegmentedCertificate,
    card: str,
    lineage: bytes,
    measure: str = "exact",
    inputs: Inputs | None = None,
) -> None:
    """Write a bundle aside and put it in the place of `folder`.

    `lineage` says which rows it was trained on, `measure` what its loss is, `inputs` what its calibration rows look
    like.
    """
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside / "students")
    with guarded(folder):
        student.save(aside / "students")
        certificate = msgspec.structs.replace(certificate, weights=_digests(aside))
        certificate = msgspec.structs.replace(certificate, digest=digest_of(certificate))
        (aside / "policy.json").write_bytes(_json(record))
        (aside / "certificate.json").write_bytes(msgspec.json.encode(certificate))
        (aside / "card.md").write_text(card, encoding="utf-8")
        (aside / "lineage.bin").write_bytes(lineage)
        if inputs is not None:
            inputs.save(aside)
        manifest = Manifest(
            format=FORMAT,
            version=version,
            task=task,
            reader=reader,
            student=student.kind,
            frontier=frontier,
            files=_digests(aside),
            measure=measure,
        )
        (aside / "manifest.json").write_bytes(_json(manifest))
    replace_folder(aside, folder)


def load(folder: str | Path, *, threads: int | None = None, engine: str | Engine | None = None) -> Bundle:
    """Load a bundle.

    Args:
        folder: a bundle, or the folder of a pilot that holds one.
        threads: of the encoder; None for all cores.
        engine: that serves the decoder's model: an engine, the base URL of a server such as http://127.0.0.1:8080/v1,
            or vllm:MODEL for a vLLM that is started with this folder or name of a model and ends with the bundle;
            None to serve it here. The environment variable TIERCEL_ENGINE_KEY holds a server's key, where it wants one.

    Raises:
        BundleError: there is none, a file was changed or is missing, a newer program wrote it, or its policy is not one
            of its student.
        ConfigurationError: the bundle has no decoder, or the engine can't tell what its gate needs.
        ParityError: the engine serves another model.
        MissingExtraError: vLLM is not installed.
        ProviderError: the engine does not answer.
    """
    path = locate(Path(folder))
    manifest = read_manifest(path)
    check_files(path, manifest)
    record = _read(path / "policy.json", PolicyRecord)
    student = _student(path / "students", manifest.student, threads, engine)
    return Bundle(path, manifest, student, _policy(path, record, student))


def _policy(path: Path, record: PolicyRecord, student: Responder) -> Policy:
    """The policy, once it is known to read what the student gives."""
    try:
        policy = Policy(record)
    except ValueError as error:
        raise BundleError(f"{path}: its policy can't be used: {error}; run the pilot again") from None
    if record.signals != tuple(student.signals):
        raise BundleError(f"{path}: its policy reads other signals than its student gives; run the pilot again")
    return policy


def verify_bundle(
    folder: Path,
) -> tuple[Certificate, Calibrated] | tuple[SegmentedCertificate, SegmentedOutcome]:
    """Make a bundle's certificate again, and check that it speaks of this bundle's policy and weights.

    Returns:
        The certificate and what its rows lead to; those of a segmented certificate where the policy has segments.

    Raises:
        BundleError: there is no bundle.
        CertificateError: the bundle can't be read, or its certificate does not follow from its record, or is not this
            bundle's.
    """
    path = locate(folder)
    try:
        manifest = read_manifest(path)
        check_files(path, manifest)
        record = _read(path / "policy.json", PolicyRecord)
        kind = Certificate if record.segment is None else SegmentedCertificate
        certificate = _read(path / "certificate.json", kind)
    except BundleError as error:
        raise CertificateError(str(error)) from None
    if isinstance(certificate, Certificate):
        checked = certificate, verify_certificate(certificate)
        held, said = certificate.threshold, record.threshold
    else:
        checked = certificate, verify_segments(certificate)
        held, said = (certificate.plan.field, certificate.thresholds), (record.segment, record.thresholds)
    if certificate.policy != record.digest:
        raise CertificateError(f"{path}: the certificate was issued for another policy")
    if held != said or (record.segment is not None and record.threshold is not None):
        raise CertificateError(f"{path}: the policy's threshold is {said}, not the certified one")
    stated = {n: d for n, d in manifest.files.items() if n.startswith("students/")}
    if certificate.weights != stated:
        raise CertificateError(f"{path}: the certificate was issued for other weights")
    if certificate.workload != manifest.reader.key.fingerprint:
        raise CertificateError(f"{path}: the certificate was issued for another workload")
    return checked


def read_certificate(folder: Path) -> Certificate | SegmentedCertificate:
    """The certificate of a bundle, as it is written there.

    Raises:
        BundleError: there is none that can be read.
    """
    record = _read(folder / "policy.json", PolicyRecord)
    return _read(folder / "certificate.json", Certificate if record.segment is None else SegmentedCertificate)


def locate(folder: Path) -> Path:
    """The bundle in `folder`: itself, or `bundle` below it."""
    for candidate in (folder, folder / "bundle"):
        if (candidate / "manifest.json").is_file():
            return candidate
    if not folder.exists():
        raise BundleError(f"{folder}: no such folder; give the bundle that `tiercel pilot` wrote")
    raise BundleError(f"{folder} is no bundle: it has no manifest.json; give the folder that `tiercel pilot` wrote")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path`, once its format is known to be readable."""
    raw = _read(path / "manifest.json", dict[str, Any])
    number = raw.get("format")
    if not isinstance(number, int):
        raise BundleError(f"{path} is no bundle of this program: its manifest has no format")
    if number > FORMAT:
        raise BundleError(
            f"{path} was written by tiercel {raw.get('version', '?')} in format {number}, "
            f"this program reads up to {FORMAT}; upgrade tiercel"
        )
    if number < OLDEST:
        raise BundleError(
            f"{path} was written by tiercel {raw.get('version', '?')} in format {number}, "
            f"this program reads {OLDEST} to {FORMAT}; run the pilot again"
        )
    return _read(path / "manifest.json", Manifest)


def check_files(path: Path, manifest: Manifest) -> None:
    """Raise `BundleError` unless every file of the bundle is there and as it was written."""
    root = path.resolve()
    for name, digest in manifest.files.items():
        file = (path / name).resolve()
        if not file.is_relative_to(root):
            raise BundleError(f"{path}: its manifest names a file outside the bundle: {name}")
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing; copy the bundle again")
        if _digest(file) != digest:
            raise BundleError(f"{path}: {name} was changed after the bundle was written; copy the bundle again")
    for needed in ("policy.json", "certificate.json", "students"):
        if not any(name == needed or name.startswith(f"{needed}/") for name in manifest.files):
            raise BundleError(f"{path}: its manifest does not list {needed}")


def _student(folder: Path, kind: str, threads: int | None, engine: str | Engine | None) -> Responder:
    if kind not in RESPONDERS:
        raise BundleError(f"{folder}: this program does not know the student {kind!r}; upgrade tiercel")
    if engine is not None and kind not in DECODERS:
        raise ConfigurationError(f"--engine is for bundles with a decoder; this one has a {kind}: leave it out")
    module, _, name = RESPONDERS[kind].partition(":")
    with contextlib.ExitStack() as undo:
        more: dict[str, Any] = {"threads": threads}
        if engine is not None:
            more["engine"] = undo.enter_context(contextlib.closing(_engine(engine)))
        try:
            found: Responder = getattr(importlib.import_module(module), name).load(folder, **more)
        except (UserError, ParityError, ProviderError):
            raise
        except Exception as error:  # whatever a reader of foreign bytes may raise
            raise BundleError(f"{folder}: the student can't be read ({type(error).__name__})") from None
        undo.pop_all()
        return found


def _engine(engine: str | Engine) -> Engine:
    if not isinstance(engine, str):
        return engine
    if engine.startswith(VLLM):
        from tiercel.engines.vllm_process import VllmEngine

        return VllmEngine(engine.removeprefix(VLLM))
    from tiercel.engines.remote import RemoteEngine

    return RemoteEngine(engine, api_key=os.environ.get(ENGINE_KEY))


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the bundle again") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is corrupted: {error}; copy the bundle again") from None


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def _digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): _digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
