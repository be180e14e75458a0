"""Options of TCP sockets by which a connection breaks when its peer vanishes silently."""

from __future__ import annotations

import socket

# The idle seconds before the first probe, the seconds between probes, and the unanswered probes after which a connection breaks.
IDLE_S = 5
EVERY_S = 2
PROBES = 3


def keepalive(timeout_s: float) -> dict[int, int]:
    """Return the options of level TCP under which a connection breaks whose peer is gone.

    Args:
        timeout_s: how long what was sent may remain unacknowledged, in seconds.

    Returns:
        Values by option, as far as this system has them. SO_KEEPALIVE is of another level, and not included.
    """
    wanted = {
        "TCP_KEEPIDLE": IDLE_S,
        "TCP_KEEPALIVE": IDLE_S,  # the same, on macOS
        "TCP_KEEPINTVL": EVERY_S,
        "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": max(1, round(timeout_s * 1000)),
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def options(timeout_s: float) -> list[tuple[int, int, int]]:
    """Choose all options of a socket under which its connection breaks when the peer is gone: level, option, value."""
    tcp = [(socket.IPPROTO_TCP, option, value) for option, value in keepalive(timeout_s).items()]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *tcp]
