"""The policy for webhooks: which URLs may be called, why others are refused, and the keys that sign."""

from __future__ import annotations

import base64
import functools
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

import msgspec

from mutirao import errors
from mutirao.urls import without_password

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2048
PORTS = {"https": 443, "http": 80}
_WHSEC = "whsec_"

# Printable ASCII alone, so that no URL can add a line to a request's head.
_PRINTABLE = re.compile(r"[!-~]+", re.ASCII)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)
_LIKE = "crm.example.com, *.example.com, hooks.example.com:8443, or http://10.0.0.7:8080"


class AllowedHost(msgspec.Struct, frozen=True, kw_only=True):
    """One host that the operator allows.

    Attributes:
        scheme: https, or http where the entry is written so.
        host: the name, in lower case, or the address.
        port: the only one that is allowed.
        below: whether the entry allows the names below `host`, and not `host` itself.
        network: the addresses that are allowed in addition to public ones; None for none.
    """

    scheme: str
    host: str
    port: int
    below: bool = False
    network: Network | None = None

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Return whether URLs of this scheme, host and port are allowed."""
        named = host.endswith(f".{self.host}") if self.below else host == self.host
        return named and (scheme, port) == (self.scheme, self.port)


class WebhookTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A URL that is allowed, in its parts.

    Attributes:
        scheme: https or http.
        host: the name, in lower case, or the address.
        port: the URL's, or its scheme's.
        path: path and query, as they stand in a request.
        network: the addresses that are allowed in addition to public ones; None for none.
    """

    scheme: str
    host: str
    port: int
    path: str
    network: Network | None = None

    @property
    def origin(self) -> str:
        """The host as it may be shown, with its port where that is not the scheme's own; what a Host header says."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"


@functools.lru_cache(maxsize=16)
def allowed_hosts(hosts: str) -> tuple[AllowedHost, ...]:
    """Read the setting `webhook_hosts`.

    Raises:
        SettingsError: an entry is malformed; the message names it, and what it must look like.
    """
    return tuple(_entry(each.strip()) for each in hosts.split(",") if each.strip())


def check_url(url: str, hosts: str) -> WebhookTarget:
    """Split a webhook's URL, if it is allowed.

    Args:
        url: the URL.
        hosts: the setting `webhook_hosts`.

    Raises:
        WebhookRefused: webhooks are off, the URL is malformed, or its host is not allowed.
    """
    entries = allowed_hosts(hosts)
    if not entries:
        raise errors.WebhookRefused(
            "webhooks are off here: an operator allows hosts with MUTIRAO_WEBHOOK_HOSTS; or ask for the job by its id"
        )
    scheme, host, port, path = _checked_parts(url)
    for entry in entries:
        if entry.allows(scheme, host, port):
            return WebhookTarget(scheme=scheme, host=host, port=port, path=path, network=entry.network)
    raise _not_allowed(scheme, host, port, entries)


def signing_keys(secret: str) -> tuple[bytes, ...]:
    """Read the setting `webhook_secret`: one secret, or two separated by a space while receivers change to the first.

    Raises:
        SettingsError: it is missing or malformed; the message does not quote it.
    """
    try:
        keys = tuple(_key(each) for each in secret.split())
    except ValueError as exc:
        raise _no_secret("is not a secret that can sign") from exc
    if not keys:
        raise _no_secret("is missing")
    return keys


def is_public(address: Address) -> bool:
    """Return whether an address belongs to one host on the public internet.

    An IPv6 address that embeds an IPv4 address (mapped, compatible, NAT64, 6to4 or Teredo) does not: it leads to the inner address.
    """
    if address.is_multicast or not address.is_global:
        return False
    return not any(address in network for network in (_NOT_V4 if address.version == 4 else _NOT_V6))


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Networks that `is_global` lets pass, at least in some Python. In IPv6 hosts have addresses of 2000::/3 alone so far.
_NOT_V4 = _networks("192.0.0.0/24", "192.88.99.0/24")
_NOT_V6 = _networks("::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1")


def _key(secret: str) -> bytes:
    key = base64.b64decode(secret.removeprefix(_WHSEC), validate=True)
    if not secret.startswith(_WHSEC) or not 24 <= len(key) <= 64:
        raise ValueError
    return key


def _no_secret(what: str) -> errors.SettingsError:
    return errors.SettingsError(
        f'MUTIRAO_WEBHOOK_SECRET {what}: set it to whsec_ and the base64 of 24 to 64 random bytes, as "whsec_$(openssl rand -base64 32)" makes them',
        key="MUTIRAO_WEBHOOK_SECRET",
    )


def _entry(text: str) -> AllowedHost:
    try:
        return _parse_entry(*text.partition("=")[::2])
    except ValueError:  # its message may quote a password
        shown = without_password(text) if set("@?#") & set(text) else text
        raise errors.SettingsError(
            f"MUTIRAO_WEBHOOK_HOSTS has {shown!r}: it must be a comma-separated list of hosts such as {_LIKE}",
            key="MUTIRAO_WEBHOOK_HOSTS",
            value=shown,
        ) from None


def _parse_entry(address: str, network: str) -> AllowedHost:
    scheme, host, port, path = _split_url(address if "://" in address else f"https://{address}", below=True)
    below, literal = host.startswith("*."), _literal(host)
    if path != "/" or (below and "." not in host[2:]):
        raise _BadURL("it is no host")
    own = ipaddress.ip_network(literal) if literal else None
    allowed = ipaddress.ip_network(network) if network else own
    return AllowedHost(scheme=scheme, host=host.removeprefix("*."), port=port, below=below, network=allowed)


def _checked_parts(url: str) -> tuple[str, str, int, str]:
    if len(url) > MAX_URL:
        raise _refused(f"it has {len(url):,} characters, and may have {MAX_URL:,}")
    try:
        return _split_url(url)
    except ValueError as exc:
        reason = str(exc) if exc.args and isinstance(exc, _BadURL) else "it must look like https://crm.example.com/hook"
        raise _refused(reason) from None


class _BadURL(ValueError):
    """A URL cannot be used; the message says why, for the person who wrote it."""


def _split_url(url: str, *, below: bool = False) -> tuple[str, str, int, str]:
    """Split a URL into scheme, host, port, and path with query.

    Raises:
        ValueError: it is not the URL of a web server.
    """
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise _BadURL("it holds characters other than printable ASCII: write others as %XX, and names as xn--...")
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme not in PORTS:
        raise _BadURL("it must begin with https://")
    if "@" in parts.netloc:
        raise _BadURL("it must not hold a user or a password: the signature says who calls")
    if "#" in url:
        raise _BadURL("it must not hold a fragment: what follows # is never sent")
    host = _host(parts, below=below)
    port = parts.port if parts.port is not None else PORTS[scheme]
    if not port:
        raise _BadURL("its port must be one from 1 to 65535")
    return scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _host(parts: SplitResult, *, below: bool) -> str:
    host = (parts.hostname or "").removesuffix(".")
    name = host[2:] if below and host.startswith("*.") else host
    if _literal(host) or (len(host) <= 253 and _NAME.fullmatch(name)):
        return str(_literal(host) or host)
    raise _BadURL("its host must be a name of a-z 0-9 - . or an address")


def _literal(host: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if getattr(parsed, "scope_id", None) else parsed


def _not_allowed(scheme: str, host: str, port: int, entries: Iterable[AllowedHost]) -> errors.WebhookRefused:
    """Return the error for a URL that no entry allows: it names scheme and port where the host itself is allowed."""
    if any(entry.allows(entry.scheme, host, entry.port) for entry in entries):
        return _refused(f"{scheme}://, port {port}, is not how the operator allows this host", host)
    return _refused(f"host {host!r} is not among those that the operator allows (MUTIRAO_WEBHOOK_HOSTS)", host)


def _refused(why: str, host: str = "") -> errors.WebhookRefused:
    return errors.WebhookRefused(f"the webhook is refused: {why}", host=host)
