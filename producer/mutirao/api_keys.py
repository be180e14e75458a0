"""API keys of the gateway: their tenants, scopes and limits; Redis keeps only the hash of each secret."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from mutirao import errors, keyspace
from mutirao.redisdb.drivers import Command, Database, Operation
from mutirao.settings import Settings

Verb = Literal["predict", "read", "cancel", "operate"]

# The scopes of a key that is added without any.
SCOPES = ("predict:*", "read:*", "cancel:*")
# A check of all jobs of a key reads this many records at once.
IN_FLIGHT_MAX = 10_000
RATE_MAX = 100_000.0
NOTE_MAX = 200

_TOKEN = re.compile(r"mutirao_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a key.

    Attributes:
        rate_per_s: requests a second in the long run; None for no limit.
        burst: how many of them may come at once.
        in_flight: jobs that have not ended; None for no limit.
    """

    rate_per_s: float | None = None
    burst: int = 1
    in_flight: int | None = None


class ApiKey(KeyLimits, frozen=True, kw_only=True, omit_defaults=True):
    """An API key as Redis keeps it. Times are seconds since the epoch by Redis's clock.

    Attributes:
        id: its public half: 12 hexadecimal digits.
        digest: SHA-256 of its secret half. The secret is 32 random bytes, which no search finds, so a fast hash is enough.
        tenant: the owner of its jobs: jobs belong to tenants, not to keys.
        scopes: what it allows, each verb:model, where either may be *.
        revoked_at: since when it is refused; None for a valid key.
        note: a person's remark.
    """

    id: str
    digest: str
    tenant: str
    scopes: tuple[str, ...] = SCOPES
    created_at: float = 0.0
    revoked_at: float | None = None
    note: str = ""

    @property
    def limits(self) -> KeyLimits | None:
        """Its limits; None where it has none, so that its requests need no call of Redis."""
        if self.rate_per_s is None and self.in_flight is None:
            return None
        return KeyLimits(rate_per_s=self.rate_per_s, burst=self.burst, in_flight=self.in_flight)

    def __repr__(self) -> str:
        """Show only what a log may hold."""
        return f"Key(id={self.id!r}, tenant={self.tenant!r})"


class AddedKey(NamedTuple):
    """A new key, and its token, which cannot be shown again."""

    key: ApiKey
    token: str


# The key that tokens of unknown ids are compared with; no known secret has this digest.
_NO_KEY = ApiKey(id="", digest=secrets.token_hex(32), tenant="", scopes=())


class ApiKeys:
    """Operations on the keys, which are kept where results are."""

    def __init__(self, settings: Settings) -> None:
        self._database: Database = "results" if settings.separate_results else "broker"

    def add(
        self, tenant: str, *, scopes: Sequence[str] = SCOPES, limits: KeyLimits | None = None, note: str = ""
    ) -> Operation[AddedKey]:
        """Add a key.

        Raises:
            InvalidRequest: the tenant's name, a scope or a limit cannot be used.
        """
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = ApiKey(
            id=id,
            digest=_digest(secret),
            tenant=keyspace.tenant_name(tenant),
            scopes=tuple(dict.fromkeys(map(scope, scopes))),
            **msgspec.structs.asdict(_checked(limits or KeyLimits())),
            created_at=(yield from self._now()),
            note=_note(note),
        )
        yield Command(self._database, "HSET", (keyspace.KEYS,), (id, msgspec.json.encode(key)))
        return AddedKey(key, f"mutirao_{id}_{secret}")

    def all(self) -> Operation[dict[str, ApiKey]]:
        """Read every key by its id, revoked ones too."""
        raws = yield Command(self._database, "HGETALL", (keyspace.KEYS,))
        return {id.decode(): key_from_json(id.decode(), raw) for id, raw in raws.items()}

    def any(self) -> Operation[bool]:
        """Return whether there is any key, a revoked one too."""
        return bool((yield Command(self._database, "EXISTS", (keyspace.KEYS,))))

    def find(self, id: str) -> Operation[ApiKey]:
        """Read one key, by its id or by its token, so that a token that was leaked can be revoked as it is.

        Raises:
            KeyNotFound: there is none.
        """
        id = _id_in(id)
        raw = yield Command(self._database, "HGET", (keyspace.KEYS,), (id,))
        if raw is None:
            text = f"there is no API key {id!r}: mutirao keys list shows all there are, also revoked ones"
            raise errors.KeyNotFound(text, id=id)
        return key_from_json(id, raw)

    def revoke(self, id: str) -> Operation[ApiKey]:
        """Revoke a key: it stays listed, and is refused from now on. A revoked key stays as it is.

        Raises:
            KeyNotFound: there is none.
        """
        try:
            key = yield from self.find(id)
        except errors.KeyNotFound as exc:
            if valid := [
                key.id for key in (yield from self.all()).values() if key.tenant == id and key.revoked_at is None
            ]:
                text = f"there is no API key {id!r}: a key goes by its id, and those of tenant {id!r} are {', '.join(valid)}"
                raise errors.KeyNotFound(text, id=id) from exc
            raise
        if key.revoked_at is None:
            key = msgspec.structs.replace(key, revoked_at=(yield from self._now()))
            yield Command(self._database, "HSET", (keyspace.KEYS,), (key.id, msgspec.json.encode(key)))
        return key

    def clear(self) -> Operation[int]:
        """Remove every key, where all of them are revoked; return how many there were.

        Raises:
            InvalidRequest: a key is still valid, so clients may use it.
        """
        keys = yield from self.all()
        if valid := sorted(id for id, key in keys.items() if key.revoked_at is None):
            text = f"API key {valid[0]!r} is good: revoke every key first, with mutirao keys revoke {' '.join(valid)}"
            raise errors.InvalidRequest(text, reason="good keys")
        if keys:
            yield Command(self._database, "HDEL", (keyspace.KEYS,), tuple(keys))
        return len(keys)

    def _now(self) -> Operation[float]:
        seconds, micros = yield Command(self._database, "TIME")
        return int(seconds) + int(micros) / 1e6


