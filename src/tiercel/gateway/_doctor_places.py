"""Checks of what lies on disks: bundles, the store, free space, classes that the settings name."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tiercel.errors import CertificateError, ConfigurationError, TiercelError, UserError
from tiercel.gateway.finding import Finding, found
from tiercel.gateway.sections import Settings, Workload
from tiercel.gateway.workloads import opened

__all__ = ["bundles", "disk", "recognisers", "store"]

SCARCE = 1_000_000_000
"""Bytes of free space below which the store will soon be full."""
USED_UP = 100_000_000
"""Bytes of free space with which it should not even start."""


def bundles(settings: Settings) -> Iterator[Finding]:
    """Load every bundle, and make its certificate again."""
    for workload in settings.workloads:
        if workload.bundle is not None:
            yield _bundle(workload, workload.bundle)


def _bundle(workload: Workload, folder: Path) -> Finding:
    from tiercel.flows.bundle import verify_bundle

    check = f"bundle of {workload.name}"
    try:
        bundle = opened(workload, threads=1)
        certificate, _ = verify_bundle(folder)
    except CertificateError as error:
        return found(
            check, "error", f"its certificate does not hold ({error}); copy the bundle again, or run a new pilot"
        )
    except TiercelError as error:
        return found(check, "error", str(error))
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
    text = f"{bundle.manifest.student}, {size / 1e6:.1f} MB; {certificate.statement}"
    if not bundle.policy.record.certified:
        text = (
            "nothing is certified, so the frontier answers all of it; run a pilot with more traffic or a larger bound"
        )
        return found(check, "warning", text)
    return found(check, "ok", text)


def store(settings: Settings, *, offline: bool) -> Finding:
    """See that the store can be opened, and change nothing in it."""
    try:
        database = importlib.import_module("tiercel.store.database")
    except ImportError as error:
        what = "has no store" if (error.name or "").startswith("tiercel") else f"lacks {error.name}"
        return found("store", "skipped", f"this installation {what}; nothing can be captured")
    location = settings.capture.location
    local = "://" not in location
    if local and not Path(location).exists():
        return _new_file(Path(location))
    if offline and not local:
        return found("store", "skipped", "PostgreSQL is not asked with --offline")
    try:
        database.open_database(location, migrate=False).close()
    except ConfigurationError as error:
        # The gateway mends both at its start.
        begins = any(words in str(error) for words in ("older version", "holds no store"))
        return found("store", "warning" if begins else "error", f"reached; {error}" if begins else str(error))
    except TiercelError as error:
        return found("store", "error", str(error))
    return found("store", "ok", f"{'SQLite' if local else 'PostgreSQL'}, of this program's version")


def _new_file(path: Path) -> Finding:
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return found("store", "error", f"{folder} can't be written to; choose another place with store in [capture]")
    return found("store", "ok", f"{path} will be made at the first start")


def disk(settings: Settings) -> Finding:
    """Look at the free space where the store grows."""
    location = settings.capture.location
    if "://" in location:
        return found("disk", "skipped", "the store is on a server of its own; watch the space there")
    folder = next(parent for parent in Path(location).parents if parent.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free at {folder}"
    if free < USED_UP:
        return found("disk", "error", f"{text}; free some space before the gateway starts")
    if free < SCARCE:
        return found("disk", "warning", f"{text}; free some space, or set retention_days in [capture]")
    return found("disk", "ok", text)


def recognisers(settings: Settings) -> Iterator[Finding]:
    """See that each recogniser of personal data can be imported, or read from its folder."""
    for folder in settings.privacy.recogniser_folders:
        yield _recogniser_folder(folder)
    for name in settings.privacy.recognisers:
        module, _, attribute = name.partition(":")
        check = f"recogniser {name}"
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            yield found(check, "error", f"can't be imported ({type(error).__name__}); install it, or correct its name")
        except Exception as error:  # whatever foreign code may raise while it is imported
            yield found(check, "error", f"its module fails on import ({type(error).__name__}); mend it")
        else:
            fine = isinstance(kind, type)
            yield found(check, "ok" if fine else "error", "found" if fine else "is no class; name one as module:Class")


def _recogniser_folder(folder: Path) -> Finding:
    from tiercel.students.span_model import SpanModel

    try:
        kinds = SpanModel.load(folder, threads=1).kinds
    except UserError as error:
        return found(f"recogniser {folder.name}", "error", str(error))
    return found(f"recogniser {folder.name}", "ok", f"finds {', '.join(kinds)}")
