"""The state of the system that the checks judge, read once."""

from __future__ import annotations

import contextlib
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import redis

from mutirao import api_keys, keyspace
from mutirao.doctor import gateway_checks, orphan_checks
from mutirao.doctor.gateway_checks import Gateway
from mutirao.doctor.orphan_checks import Orphans
from mutirao.redisdb.connection import connect
from mutirao.redisdb.drivers import Database, options, unavailable
from mutirao.registry import Registry, decode_registry
from mutirao.settings import Settings, load, without_password

CONFIG = ("appendfsync", "save")
BINDINGS = "_kombu.binding."
# A scan ends after about this many keys: doctor must not load Redis.
SCANNED = 500_000
SCAN_STEP = 1000


class RedisServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a Redis server tells of itself.

    Attributes:
        url: its address, without its password.
        info: INFO; None where this user may not ask.
        config: the options of CONFIG that INFO lacks; None where this user may not ask.
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
        settings: those of this process.
        environment: the names of its variables.
        here: the broker's URL of the embedded system that runs in this folder; "" for none.
        limits: the time limit in seconds of each model of the repository on this machine, if there is one.
        gateway: the gateway through which the system is reached, and then nothing else is read; None where there is none.
        broker: the server where requests are queued; None where nothing was read of it.
        results: where results are kept, if that is another server.
        registry: the models and live workers; None where this user may not look.
        waiting: how many requests wait for each model; None where this user may not look, or the broker is not Redis.
        reserved: how many requests workers have taken and not yet answered; None where this user may not look.
        dead: how many requests were given up and are kept; None where this user may not look.
        lockout: what to do where every API key is revoked; "" where that is not so, None where this user may not look.
        undelivered: how many webhooks wait while no process sends any; None where this user may not look.
        foreign: queues of other Celery applications in this database; None where this user may not look.
        orphans: queued jobs whose requests have vanished; None where that was not checked.
    """

    settings: Settings
    environment: tuple[str, ...] = ()
    here: str = ""
    limits: dict[str, float] = {}
    gateway: Gateway | None = None
    broker: RedisServerInfo | None = None
    results: RedisServerInfo | None = None
    registry: Registry | None = None
    waiting: dict[str, int] | None = None
    reserved: int | None = None
    dead: int | None = None
    lockout: str | None = None
    undelivered: int | None = None
    foreign: tuple[str, ...] | None = None
    orphans: Orphans | None = None

    @property
    def servers(self) -> tuple[RedisServerInfo, ...]:
        """The one server, or both."""
        return tuple(server for server in (self.broker, self.results) if server)


def local(settings: Settings, environment: Mapping[str, str]) -> Snapshot:
    """Read what can be read without Redis."""
    here = load({"MUTIRAO_HOME": settings.home}).broker_url
    return Snapshot(
        settings=settings,
        environment=tuple(sorted(environment)),
        here=here if here != Settings().broker_url else "",
        limits=_limits(Path(settings.models)),
    )


def read(settings: Settings, environment: Mapping[str, str]) -> Snapshot:
    """Read everything.

    Raises:
        BrokerUnavailable: a server, or the gateway, does not answer.
    """
    parts: dict[str, Any] = {}
    if settings.uses_gateway:
        parts["gateway"] = gateway_checks.read(settings)
    elif settings.uses_amqp:  # workers announce themselves where results are kept; the queues cannot be seen
        with _connected(settings, "results") as client:
            parts |= _fleet(client) | {"waiting": None, "reserved": None}
            parts["results"] = _server(client, settings.result_url)
    else:
        with _connected(settings, "broker") as client:
            parts |= _fleet(client) | {"broker": _server(client, settings.broker_url)}
        with _connected(settings, "results") as client:
            if settings.separate_results:
                parts |= _of_results(client) | {"results": _server(client, settings.result_url)}
            parts["orphans"] = _allowed(lambda: orphan_checks.find(client, settings))
    return msgspec.structs.replace(local(settings, environment), **parts)


@contextlib.contextmanager
def _connected(settings: Settings, side: Database) -> Iterator[redis.Redis]:
    url = settings.broker_url if side == "broker" else settings.result_url
    with connect(url, settings, **options(settings)) as client:
        try:
            yield client
        except redis.RedisError as exc:
            raise unavailable(exc, settings, side) from exc


def _server(client: redis.Redis, url: str) -> RedisServerInfo:
    answered_s, ahead_s = min(_clock(client) for _ in range(3))
    return RedisServerInfo(
        url=without_password(url),
        info=_allowed(client.info),
        config=_allowed(lambda: _config(client)),
        ahead_s=ahead_s,
        answered_ms=answered_s * 1000,
    )


def _clock(client: redis.Redis) -> tuple[float, float]:
    """Return how long an answer took, and how far Redis's clock was ahead in the middle of it."""
    before = time.time()
    seconds, micros = client.time()
    after = time.time()
    return after - before, seconds + micros / 1e6 - (before + after) / 2


