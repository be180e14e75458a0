"""Everything that the checks look at, read once."""

from __future__ import annotations

import contextlib
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import redis

from mutirao import api_keys, keyspace, registry, settings
from mutirao.doctor import gateway_checks, orphan_checks
from mutirao.doctor.gateway_checks import Gateway
from mutirao.doctor.orphan_checks import Orphans
from mutirao.redisdb.connection import connect
from mutirao.redisdb.drivers import Database, options, unavailable
from mutirao.registry import Registry
from mutirao.settings import Settings

T = TypeVar("T")

CONFIG = ("appendfsync", "save")
BINDINGS = "_kombu.binding."
# A scan ends after about this many keys: doctor is not to be a load of its own.
SCANNED = 500_000
SCAN_STEP = 1000


class RedisServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis server, as it presents itself.

    Attributes:
        url: its address, without its password.
        info: INFO; None where this user may not ask.
        config: those options that INFO does not tell; None where this user may not ask.
        ahead_s: by how much its clock is ahead of this machine's.
        answered_ms: how long the quickest of three answers took.
    """

    url: str
    info: dict[str, Any] | None = None
    config: dict[str, str] | None = None
    ahead_s: float = 0.0
    answered_ms: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of the system, seen from this machine.

    Attributes:
        given: the settings of this process.
        environment: the names of its variables.
        here: the broker's URL of the embedded system that runs in this folder; "" for none.
        limits: the time limit in seconds of each model of the repository on this machine, if it is here.
        gateway: the gateway through which the system is reached, and then nothing else is seen of it; None where none is asked.
        broker: where requests are queued; None while nothing was read.
        results: where results are kept, if that is another server.
        catalog: the models and live workers; None where this user may not look.
        waiting: how many requests wait for each model; None where this user may not look, or the broker is no Redis.
        reserved: how many requests workers have taken and not yet answered; None where this user may not look.
        dead: how many requests were given up and are kept; None where this user may not look.
        closed: what to do where every API key is revoked; "" where that is not so, None where this user may not look.
        untold: how many ends of jobs wait for a webhook while nobody calls any; None where this user may not look.
        foreign: queues of other Celery applications in this database; None where this user may not look.
        orphans: queued jobs whose requests have vanished; None where nobody looked.
    """

    given: Settings
    environment: tuple[str, ...] = ()
    here: str = ""
    limits: dict[str, float] = {}
    gateway: Gateway | None = None
    broker: RedisServerInfo | None = None
    results: RedisServerInfo | None = None
    catalog: Registry | None = None
    waiting: dict[str, int] | None = None
    reserved: int | None = None
    dead: int | None = None
    closed: str | None = None
    untold: int | None = None
    foreign: tuple[str, ...] | None = None
    orphans: Orphans | None = None

    @property
    def servers(self) -> tuple[RedisServerInfo, ...]:
        """The one server, or both."""
        return tuple(server for server in (self.broker, self.results) if server)


def local(given: Settings, environment: Mapping[str, str]) -> Snapshot:
    """Read what can be seen without Redis."""
    home = {"MUTIRAO_HOME": given.home}
    here = settings.load(home).broker_url
    running = here if here != Settings().broker_url else ""
    return Snapshot(
        given=given, environment=tuple(sorted(environment)), here=running, limits=_limits(Path(given.models))
    )


def read(given: Settings, environment: Mapping[str, str]) -> Snapshot:
    """Read everything.

    Raises:
        BrokerUnavailable: a server, or the gateway, does not answer.
    """
    seen = local(given, environment)
    if given.uses_gateway:
        return msgspec.structs.replace(seen, gateway=gateway_checks.read(given))
    if given.uses_amqp:  # the fleet announces itself where results are kept, and nobody here sees the queues
        with _connected(given, "results") as client:
            fleet = _fleet(client) | {"waiting": None, "reserved": None}
            return msgspec.structs.replace(seen, results=_server(client, given.result_url), **fleet)
    with _connected(given, "broker") as client:
        seen = msgspec.structs.replace(seen, broker=_server(client, given.broker_url), **_fleet(client))
    if given.separate_results:
        with _connected(given, "results") as client:
            untold, closed = _allowed(lambda: _untold(client)), _allowed(lambda: _closed(client))
            seen = msgspec.structs.replace(
                seen, results=_server(client, given.result_url), untold=untold, closed=closed
            )
    with _connected(given, "results") as client:
        return msgspec.structs.replace(seen, orphans=_allowed(lambda: orphan_checks.find(client, given)))


@contextlib.contextmanager
def _connected(given: Settings, side: Database) -> Iterator[redis.Redis]:
    client = connect(given.broker_url if side == "broker" else given.result_url, given, **options(given))
    try:
        yield client
    except redis.RedisError as exc:
        raise unavailable(exc, given, side) from exc
    finally:
        client.close()


def _server(client: redis.Redis, url: str) -> RedisServerInfo:
    answered_s, ahead_s = min(_clock(client) for _ in range(3))
    return RedisServerInfo(
        url=settings.without_password(url),
        info=_allowed(client.info),
        config=_allowed(lambda: _config(client)),
        ahead_s=ahead_s,
        answered_ms=answered_s * 1000,
    )


