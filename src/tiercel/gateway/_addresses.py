"""Which addresses are on one's own network, where an API may do without a key."""

from __future__ import annotations

import ipaddress

from tiercel.gateway.sections import is_loopback

__all__ = ["is_own_network"]

_OWN_ENDS = (".local", ".internal", ".lan", ".home.arpa", ".svc", ".cluster.local")


def is_own_network(host: str) -> bool:
    """Whether a host is this machine, a private address, or a name that only a private network knows."""
    if is_loopback(host):
        return True
    name = host.rstrip(".").lower()
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_private
    except ValueError:
        return "." not in name or name.endswith(_OWN_ENDS)
