"""What doctor makes of a system: each check by a table of snapshots."""

from typing import Any

import msgspec
import pytest
from servers import RedisServer

from mutirao import settings
from mutirao.catalog import Catalog, ModelInfo, WorkerInfo, redelivered_after_s
from mutirao.checkup import configuration, fleet, server, snapshot
from mutirao.checkup.orphans import Orphans
from mutirao.checkup.snapshot import Server, Snapshot

GIB = 2**30
LOCAL = "redis://127.0.0.1:6379/0"
AWAY = "redis://10.0.0.5:6379/0"


def redis(url=LOCAL, *, config=None, ahead_s=0.0, answered_ms=1.0, **info):
    healthy = {"redis_version": "7.2.1", "role": "master", "maxmemory_policy": "noeviction", "maxmemory": 0, "used_memory": 9, "aof_enabled": 1, "connected_clients": 3, "maxclients": 10_000}  # fmt: skip
    config = {"appendfsync": "everysec", "save": ""} | (config or {})
    return Server(url=url, info=healthy | info, config=config, ahead_s=ahead_s, answered_ms=answered_ms)


def worker(name, processes=2, **models):
    return WorkerInfo(name=name, pid=1, processes=processes, models=models)


def seen(*workers, broken="", known=("iris",), given=None, reason="", deaf=(), gone=(), **more):
    models = {
        name: ModelInfo(name=name, version="1", state="unavailable" if name == broken else "ready", reason=reason)
        for name in known
    }
    found = Catalog(models=models, workers=workers, deaf=deaf, gone=gone)
    parts: dict[str, Any] = {
        "waiting": {},
        "reserved": 0,
        "dead": 0,
        "closed": "",
        "untold": 0,
        "foreign": (),
        "orphans": Orphans((), 0, True),
    } | more
    return Snapshot(given=settings.load({}, **(given or {})), catalog=found, **parts)


IRIS = worker("a@x", iris="1")
STOCK = {"engine": False}


