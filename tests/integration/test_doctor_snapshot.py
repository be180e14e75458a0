"""What doctor reads of a real Redis."""

import msgspec

from mutirao import settings
from mutirao.doctor import snapshot
from support import brokers
from support.redis_servers import RedisServer


@brokers.redis_only
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
    assert found.registry is not None
    assert (found.broker.config, found.broker.info["aof_enabled"]) == ({"appendfsync": "everysec", "save": ""}, 1)
    assert (found.waiting, found.reserved, found.dead, found.foreign) == ({"iris": 3}, 2, 1, ("mail",))
    assert (found.limits, found.environment, found.registry.workers) == ({"slow": 600.0}, ("MUTIRAO_X",), ())
    assert abs(found.broker.ahead_s) < 1
    assert "segredo" not in str(msgspec.structs.replace(found, settings=None))


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
    assert (found.registry, found.waiting, found.reserved, found.dead, found.foreign) == (None,) * 5