def lockout_remedy(keys: Sequence[ApiKey]) -> str:
    """Return the remedy where there are keys and all are revoked, so that a gateway refuses every request; else ""."""
    if not keys or any(key.revoked_at is None for key in keys):
        return ""
    return "every key is revoked, so the gateway lets nobody in: make one with mutirao keys add TENANT, or open it to this machine again with mutirao keys clear and a restart of the gateway"


def find_by_token(keys: Mapping[str, ApiKey], token: str) -> ApiKey | None:
    """Return the key of a token, revoked or not; None for an unknown token.

    The time does not depend on what is wrong with the token: there is always one hash and one comparison of constant time.
    """
    match = _TOKEN.fullmatch(token)
    id, secret = match.groups() if match else ("", token)
    key = keys.get(id, _NO_KEY)
    same = hmac.compare_digest(_digest(secret).encode(), key.digest.encode())
    return key if same and key is not _NO_KEY else None


def allows(scopes: Sequence[str], verb: str, model: str = "") -> bool:
    """Return whether scopes allow a verb on a model; "" stands for the system as a whole, which only * covers."""
    return not {f"{verb}:{model}", f"{verb}:*", f"*:{model}", "*:*"}.isdisjoint(scopes)


def scope(text: str) -> str:
    """Return the scope unchanged, or raise InvalidRequest: a scope that is misspelt would allow nothing, silently."""
    verb, colon, model = text.partition(":")
    if not colon or verb not in {"*", *get_args(Verb)}:
        verbs = ", ".join(get_args(Verb))
        raise errors.InvalidRequest(
            f"scope {text!r} is not allowed: write verb:model, such as predict:iris or read:*; verbs are {verbs} and *",
            reason="scope not allowed",
        )
    if model != "*":
        keyspace.model_name(model)
    return text


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def key_from_json(id: str, raw: bytes) -> ApiKey:
    """Decode a key; one that cannot be decoded is returned as a revoked key."""
    try:
        return msgspec.json.decode(raw, type=ApiKey)
    except msgspec.DecodeError:
        return ApiKey(id=id, digest="", tenant="", scopes=(), revoked_at=0.0, note="cannot be read")


def _checked(limits: KeyLimits) -> KeyLimits:
    rate, burst, in_flight = limits.rate_per_s, limits.burst, limits.in_flight
    if rate is not None and not 0 < rate <= RATE_MAX:
        raise _refused("rate_per_s", rate, f"it must be more than 0, and {RATE_MAX:,.0f} at most")
    if burst < 1:
        raise _refused("burst", burst, "it must be 1 or more")
    if in_flight is not None and not 1 <= in_flight <= IN_FLIGHT_MAX:
        raise _refused("in_flight", in_flight, f"it must be 1 to {IN_FLIGHT_MAX:,}")
    return limits


def _note(text: str) -> str:
    if len(text) > NOTE_MAX or not text.isprintable():
        raise _refused("note", text[:20], f"it must be one line of {NOTE_MAX} characters at most")
    return text


def _refused(name: str, value: Any, rule: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(f"{name} {value!r} is not allowed: {rule}", reason=f"{name} not allowed")


def _id_in(text: str) -> str:
    """Return the id in a token, or in a part of one; the rest must not be shown."""
    return text.removeprefix("mutirao_").partition("_")[0]
