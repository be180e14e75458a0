"""Queues that somebody empties: jobs that are purged end as cancelled, and an id whose request has vanished is queued again."""

import os
import subprocess

import pytest

from mutirao import keyspace, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.doctor import orphan_checks, snapshot
from mutirao.doctor.orphan_checks import Orphans
from mutirao.wire.messages import JobRecord
from support import brokers, sample_models
from support.reservations import age, end, ids, queued, record, requests, reserve
from support.worker_process import COMMANDS

NORMAL = keyspace.queue_key("iris", 3)


def status(redis, *names):
    return [record(redis, name)["status"] for name in names]


@brokers.redis_only
def test_a_known_id_that_has_vanished_is_queued_again(worker, submit, redis, server):
    """After a list was deleted, the ids that it held are queued at their next submit, once; what waits, is held or has ended is not."""
    submit("done", "held", "lost", "later", "never")
    hold = worker("w")
    found = requests(reserve(hold, 2))
    assert end(hold, server, found[:1]) == ["1"]
    redis.delete(NORMAL)
    submit("lost")
    assert queued(redis) == ["lost"]
    submit("done", "held", "lost")
    assert queued(redis) == ["lost"]
    submit("new", "later")  # other requests stand where it stood
    assert queued(redis) == ["lost", "new", "later"]
    for _ in range(2):
        submit("done", "held", "lost", "new", "later")
    assert queued(redis) == ["lost", "new", "later"]
    assert ids(reserve(worker("other"), 3)) == ["lost", "new", "later"]
    submit("lost", "new", "later", "held", "done")
    assert queued(redis) == []
    submit("never")  # the numbers of others have passed its own
    assert queued(redis) == ["never"]
    assert status(redis, "done", "held", "lost", "later", "never") == ["SUCCESS", *["QUEUED"] * 4]


@brokers.redis_only
def test_doctor_finds_what_has_vanished(worker, submit, redis, server):
    """Jobs whose queue was emptied by hand are named by doctor, and no others: those that wait, are held, have ended, or were sent again."""
    given = settings.load({}, broker_url=server.url)
    submit("held", "done", "lost", "again")
    hold = worker("w")
    found = requests(reserve(hold, 2))
    assert end(hold, server, found[1:]) == ["1"]
    assert orphan_checks.find(redis, given) == Orphans((), 4, True)
    redis.delete(NORMAL)
    submit("waits")
    assert sorted(orphan_checks.find(redis, given).ids) == ["again", "lost"]
    submit("again")
    assert snapshot.read(given, {}).orphans == Orphans(("lost",), 5, True)


@brokers.redis_only
def test_what_was_given_back_or_adopted_is_still_there(worker, submit, redis):
    """However requests came back to the head of their list, and in whatever list they wait, sending their ids again queues nothing."""
    names = [f"n{place}" for place in range(30)]
    submit(*names)
    submit("urgent", priority="high")
    first, second = worker("first"), worker("second")
    taken = reserve(first, 11)
    assert len(reserve(second, 10).requests) == 10
    first.requeue([tag for tag, _, _ in taken.requests][3:8])
    age(redis, second)
    worker("tender")
    before = queued(redis)
    held = set(ids(taken)) - set(before)
    submit(*[name for name in names if name not in held])
    submit("urgent", priority="high")
    submit("urgent")
    assert queued(redis) == before


@pytest.mark.skipif(brokers.AMQP, reason="is about the engine's transport")
def test_purged_jobs_end_as_cancelled(submit, redis, server, tmp_path):
    """`celery purge` ends what waited in a model's queue, a tenant's too, as cancelled, and tells who waits; what came after is served."""
    from mutirao.client.redis_backend import RedisBackend
    from mutirao.redisdb.drivers import RedisDriver

    repository = sample_models.repository(tmp_path / "models", "iris")
    submit("a", "b")
    submit("c", priority="low")
    given = settings.load({}, broker_url=server.url)
    driver, core = RedisDriver(given), RedisBackend(given, check=False)
    driver.run(core.submit(SubmitOptions(model="iris", tenant="crm"), [[[1.0] * 4]], ["d"]))
    env = {**os.environ, "MUTIRAO_BROKER_URL": server.url, "MUTIRAO_MODELS": str(repository.root)}
    command = [*COMMANDS["celery"][:4], "purge", "-f"]
    said = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (said.returncode, "4 messages" in said.stdout) == (0, True), said
    records: list[JobRecord | None] = driver.run(core.records(["a", "b", "c", "d"]))
    assert [found.state for found in records if found] == ["cancelled"] * 4
    driver.close()
    submit("e")
    assert queued(redis) == ["e"]
    submit("a")
    assert queued(redis) == ["e"]
