"""Ports for servers that are told theirs before they start."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, MANY = 20_000, 12_000
"""Below those that the system itself gives to connections: what is free now is free in a moment too."""
# Each process of a run begins elsewhere, and goes round.
_steps = itertools.count(os.getpid() * 389)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    for step in itertools.islice(_steps, MANY):
        port = FIRST + step % MANY
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
