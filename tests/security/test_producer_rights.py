"""What Redis lets a producer do, by the rules that are deployed: all that a client does, and nothing beside it."""

from pathlib import Path

import numpy as np
import pytest
import redis

from mutirao import Client, JobCancelled, keyspace, queue_stats, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.client.redis_backend import RedisBackend
from mutirao.queue_stats import QueuePosition
from mutirao.redisdb.drivers import RedisDriver

RULES = Path(__file__).parents[2] / "deploy/redis/acl/producer"


def test_a_producer_may_do_what_a_client_does(redis_server):
    """As a user with the producer's rights: submit, wait, cancel, large tensors, see what waits; but not take requests or what workers hold."""
    if redis_server.program.version < (7,):
        pytest.skip("this redis-server knows no rights to read alone (%R), which came with Redis 7")
    rules = [line for line in RULES.read_text().splitlines() if line and not line.startswith("#")]
    redis_server.client().execute_command("ACL", "SETUSER", "producer", "on", ">secret", *rules)
    url = redis_server.url.replace("redis://", "redis://producer:secret@")
    with Client(url, check=False) as client:
        jobs = client.submit_many("iris", np.ones((100, 4)))
        large = client.submit("iris", np.ones((4096, 4)))
        with pytest.raises(TimeoutError):
            large.result(0.3)
        assert len(redis_server.client().pubsub_channels(keyspace.reply_channel("*"))) == 1
        assert all(job.cancel() for job in [*jobs, large])
        for job in client.as_completed([*jobs, large], timeout=10):
            with pytest.raises(JobCancelled):
                job.result(0)
    given = settings.load({}, broker_url=url)
    driver, core = RedisDriver(given), RedisBackend(given, check=False)
    ask = SubmitOptions(model="iris", tenant="crm", webhook="https://crm.example/hook")
    driver.run(core.submit(ask, [np.ones((2, 4))], ["a"]))
    assert driver.run(queue_stats.position(core, driver.run(core.record("a")))) == QueuePosition(0, 0, None)
    assert [each.rows for each in driver.run(queue_stats.depths(core, ["iris"])) if each.tenant] == [2]
    assert driver.run(core.cancel("a"))
    assert redis_server.client().llen(keyspace.WEBHOOKS) == 1
    driver.close()
    with redis.Redis.from_url(url) as asking:
        for command in (
            ("RPOP", keyspace.queue_key("iris", 3)),
            ("HGETALL", keyspace.reserved_key("worker")),
            ("BRPOP", keyspace.wakeup_key("mutirao.iris"), 1),
            ("PUBLISH", "mutirao:other", "x"),
            ("HGETALL", keyspace.DEAD),
            ("LINDEX", keyspace.WEBHOOKS, 0),
            ("ZADD", keyspace.LEASES, 9e9, "nobody"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                asking.execute_command(*command)