def _config(client: redis.Redis) -> dict[str, str]:
    """Read one option at a time: Redis 6 cannot read several."""
    return {str(name): str(value) for option in CONFIG for name, value in client.config_get(option).items()}


def _fleet(client: redis.Redis) -> dict[str, Any]:
    registry = _allowed(lambda: _registry(client))
    lists = _allowed(lambda: _scan(client, keyspace.PREFIX + "*", "list"))
    names = {*(registry.models if registry else ()), *_models(lists or ())}
    return {
        "registry": registry,
        # Without any model's name, no queue can be looked at.
        "waiting": None if registry is lists is None else _allowed(lambda: _waiting(client, sorted(names))),
        "reserved": _allowed(lambda: _reserved(client)),
        "dead": _allowed(lambda: client.hlen(keyspace.DEAD)),
        "foreign": _allowed(lambda: _foreign(client)),
        **_of_results(client),
    }


def _of_results(client: redis.Redis) -> dict[str, Any]:
    """Read what is kept where results are."""
    return {"lockout": _allowed(lambda: _lockout(client)), "undelivered": _allowed(lambda: _undelivered(client))}


def _registry(client: redis.Redis) -> Registry:
    models, workers = client.hgetall(keyspace.MODELS), client.hgetall(keyspace.WORKERS)
    seconds, micros = client.time()
    now = seconds + micros / 1e6
    leases = client.zrangebyscore(keyspace.LEASES, now, "+inf")
    return decode_registry(models, workers, now, leases)  # type: ignore[arg-type]


def _waiting(client: redis.Redis, models: Iterable[str]) -> dict[str, int]:
    return {model: sum(int(client.llen(key)) for key in _lists(client, model)) for model in models}


def _lists(client: redis.Redis, model: str) -> Iterator[str]:
    """Return the keys of a model's queue: kombu's own lists, and those of the tenants that wait."""
    yield from keyspace.stock_lists(keyspace.queue(model))
    sharing: Any = client.zrange(keyspace.tenants_key(keyspace.queue(model)), 0, -1)
    for tenant in filter(None, map(_text, sharing)):
        yield from (keyspace.queue_key(model, step, tenant) for step in keyspace.KOMBU_STEPS)


def _reserved(client: redis.Redis) -> int:
    """Count what workers hold, the engine's and those of kombu's own transport."""
    keys = _scan(client, keyspace.reserved_key("*"), "hash")
    return sum(int(client.hlen(key)) for key in (*keys, "unacked"))


def _lockout(client: redis.Redis) -> str:
    """Return what to do where every API key is revoked; "" where that is not so."""
    keys: Any = client.hgetall(keyspace.KEYS)
    return api_keys.lockout_remedy([api_keys.key_from_json(id.decode(), raw) for id, raw in keys.items()])


def _undelivered(client: redis.Redis) -> int:
    """Count the webhooks that wait, 0 while a process of `mutirao webhooks` holds some: it sends the rest too."""
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
    cursor, names = 0, list[str]()
    for _ in range(SCANNED // SCAN_STEP):
        cursor, keys = client.scan(cursor, match=pattern, count=SCAN_STEP, _type=kind)
        names += map(_text, keys)
        if cursor == 0:
            break
    return names


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode(errors="replace")


def _allowed(read: Callable[[], Any]) -> Any:
    """Return what is read, or None where this user may not read it."""
    try:
        return read()
    except redis.exceptions.NoPermissionError:
        return None
    except redis.ResponseError as exc:
        # A server that has renamed or switched off the command, as hosted ones do.
        if "unknown command" in str(exc):
            return None
        raise


def _limits(models: Path) -> dict[str, float]:
    """Read the models' time limits; of a file that cannot be read, the worker and `models verify` complain."""
    limits = {}
    for path in sorted(models.glob("*/model.toml")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            limits[path.parent.name] = float(tomllib.loads(path.read_text(encoding="utf-8")).get("time_limit_s", 60.0))
    return limits
