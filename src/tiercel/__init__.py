"""Tiercel: small models of your own in the place of a frontier model, with proof of what that costs in quality."""

from __future__ import annotations

import importlib
from typing import Any

from tiercel._version import __version__

_LAZY = {
    "Bundle": "tiercel.flows.bundle",
    "PilotSettings": "tiercel.flows.pilot",
    "load": "tiercel.flows.bundle",
    "pilot": "tiercel.flows.pilot",
    "verify_bundle": "tiercel.flows.bundle",
}

__all__ = ["Bundle", "PilotSettings", "__version__", "load", "pilot", "verify_bundle"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tiercel' has no attribute {name!r}")