@pytest.mark.parametrize(
    ("check", "given", "level", "says"),
    [
        (server.reachable, redis(), "ok", "answers in 1.0 ms"),
        (server.reachable, redis(answered_ms=80), "warning", "80.0 ms"),
        (server.version, redis(), "ok", "Redis 7.2.1"),
        (server.version, redis(redis_version="6.2.0"), "ok", "Redis 6.2.0"),
        (server.version, redis(redis_version="6.0.16"), "problem", "6.0.16"),
        (server.version, redis(redis_version="10.0.0"), "ok", "10.0.0"),
        (server.version, redis(server_name="valkey", valkey_version="8.0.1"), "ok", "Valkey 8.0.1"),
        (server.role, redis(role="slave", master_host="h", master_port=1), "problem", "replica of h:1"),
        (server.role, redis(cluster_enabled=1), "problem", "cluster"),
        (server.role, redis(), "ok", "primary"),
        (server.eviction, redis(), "ok", "noeviction"),
        (server.eviction, redis(maxmemory_policy="allkeys-lru", maxmemory=GIB), "problem", "deletes accepted requests"),
        (server.eviction, redis(maxmemory_policy="allkeys-lru"), "warning", "without effect"),
        (server.persistence, redis(config={"appendfsync": "always"}), "ok", "nothing accepted is lost"),
        (server.persistence, redis(), "ok", "lose the last second"),
        (server.persistence, redis(config={"appendfsync": "no"}), "warning", "30 s"),
        (server.persistence, redis(aof_last_write_status="err"), "problem", "failed"),
        (server.persistence, redis(aof_enabled=0, config={"save": "3600 1"}), "warning", "snapshots only"),
        (server.persistence, redis(aof_enabled=0), "warning", "every request"),
        (server.memory, redis(), "ok", "no limit"),
        (server.memory, redis(maxmemory=GIB, used_memory=GIB // 2), "ok", "of 1.1 GB"),
        (server.memory, redis(maxmemory=GIB, used_memory=GIB * 9 // 10), "warning", "of 1.1 GB"),
        (server.memory, redis(maxmemory=GIB, used_memory=GIB * 99 // 100), "problem", "of 1.1 GB"),
        (server.connections, redis(connected_clients=9000), "warning", "9000 open of at most 10000"),
        (server.connections, redis(), "ok", "3 open"),
        (server.clock, redis(ahead_s=1.9), "ok", "1.90 s apart"),
        (server.clock, redis(ahead_s=5), "warning", "5.0 s ahead of this machine"),
        (server.clock, redis(ahead_s=-5), "warning", "5.0 s behind this machine"),
        (server.password, redis(), "ok", "loopback"),
        (server.password, redis("redis://localhost:6379"), "ok", "loopback"),
        (server.password, redis("redis://[::1]:6379"), "ok", "loopback"),
        (server.password, redis(AWAY), "warning", "whoever reaches it"),
        (server.password, redis("redis://:***@10.0.0.5:6379"), "ok", "in the clear"),
        (server.password, redis("rediss://:***@10.0.0.5:6379"), "ok", "encrypted"),
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
        (fleet.workers, seen(IRIS), "ok", "1 alive, 2 predictions at once: a@x"),
        (fleet.workers, seen(worker("a@x", 1)), "ok", "1 alive, 1 prediction at once: a@x"),
        (fleet.workers, seen(), "problem", "last 15 s"),
        (fleet.deaf, seen(IRIS), "ok", "every worker"),
        (fleet.deaf, seen(IRIS, deaf=("b@x",)), "warning", "nothing is taken: b@x"),
        (fleet.vanished, seen(IRIS), "ok", "waits in its queue"),
        (fleet.vanished, seen(IRIS, orphans=Orphans(("a", "b"), 9, True)), "warning", "2 say queued, but are in no queue"),
        (fleet.vanished, seen(IRIS, given=STOCK), "ok", "not looked for"),
        (fleet.deaf, seen(IRIS, gone=("b@x",)), "warning", "gone: b@x"),
        (fleet.models, seen(IRIS), "ok", "1 served: iris"),
        (fleet.models, seen(IRIS, known=()), "warning", "none"),
        (fleet.models, seen(IRIS, known=("iris", "bad"), broken="bad", reason="digest"), "problem", "bad (digest)"),
        (fleet.models, seen(IRIS, known=("iris", "old")), "warning", "no live worker serves old"),
        (fleet.models, seen(IRIS, reason="saved with 1.7"), "warning", "iris (saved with 1.7)"),
        (fleet.versions, seen(IRIS, worker("b@x", iris="1")), "ok", "one version"),
        (fleet.versions, seen(IRIS, worker("b@x", iris="2")), "warning", "iris (1, 2)"),
        (fleet.waiting, seen(IRIS), "ok", "nothing waits"),
        (fleet.waiting, seen(IRIS, waiting={"iris": 3}), "ok", "iris 3"),
        (fleet.waiting, seen(IRIS, waiting={"iris": 3, "typo": 1}), "problem", "no live worker serves typo"),
        (fleet.reserved, seen(IRIS, reserved=4), "ok", "4 taken"),
        (fleet.reserved, seen(reserved=4), "warning", "no worker is alive"),
        (fleet.dead, seen(IRIS), "ok", "none"),
        (fleet.dead, seen(IRIS, dead=2), "warning", "2 requests were given up"),
        (fleet.closed, seen(IRIS), "ok", "a good one, or none: a gateway is then open to its machine from its next start"),
        (fleet.closed, seen(IRIS, closed="every key is revoked: do this"), "warning", "every key is revoked"),
        (fleet.untold, seen(IRIS), "ok", "nothing waits to be told"),
        (fleet.untold, seen(IRIS, untold=3), "warning", "3 ends of jobs wait to be told"),
        (fleet.patience, seen(IRIS), "ok", "for as long as they live, 6 s longer at most"),
        (fleet.patience, seen(IRIS, given=STOCK), "ok", "not checked"),
        (fleet.patience, seen(IRIS, given=STOCK, limits={"iris": 60.0}), "ok", "60 s at most"),
        (fleet.patience, seen(IRIS, given=STOCK, limits={"iris": 60.0, "slow": 600.0}), "warning", "a@x gives requests away after 150 s, but slow"),
        (fleet.patience, seen(worker("a@x", iris="1", slow="1"), given=STOCK, limits={"iris": 60.0, "slow": 600.0}), "ok", "600 s"),
        (fleet.foreign, seen(IRIS), "ok", "no other"),
        (fleet.foreign, seen(IRIS, foreign=("celery",)), "warning", "queues celery"),
        (configuration.variables, seen(environment=("MUTIRAO_BROKER_URL", "MUTIRAO_REDIS_PORT", "PATH")), "ok", "known"),
        (configuration.variables, seen(environment=("MUTIRAO_BROKER_UL",)), "warning", "MUTIRAO_BROKER_UL"),
        (configuration.variables, seen(environment=("MUTIRAO_QQQQ",)), "warning", "MUTIRAO_QQQQ"),
        (configuration.address, seen(), "ok", LOCAL),
        (configuration.address, seen(here="redis://:pw@127.0.0.1:7000/0"), "warning", "runs here at redis://:***@127.0.0.1:7000/0"),
        (configuration.place, seen(), "ok", "with the requests"),
        (configuration.place, seen(given={"result_url": "redis://:pw@10.0.0.6"}), "warning", ":***@10.0.0.6"),
        (configuration.kept, seen(), "ok", "24 hours"),
        (configuration.kept, seen(given={"result_ttl_s": 60}), "problem", "forgotten while it runs"),
        (configuration.kept, seen(given={"result_ttl_s": 300}, limits={"slow": 600.0}), "problem", "600 s"),
        (configuration.size, seen(), "ok", "64 MiB"),
        (configuration.size, seen(broker=redis(maxmemory=2**27)), "warning", "maxmemory, 134217728"),
    ],
)  # fmt: skip
def test_a_fleet_and_its_settings_are_judged(check, given, level, says):
    """Each hazard of workers, models, queues and settings has its level, says what was found, and unless it is fine, what to do."""
    found = check(given)
    assert (found.level, bool(found.remedy)) == (level, level != "ok")
    assert says in found.found


@pytest.mark.parametrize(
    "check", [server.version, server.role, server.eviction, server.persistence, server.memory, server.connections]
)
def test_a_server_that_tells_nothing_is_unknown(check):
    """Where INFO is forbidden, a check says so and does not guess."""
    found = check(Server(url=LOCAL))
    assert (found.level, found.found) == ("unknown", "not allowed to look (INFO)")


@pytest.mark.parametrize(
    "check",
    [
        fleet.workers,
        fleet.models,
        fleet.versions,
        fleet.waiting,
        fleet.reserved,
        fleet.dead,
        fleet.closed,
        fleet.untold,
        fleet.foreign,
    ],
)
def test_a_fleet_that_may_not_be_seen_is_unknown(check):
    """Where keys are out of sight, a check says so and does not guess."""
    assert check(Snapshot(given=settings.load({}))).level == "unknown"


def test_the_nearest_setting_is_named():
    """A variable that nobody reads is most often a slip of the finger: the remedy names what was meant."""
    assert configuration.variables(seen(environment=("MUTIRAO_RESULT_TTL",))).remedy.endswith(
        "did you mean MUTIRAO_RESULT_TTL_S?"
    )


@pytest.mark.parametrize(("limits", "timeout_s"), [([], 120.0), ([10.0], 120.0), ([600.0, 5.0], 1230.0)])
def test_the_visibility_timeout_follows_the_limits(limits, timeout_s):
    """A worker gives requests away after twice the longest limit and 30 s, and 120 s at least."""
    assert redelivered_after_s(limits) == timeout_s


def test_a_snapshot_of_a_real_server(tmp_path):
    """Reading finds version, options, queues of every priority, other applications' queues, and the models' limits."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "model.toml").write_text("time_limit_s = 600.0\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.toml").write_text("= no toml")
    with RedisServer(password="segredo") as running:
        client = running.client()
        client.lpush("mutirao.iris", "x")
        client.lpush("mutirao.iris\x06\x166", "x", "y")
        client.set("mutirao.odd", "no list")
        client.hset("unacked", "t", "x")
        client.hset("mutirao:reserved:w@h#1.a", "1 mutirao.iris", "x")
        client.hset("mutirao:dead", "t", "x")
        client.sadd("_kombu.binding.celery", "mutirao.iris\x06\x16\x06\x16mutirao.iris", "mail\x06\x16\x06\x16mail")
        client.sadd("_kombu.binding.celery.pidbox", "\x06\x16\x06\x16w@h.celery.pidbox")
        found = snapshot.read(settings.load({}, broker_url=running.url, models=str(tmp_path)), {"MUTIRAO_X": "1"})
    assert found.broker is not None
    assert found.broker.info is not None
    assert found.catalog is not None
    assert (found.broker.config, found.broker.info["aof_enabled"]) == ({"appendfsync": "everysec", "save": ""}, 1)
    assert (found.waiting, found.reserved, found.dead, found.foreign) == ({"iris": 3}, 2, 1, ("mail",))
    assert (found.limits, found.environment, found.catalog.workers) == ({"slow": 600.0}, ("MUTIRAO_X",), ())
    assert abs(found.broker.ahead_s) < 1
    assert "segredo" not in str(msgspec.structs.replace(found, given=None))


def test_a_user_who_may_see_little_gets_a_snapshot_all_the_same():
    """Where an ACL forbids INFO, CONFIG, SCAN and the catalogue, those parts are None, and nothing fails."""
    with RedisServer() as running:
        running.client().execute_command(
            "ACL", "SETUSER", "narrow", "on", ">pw", "~celery-task-meta-*", "&*", "+time", "+ping", "+select"
        )
        url = running.url.replace("redis://", "redis://narrow:pw@")
        found = snapshot.read(settings.load({}, broker_url=url, result_url=url.removesuffix("/0") + "/1"), {})
    for each in found.servers:
        assert (each.info, each.config) == (None, None)
    assert len(found.servers) == 2
    assert (found.catalog, found.waiting, found.reserved, found.dead, found.foreign) == (None,) * 5
