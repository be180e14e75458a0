"""Resolves a webhook's host once to the one address that is called; refused unless every address found may be called."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

from mutirao import errors
from mutirao.webhook_policy import WebhookTarget, is_public

Resolver = Callable[[str, int], Sequence[str]]


class Unresolved(Exception):
    """The host has no address now."""


def system(host: str, port: int) -> list[str]:
    """Return what the system's resolver says.

    Raises:
        OSError: there is no such name, or no resolver to ask.
    """
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def resolve(target: WebhookTarget, resolver: Resolver = system) -> str:
    """Return the address to call.

    Every address must be a public one, or lie in the network that the operator allows for this host: a name that leads to both
    kinds is no mistake.

    Raises:
        WebhookRefused: one of the addresses may not be called.
        Unresolved: there is none now.
    """
    try:
        addresses = [ipaddress.ip_address(text) for text in resolver(target.host, target.port)]
    except (OSError, UnicodeError, ValueError) as exc:
        raise Unresolved from exc
    if not addresses:
        raise Unresolved
    inside = () if target.network is None else target.network
    if not all(address in inside or is_public(address) for address in addresses):
        raise errors.WebhookRefused(f"host {target.host!r} leads to an address that is not public", host=target.host)
    return str(addresses[0])
