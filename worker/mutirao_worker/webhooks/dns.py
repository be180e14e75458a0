"""Resolves a webhook's host once to the one address that is called; refused unless every address found may be called."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

from mutirao import errors
from mutirao.webhook_policy import Address, WebhookTarget, is_public

Resolver = Callable[[str, int], Sequence[str]]


class Unresolved(Exception):
    """The host has no address now."""


def system(host: str, port: int) -> list[str]:
    """Return what the system's resolver says.

    Raises:
        OSError: there is no such name, or no resolver to ask.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


def resolve(target: WebhookTarget, resolver: Resolver = system) -> str:
    """Return the address to call.

    Every address must be a public one, or lie in the network that the operator allows for this host: a name that leads to both
    kinds is no mistake.

    Raises:
        WebhookRefused: one of the addresses may not be called.
        Unresolved: there is none now.
    """
    try:
        found = [ipaddress.ip_address(text) for text in resolver(target.host, target.port)]
    except (OSError, UnicodeError, ValueError) as exc:
        raise Unresolved from exc
    if not found:
        raise Unresolved
    if any(not _may_be_called(address, target) for address in found):
        raise errors.WebhookRefused(f"host {target.host!r} leads to an address that is not public", host=target.host)
    return str(found[0])


def _may_be_called(address: Address, target: WebhookTarget) -> bool:
    return (target.network is not None and address in target.network) or is_public(address)