def _clock(client: redis.Redis) -> tuple[float, float]:
    """Say how long an answer took, and how far Redis's clock was ahead in the middle of it."""
    before = time.time()
    seconds, micros = client.time()
    after = time.time()
    return after - before, seconds + micros / 1e6 - (before + after) / 2


def _config(client: redis.Redis) -> dict[str, str]:
    """Ask for one option at a time: Redis 6 knows no other way."""
    return {str(name): str(value) for option in CONFIG for name, value in client.config_get(option).items()}


def _fleet(client: redis.Redis) -> dict[str, Any]:
    known = _allowed(lambda: _catalog(client))
    found = _allowed(lambda: _scan(client, keyspace.PREFIX + "*", "list"))
    names = {*(known.models if known else ()), *_models(found or ())}
    return {
        "catalog": known,
        # Without a name to ask for, nothing is known of any queue.
        "waiting": None if known is found is None else _allowed(lambda: _waiting(client, sorted(names))),
        "reserved": _allowed(lambda: _reserved(client)),
        "dead": _allowed(lambda: client.hlen(keyspace.DEAD)),
        "closed": _allowed(lambda: _closed(client)),
        "untold": _allowed(lambda: _untold(client)),
        "foreign": _allowed(lambda: _foreign(client)),
    }


def _catalog(client: redis.Redis) -> Registry:
    models, workers = client.hgetall(keyspace.MODELS), client.hgetall(keyspace.WORKERS)
    seconds, micros = client.time()
    now = seconds + micros / 1e6
    leases = client.zrangebyscore(keyspace.LEASES, now, "+inf")
    return registry.decode_registry(models, workers, now, leases)  # type: ignore[arg-type]


def _waiting(client: redis.Redis, models: Iterable[str]) -> dict[str, int]:
    return {model: sum(int(client.llen(key)) for key in _lists(client, model)) for model in models}


def _lists(client: redis.Redis, model: str) -> Iterator[str]:
    """Name the lists of a model's queue: kombu's own, and those of the tenants that wait."""
    yield from keyspace.stock_lists(keyspace.queue(model))
    sharing: Any = client.zrange(keyspace.tenants_key(keyspace.queue(model)), 0, -1)
    for tenant in filter(None, map(_text, sharing)):
        yield from (keyspace.queue_key(model, step, tenant) for step in keyspace.KOMBU_STEPS)


def _reserved(client: redis.Redis) -> int:
    """Count what workers hold, the engine's and those of kombu's own transport."""
    keys = _scan(client, keyspace.reserved_key("*"), "hash")
    return sum(int(client.hlen(key)) for key in (*keys, "unacked"))


def _closed(client: redis.Redis) -> str:
    """Say what to do where there are API keys and none is good."""
    found: Any = client.hgetall(keyspace.KEYS)
    return api_keys.lockout_remedy([api_keys.key_from_json(id.decode(), raw) for id, raw in found.items()])


def _untold(client: redis.Redis) -> int:
    """Count what waits for `mutirao webhooks`; one that runs holds some of it, or has something that waits for another try."""
    return 0 if client.exists(keyspace.WEBHOOKS_HELD) else int(client.llen(keyspace.WEBHOOKS))


def _models(keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        if model := keyspace.model_of(key.partition(keyspace.KOMBU_SEPARATOR)[0]):
            yield model


def _foreign(client: redis.Redis) -> tuple[str, ...]:
    """Find queues that are neither ours nor those by which Celery commands and watches workers."""
    keys = _scan(client, BINDINGS + "*", "set")
    members = [_text(member) for key in keys for member in client.smembers(key)]
    names = {member.rpartition(keyspace.KOMBU_SEPARATOR)[2] for member in members}
    return tuple(sorted(name for name in names if name and not _expected(name)))


def _expected(queue: str) -> bool:
    ours = queue.startswith(keyspace.PREFIX) or queue == keyspace.WEBHOOKS
    return ours or queue.startswith("celeryev.") or queue.endswith("celery.pidbox")


def _scan(client: redis.Redis, pattern: str, kind: str) -> list[str]:
    cursor, found = 0, []
    for _ in range(SCANNED // SCAN_STEP):
        cursor, keys = client.scan(cursor, match=pattern, count=SCAN_STEP, _type=kind)
        found += [_text(key) for key in keys]
        if cursor == 0:
            break
    return found


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode(errors="replace")


def _allowed(ask: Callable[[], Any]) -> Any:
    """Ask, or learn that this user may not."""
    try:
        return ask()
    except redis.exceptions.NoPermissionError:
        return None
    except redis.ResponseError as exc:
        # A server that has renamed or switched off the command, as hosted ones do.
        if "unknown command" in str(exc):
            return None
        raise


def _limits(models: Path) -> dict[str, float]:
    """Read the models' time limits; a file that cannot be read is the worker's and `models verify`'s to complain of."""
    found = {}
    for path in sorted(models.glob("*/model.toml")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found[path.parent.name] = float(tomllib.loads(path.read_text(encoding="utf-8")).get("time_limit_s", 60.0))
    return found
