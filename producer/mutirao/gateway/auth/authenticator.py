"""Check API keys against a copy of those in Redis that is never older than a second."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from mutirao import api_keys, errors
from mutirao.api_keys import ApiKey, ApiKeys, KeyLimits, Verb
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.redisdb.refreshed_value import Refreshed
from mutirao.settings import Settings
from mutirao.urls import is_loopback

# The copy is used until it is this old; it is read again a little earlier, so that hardly a request waits for it.
AGE_S = 1.0
READ_S = 0.5
# How long a request that needs no key waits for the first reading of the keys.
LEARN_S = 1.0

_REMEDY = "its operator makes one with mutirao keys add"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request, as far as the gateway knows.

    Attributes:
        tenant: whose jobs it sees; "" where the gateway is open.
        key_id: its key's public half; "" where the gateway is open.
        scopes: what it may do.
        limits: how much of it; None for any amount.
        open: whether there are no keys, so that no caller needs one.
    """

    tenant: str = ""
    key_id: str = ""
    scopes: tuple[str, ...] = ("*:*",)
    limits: KeyLimits | None = None
    open: bool = False

    def may(self, verb: Verb, model: str = "") -> bool:
        """Whether it may do this to a model; "" stands for the system as a whole."""
        return self.open or api_keys.allows(self.scopes, verb, model)

    def require(self, verb: Verb, model: str = "") -> None:
        """Make sure that it may do this to a model; "" stands for the system as a whole.

        Raises:
            Forbidden: its key has no such scope.
        """
        if not self.may(verb, model):
            scope = f"{verb}:{model or '*'}"
            text = f"API key {self.key_id!r} does not allow this: it takes the scope {scope} (mutirao keys add {self.tenant} --scope {scope})"
            raise errors.Forbidden(text, verb=verb, model=model)


ANYBODY = Caller(open=True)


class Authenticator:
    """Finds the caller of a request by its API key.

    Without any key, a gateway that listens on a loopback address is open. It closes for good as soon as it has read a key, revoked
    or not: a Redis that lost its keys must not open it.
    """

    def __init__(self, settings: Settings, redis: AsyncRedisDriver, host: str = "") -> None:
        """Take where the gateway listens: `gateway_host` of the settings by default; nothing is read yet."""
        self._keys, self._redis = ApiKeys(settings), redis
        self._closed = not is_loopback(host or settings.gateway_host)
        self._copy = Refreshed(self._read)
        self._known: dict[str, ApiKey] = {}
        self._callers: dict[str, Caller] = {}
        # Called when other keys are valid than before, or the gateway has closed.
        self.changed: Callable[[], None] = lambda: None

    async def is_open(self) -> bool:
        """Return whether a request needs no key.

        Raises:
            BrokerUnavailable: the keys cannot be read from Redis.
        """
        await self.refresh()
        return not self._closed

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller of a request by its headers, whose names are in lower case.

        Raises:
            Unauthorized: it has no key, or one that is not valid.
            Forbidden: the gateway is open, and a web page of another site sent the request.
            BrokerUnavailable: the keys cannot be read from Redis.
        """
        if self._copy.age_s > READ_S:
            await self.refresh()
        if not self._closed:
            _check_local(headers)
            return ANYBODY
        return self._bearer(headers.get("authorization"))

    def recheck(self, caller: Caller) -> None:
        """Check a caller that was admitted earlier against the keys as they are now.

        Raises:
            Unauthorized: the key is no longer valid, or the gateway is no longer open.
            Forbidden: the key allows less than it did.
        """
        if caller.open:
            if self._closed:
                raise _key_required()
            return
        key = _require_valid(self._known.get(caller.key_id))
        if not set(caller.scopes) <= set(key.scopes):
            raise errors.Forbidden(f"API key {key.id!r} allows less than when this request began: send it again")

    async def admit_public(self, headers: Mapping[str, str]) -> None:
        """Admit a request for an address that needs no key. An open gateway answers this machine alone, at every address; before the
        first reading of the keys, whether it is open goes by the address on which it listens.

        Raises:
            Forbidden: the gateway is open, and a web page of another site sent the request.
        """
        if not self._closed and self._copy.age_s > READ_S:
            reading = self._copy.start()
            if self._copy.value is None:
                await asyncio.wait([reading], timeout=LEARN_S)
        if not self._closed:
            _check_local(headers)

    async def refresh(self) -> None:
        """Read the copy again where it is old, and wait for that where it is too old.

        Raises:
            BrokerUnavailable: the keys cannot be read from Redis.
        """
        if self._copy.age_s > READ_S:
            self._copy.start()
        await self._copy.get(AGE_S)

    async def close(self) -> None:
        """Stop reading."""
        await self._copy.close()

    def _bearer(self, authorization: str | None) -> Caller:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise _key_required()
        return self._callers[_require_valid(api_keys.find_by_token(self._known, token.strip())).id]

    async def _read(self) -> dict[str, ApiKey]:
        known = await self._redis.run(self._keys.all())
        if known != self._known:
            self._known = known
            self._callers = {id: _caller(key) for id, key in known.items()}
            self._closed = self._closed or bool(known)
            self.changed()
        return known


def refuse_open(host: str, *, has_keys: bool) -> None:
    """Refuse to listen beyond this machine without keys.

    Raises:
        SettingsError: it would.
    """
    if has_keys or is_loopback(host):
        return
    text = f"MUTIRAO_GATEWAY_HOST is {host!r}: a gateway that others reach needs API keys, and there are none; make one with mutirao keys add TENANT, or listen to 127.0.0.1"
    raise errors.SettingsError(text, key="MUTIRAO_GATEWAY_HOST", value=host)


def _key_required() -> errors.Unauthorized:
    return errors.Unauthorized(
        f"this gateway asks for an API key: send the header Authorization: Bearer mutirao_...; {_REMEDY}"
    )


def _require_valid(key: ApiKey | None) -> ApiKey:
    """Return a key that is valid.

    Raises:
        Unauthorized: it was revoked, or there is no such key.
    """
    if key is None:
        raise errors.Unauthorized(f"the API key is not one of this gateway: check it; {_REMEDY}")
    if key.revoked_at is not None:
        raise errors.Unauthorized(f"API key {key.id!r} was revoked: take another; {_REMEDY}")
    return key


def _caller(key: ApiKey) -> Caller:
    return Caller(tenant=key.tenant, key_id=key.id, scopes=key.scopes, limits=key.limits)


def _check_local(headers: Mapping[str, str]) -> None:
    """Refuse web pages of other sites: a browser on this machine would send their requests, and give them the responses where
    they have made a name of theirs resolve to this machine (DNS rebinding).
    """
    for name in ("host", "origin"):
        value = headers.get(name)
        if value and not _is_local(value):
            raise errors.Forbidden(
                f"this gateway is open, so it answers this machine alone, not the {name} {value[:100]!r}: give it keys with mutirao keys add"
            )


@functools.lru_cache(maxsize=256)
def _is_local(value: str) -> bool:
    try:
        host = urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host.endswith(".localhost")
