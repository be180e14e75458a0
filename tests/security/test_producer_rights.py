"""What Redis lets a producer do, by the rules that are deployed: all that a client does, and nothing beside it."""

from pathlib import Path

import numpy as np
import pytest
import redis

from mutirao import Client, JobCancelled, queues

RULES = Path(__file__).parents[2] / "deploy/redis/acl/producer"


def test_a_producer_may_do_what_a_client_does(redis_server):
    """As a user with the producer's rights: submit, wait, cancel, large tensors; but not take requests or what workers hold."""
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
        assert len(redis_server.client().pubsub_channels(queues.reply_channel("*"))) == 1
        assert all(job.cancel() for job in [*jobs, large])
        for job in client.as_completed([*jobs, large], timeout=10):
            with pytest.raises(JobCancelled):
                job.result(0)
    with redis.Redis.from_url(url) as asking:
        for command in (
            ("RPOP", queues.queue_key("iris", 3)),
            ("HGETALL", queues.reserved_key("worker")),
            ("BRPOP", queues.bell_key("mutirao.iris"), 1),
            ("PUBLISH", "mutirao:other", "x"),
            ("HGETALL", queues.DEAD),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                asking.execute_command(*command)
