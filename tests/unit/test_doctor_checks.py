"""What doctor makes of a system: each check by a table of snapshots."""

from typing import Any

import pytest

from mutirao import settings
from mutirao.doctor import fleet_checks, redis_checks, settings_checks
from mutirao.doctor.orphan_checks import Orphans
from mutirao.doctor.snapshot import RedisServerInfo, Snapshot
from mutirao.registry import ModelInfo, Registry, WorkerInfo

GIB = 2**30
LOCAL = "redis://127.0.0.1:6379/0"
AWAY = "redis://10.0.0.5:6379/0"


def redis(url=LOCAL, *, config=None, ahead_s=0.0, answered_ms=1.0, **info):
    healthy = {"redis_version": "7.2.1", "role": "master", "maxmemory_policy": "noeviction", "maxmemory": 0, "used_memory": 9, "aof_enabled": 1, "connected_clients": 3, "maxclients": 10_000}  # fmt: skip
    config = {"appendfsync": "everysec", "save": ""} | (config or {})
    return RedisServerInfo(url=url, info=healthy | info, config=config, ahead_s=ahead_s, answered_ms=answered_ms)


def worker(name, processes=2, **models):
    return WorkerInfo(name=name, pid=1, processes=processes, models=models)


def seen(*workers, broken="", known=("iris",), given=None, reason="", unleased=(), silent=(), **more):
    models = {
        name: ModelInfo(name=name, version="1", state="unavailable" if name == broken else "ready", reason=reason)
        for name in known
    }
    found = Registry(models=models, workers=workers, unleased=unleased, silent=silent)
    parts: dict[str, Any] = {
        "waiting": {},
        "reserved": 0,
        "dead": 0,
        "lockout": "",
        "undelivered": 0,
        "foreign": (),
        "orphans": Orphans((), 0, True),
    } | more
    return Snapshot(settings=settings.load({}, **(given or {})), registry=found, **parts)


IRIS = worker("a@x", iris="1")
FAILING = [
    WorkerInfo(name=name, processes=1, models={}, failing={"bad": why})
    for name, why in (("a", "saved with 1.2"), ("b", "no file"), ("c", "no file"))
]
AMQP = {"broker_url": "amqp://127.0.0.1", "result_url": "redis://127.0.0.1"}


@pytest.mark.parametrize(
    ("check", "given", "level", "says"),
    [
        (redis_checks.reachable, redis(), "ok", "answers in 1.0 ms"),
        (redis_checks.reachable, redis(answered_ms=80), "warning", "80.0 ms"),
        (redis_checks.version, redis(), "ok", "Redis 7.2.1"),
        (redis_checks.version, redis(redis_version="6.2.0"), "ok", "Redis 6.2.0"),
        (redis_checks.version, redis(redis_version="6.0.16"), "problem", "6.0.16"),
        (redis_checks.version, redis(redis_version="10.0.0"), "ok", "10.0.0"),
        (redis_checks.version, redis(server_name="valkey", valkey_version="8.0.1"), "ok", "Valkey 8.0.1"),
        (redis_checks.role, redis(role="slave", master_host="h", master_port=1), "problem", "replica of h:1"),
        (redis_checks.role, redis(cluster_enabled=1), "problem", "cluster"),
        (redis_checks.role, redis(), "ok", "primary"),
        (redis_checks.eviction, redis(), "ok", "noeviction"),
        (redis_checks.eviction, redis(maxmemory_policy="allkeys-lru", maxmemory=GIB), "problem", "deletes accepted requests"),
        (redis_checks.eviction, redis(maxmemory_policy="allkeys-lru"), "warning", "without effect"),
        (redis_checks.persistence, redis(config={"appendfsync": "always"}), "ok", "nothing accepted is lost"),
        (redis_checks.persistence, redis(), "ok", "lose the last second"),
        (redis_checks.persistence, redis(config={"appendfsync": "no"}), "warning", "30 s"),
        (redis_checks.persistence, redis(aof_last_write_status="err"), "problem", "failed"),
        (redis_checks.persistence, redis(aof_enabled=0, config={"save": "3600 1"}), "warning", "snapshots only"),
        (redis_checks.persistence, redis(aof_enabled=0), "warning", "every request"),
        (redis_checks.memory, redis(), "ok", "no limit"),
        (redis_checks.memory, redis(maxmemory=GIB, used_memory=GIB // 2), "ok", "of 1.1 GB"),
        (redis_checks.memory, redis(maxmemory=GIB, used_memory=GIB * 9 // 10), "warning", "of 1.1 GB"),
        (redis_checks.memory, redis(maxmemory=GIB, used_memory=GIB * 99 // 100), "problem", "of 1.1 GB"),
        (redis_checks.connections, redis(connected_clients=9000), "warning", "9000 open of at most 10000"),
        (redis_checks.connections, redis(), "ok", "3 open"),
        (redis_checks.clock, redis(ahead_s=1.9), "ok", "1.90 s apart"),
        (redis_checks.clock, redis(ahead_s=5), "warning", "5.0 s ahead of this machine"),
        (redis_checks.clock, redis(ahead_s=-5), "warning", "5.0 s behind this machine"),
        (redis_checks.password, redis(), "ok", "loopback"),
        (redis_checks.password, redis("redis://localhost:6379"), "ok", "loopback"),
        (redis_checks.password, redis("redis://[::1]:6379"), "ok", "loopback"),
        (redis_checks.password, redis(AWAY), "warning", "whoever reaches it"),
        (redis_checks.password, redis("redis://:***@10.0.0.5:6379"), "ok", "sent unencrypted"),
        (redis_checks.password, redis("rediss://:***@10.0.0.5:6379"), "ok", "encrypted"),
    ],
)  # fmt: skip
def test_a_server_is_judged(check, given, level, says):
    """Each hazard of a Redis server has its level, says what was found, and unless it is fine, what to do."""
    found = check(given)
    assert (found.level, bool(found.remedy)) == (level, level != "ok")
    assert says in found.found


@pytest.mark.parametrize(
    ("check", "given", "level", "says"),
    [
        (fleet_checks.workers, seen(IRIS), "ok", "1 alive, 2 predictions at once: a@x"),
        (fleet_checks.workers, seen(worker("a@x", 1)), "ok", "1 alive, 1 prediction at once: a@x"),
        (fleet_checks.workers, seen(), "problem", "last 15 s"),
        (fleet_checks.leases, seen(IRIS), "ok", "every worker"),
        (fleet_checks.leases, seen(IRIS, unleased=("b@x",)), "warning", "take no requests: b@x"),
        (fleet_checks.lost_requests, seen(IRIS), "ok", "each is in its queue"),
        (fleet_checks.lost_requests, seen(IRIS, orphans=Orphans(("a", "b"), 9, True)), "warning", "2 are queued by their record, but in no queue"),
        (fleet_checks.lost_requests, seen(IRIS, given=AMQP), "ok", "not checked"),
        (fleet_checks.leases, seen(IRIS, silent=("b@x",)), "warning", "gone: b@x"),
        (fleet_checks.models, seen(IRIS), "ok", "1 served: iris"),
        (fleet_checks.models, seen(IRIS, known=()), "warning", "none"),
        (fleet_checks.models, seen(IRIS, known=("iris", "bad"), broken="bad", reason="digest"), "problem", "bad (digest)"),
        (fleet_checks.models, seen(*FAILING, known=("bad",), broken="bad", reason="digest"), "problem", "bad (saved with 1.2; no file)"),
        (fleet_checks.models, seen(IRIS, known=("iris", "old")), "warning", "no live worker serves old"),
        (fleet_checks.models, seen(IRIS, reason="saved with 1.7"), "warning", "iris (saved with 1.7)"),
        (fleet_checks.versions, seen(IRIS, worker("b@x", iris="1")), "ok", "one version"),
        (fleet_checks.versions, seen(IRIS, worker("b@x", iris="2")), "warning", "iris (1, 2)"),
        (fleet_checks.queues, seen(IRIS), "ok", "nothing waits"),
        (fleet_checks.queues, seen(IRIS, waiting={"iris": 3}), "ok", "iris 3"),
        (fleet_checks.queues, seen(IRIS, waiting={"iris": 3, "typo": 1}), "problem", "no live worker serves typo"),
        (fleet_checks.reserved, seen(IRIS, reserved=4), "ok", "4 taken"),
        (fleet_checks.reserved, seen(reserved=4), "warning", "no worker is alive"),
        (fleet_checks.dead, seen(IRIS), "ok", "none"),
        (fleet_checks.dead, seen(IRIS, dead=2), "warning", "2 requests were given up"),
        (fleet_checks.api_keys, seen(IRIS), "ok", "usable, or none: without any, a gateway needs no key"),
        (fleet_checks.api_keys, seen(IRIS, lockout="every key is revoked: do this"), "warning", "every key is revoked"),
        (fleet_checks.undelivered_webhooks, seen(IRIS), "ok", "none waits to be sent"),
        (fleet_checks.undelivered_webhooks, seen(IRIS, undelivered=3), "warning", "3 wait to be sent, and no process sends them"),
        (fleet_checks.foreign, seen(IRIS), "ok", "no other"),
        (fleet_checks.foreign, seen(IRIS, foreign=("celery",)), "warning", "queues celery"),
        (settings_checks.variables, seen(environment=("MUTIRAO_BROKER_URL", "MUTIRAO_REDIS_PORT", "PATH")), "ok", "known"),
        (settings_checks.variables, seen(environment=("MUTIRAO_BROKER_UL",)), "warning", "MUTIRAO_BROKER_UL"),
        (settings_checks.variables, seen(environment=("MUTIRAO_QQQQ",)), "warning", "MUTIRAO_QQQQ"),
        (settings_checks.address, seen(), "ok", LOCAL),
        (settings_checks.address, seen(here="redis://:pw@127.0.0.1:7000/0"), "warning", "runs here at redis://:***@127.0.0.1:7000/0"),
        (settings_checks.results, seen(), "ok", "with the requests"),
        (settings_checks.results, seen(given={"result_url": "redis://:pw@10.0.0.6"}), "warning", ":***@10.0.0.6"),
        (settings_checks.lifetimes, seen(), "ok", "24 hours"),
        (settings_checks.lifetimes, seen(given={"result_ttl_s": 60}), "problem", "forgotten while it runs"),
        (settings_checks.lifetimes, seen(given={"result_ttl_s": 300}, limits={"slow": 600.0}), "problem", "600 s"),
        (settings_checks.sizes, seen(), "ok", "64 MiB"),
        (settings_checks.sizes, seen(broker=redis(maxmemory=2**27)), "warning", "maxmemory, 134217728"),
    ],
)  # fmt: skip
def test_a_fleet_and_its_settings_are_judged(check, given, level, says):
    """Each hazard of workers, models, queues and settings has its level, says what was found, and unless it is fine, what to do."""
    found = check(given)
    assert (found.level, bool(found.remedy)) == (level, level != "ok")
    assert says in found.found


@pytest.mark.parametrize(
    "check",
    [
        redis_checks.version,
        redis_checks.role,
        redis_checks.eviction,
        redis_checks.persistence,
        redis_checks.memory,
        redis_checks.connections,
    ],
)
def test_a_server_that_tells_nothing_is_unknown(check):
    """Where INFO is forbidden, a check says so and does not guess."""
    found = check(RedisServerInfo(url=LOCAL))
    assert (found.level, found.found) == ("unknown", "not allowed to look (INFO)")


@pytest.mark.parametrize(
    "check",
    [
        fleet_checks.workers,
        fleet_checks.models,
        fleet_checks.versions,
        fleet_checks.queues,
        fleet_checks.reserved,
        fleet_checks.dead,
        fleet_checks.api_keys,
        fleet_checks.undelivered_webhooks,
        fleet_checks.foreign,
    ],
)
def test_a_fleet_that_may_not_be_seen_is_unknown(check):
    """Where keys are out of sight, a check says so and does not guess."""
    assert check(Snapshot(settings=settings.load({}))).level == "unknown"


def test_the_nearest_setting_is_named():
    """A variable that nobody reads is most often a slip of the finger: the remedy names what was meant."""
    assert settings_checks.variables(seen(environment=("MUTIRAO_RESULT_TTL",))).remedy.endswith(
        "did you mean MUTIRAO_RESULT_TTL_S?"
    )
