"""The scripts of the transport on a real Redis: who takes how many requests, and in which order."""

import time
from typing import Any

from redis import exceptions

from mutirao import Client, keyspace, settings
from mutirao.redisdb.scripts import SCRIPTS
from mutirao_worker.engine.job_records import BatchRun, JobRecords
from mutirao_worker.engine.leases import Demand
from support import brokers, waiting
from support.reservations import OTHER, QUEUE, age, ids, queued, record, requests, reserve

pytestmark = brokers.redis_only


def test_urgent_first(worker, submit):
    """Of several priorities the most urgent is taken first, oldest first."""
    submit("c1", "c2", priority="low")
    submit("b1", "b2", priority="normal")
    submit("a1", "a2", priority="high")
    taken = reserve(worker("w"), 4)
    assert ids(taken) == ["a1", "a2", "b1", "b2"]
    assert taken.left
    assert [tag for tag, _, _ in taken.requests] == sorted(tag for tag, _, _ in taken.requests)


def test_nobody_starves(worker, submit):
    """Each lower priority gets an eighth of what is taken, and every eighth time the order is the other way round."""
    submit(*(f"a{n}" for n in range(400)), priority="high")
    submit(*(f"c{n}" for n in range(100)), priority="low")
    held = worker("w")
    assert sum(id.startswith("c") for id in ids(reserve(held, 64))) == 8
    turns = [ids(reserve(held, 4)) for _ in range(8)]
    assert sum(all(id.startswith("c") for id in turn) for turn in turns) == 1
    assert sum(all(id.startswith("a") for id in turn) for turn in turns) == 7


def test_every_queue_gets_something(worker, submit):
    """What a first queue leaves of the room goes to the next; which is first the caller rotates."""
    submit(*(f"i{n}" for n in range(20)))
    submit(*(f"f{n}" for n in range(20)), model="forest")
    held = worker("w", QUEUE, OTHER)
    taken = reserve(held, 5, free=1, ahead=5, names=[QUEUE, OTHER])
    assert sorted({id[0] for id in ids(taken)}) == ["f", "i"]
    assert ids(reserve(held, 5, free=1, names=[OTHER, QUEUE]))[0].startswith("f")


def test_a_share_not_a_grab(worker, submit):
    """What idle workers could start at once is left to them; once they are full the rest is taken ahead, in shares."""
    submit(*(f"i{n}" for n in range(8)))
    first, second = worker("w1"), worker("w2")
    reserve(second, 0, free=1)  # nothing for it, but its slot is known to be free
    assert ids(reserve(first, 8, free=1, ahead=8)) == ["i0", "i1", "i2", "i3"]
    assert ids(reserve(second, 8, free=1, ahead=8)) == ["i4", "i5", "i6", "i7"]
    submit(*(f"j{n}" for n in range(8)))
    assert ids(reserve(first, 8, free=0, ahead=8)) == ["j0", "j1", "j2", "j3"]


def test_a_lost_worker_is_not_counted(worker, submit, redis):
    """A worker whose lease has lapsed, or that has left, gets no share."""
    lost, gone, live = worker("w1"), worker("w2"), worker("w3")
    for each in (lost, gone):
        reserve(each, 0, free=4)
    age(redis, lost)
    gone.deregister()
    submit(*(f"i{n}" for n in range(8)))
    assert len(ids(reserve(live, 8, free=1))) == 8


def test_cancelled_and_expired_are_not_taken(worker, submit, redis, server):
    """What was cancelled or has expired while it waited is taken off the queue, and never given to the model."""
    submit("a", "b")
    submit("late", expires_s=0.05)
    with Client(server.url, check=False) as client:
        assert client.cancel("a")
    time.sleep(0.1)  # the deadline itself
    taken = reserve(worker("w"))
    assert ids(taken) == ["b"]
    assert sorted(why for _, _, why in taken.gone) == ["REVOKED", "expired"]
    assert record(redis, "late")["result"]["exc_message"] == ["expired"]
    assert record(redis, "a")["status"] == "REVOKED"


def test_vet_and_started(worker, submit, redis, server):
    """A last look finds what was cancelled or has expired since it was taken; what runs is said to run, and stays as it was otherwise."""
    submit("a", "b")
    submit("late", expires_s=0.3)
    held = worker("w")
    found = requests(reserve(held))
    records = JobRecords(settings.load({}, broker_url=server.url), held)
    assert records.prerun_check(found) == ["", "", ""]
    with Client(server.url, check=False) as client:
        assert client.cancel("a")
    waiting.until(lambda: records.prerun_check(found) == ["REVOKED", "", "expired"])
    before = record(redis, "b")
    records.mark_started(BatchRun("iris", "1", "w@host", 5.0, 0.0, 2), found)
    document = record(redis, "b")
    assert document["status"] == "STARTED"
    assert before["job"].items() <= document["job"].items()
    assert (document["job"]["started_at"], document["job"]["batch"]) == (5.0, 2)
    assert [record(redis, id)["status"] for id in ("a", "late")] == ["REVOKED"] * 2


def test_bells_are_bounded(worker, submit, redis):
    """However often it rings, a bell holds at most eight tokens, and none once its queue is empty."""
    held = worker("w")
    for place in range(20):
        submit(f"a{place}")
        reserve(held, 1)
        submit(f"b{place}")
        held.requeue([], all_but=True)
        assert redis.llen(keyspace.wakeup_key(QUEUE)) <= 8
    while reserve(held).left:
        pass
    assert not redis.exists(keyspace.wakeup_key(QUEUE))


def test_a_million_is_as_quick_as_a_hundred(worker, redis):
    """Taking costs the same from a long queue as from a short one: it counts commands by what it takes."""
    envelope = b'{"headers":{"id":"x%d","task":"mutirao.predict"},"properties":{},"body":"W10="}'
    redis.lpush(QUEUE, *(envelope % number for number in range(50_000)))
    held = worker("w")
    before = redis.info("commandstats").get("cmdstat_rpop", {}).get("calls", 0)
    assert len(reserve(held, 100).requests) == 100
    assert redis.info("commandstats")["cmdstat_rpop"]["calls"] - before == 1


def test_posted_calls_are_heard_in_order_and_run_once(worker, submit, redis):
    """Of calls that were posted, those that Redis does not know run again and the others do not; replies come in order."""
    submit("a", "b")
    held = worker("w")
    heard: list[Any] = []
    redis.script_flush()
    held.scripts.call("idle_slots", (keyspace.LEASES, keyspace.SLOTS), (held.identity, keyspace.KOMBU_SEPARATOR))
    redis.script_flush()
    held.scripts.client.script_load(SCRIPTS["reserve"])
    leave = ("deregister", (keyspace.LEASES, keyspace.SLOTS, "nobody"), ("nobody",))
    call = held.reserve_call({QUEUE: Demand(5, 0)}, 1)
    held.scripts.post([leave, call], heard.append)
    held.scripts.post([leave], heard.append)
    held.scripts.read_replies(wait=True)
    assert [len(replies) for replies in heard] == [2, 1]
    assert ids(held.parse_reserved(call, heard[0][1])) == ["a", "b"]
    assert redis.hlen(held.key) == 2
    assert not held.scripts.pending


def test_a_posted_call_that_is_never_answered(worker, server):
    """Once it is overdue, who posted it is told so, and not before; the next call goes over another connection."""
    held = worker("w")
    heard: list[Any] = []
    leave = ("deregister", (keyspace.LEASES, keyspace.SLOTS, "nobody"), ("nobody",))
    held.scripts.post([leave], heard.append)
    held.scripts.read_replies(wait=True)
    server.pause()
    try:
        held.scripts.post([leave], heard.append)
        held.scripts.expire(60.0)
        assert heard == [[1]]
        while (
            len(heard) == 1
        ):  # it is overdue once what was sent has had its time on a slow link, less than a millisecond
            held.scripts.expire(0.0)
    finally:
        server.resume()
    assert [type(error) for error in heard[1:]] == [exceptions.TimeoutError]
    assert not held.scripts.pending
    held.scripts.post([leave], heard.append)
    held.scripts.read_replies(wait=True)
    assert heard[2:] == [[1]]


def test_a_call_that_was_sent_early(worker, submit, redis):
    """A call that follows a bell takes nothing where nothing waits or where its worker has left, and else what any other takes."""
    held = worker("w")
    early = held.reserve_call({QUEUE: Demand(5, 0)}, 1, late=True)
    assert held.scripts.call(*early) is None
    submit("a", "b")
    assert ids(held.parse_reserved(early, held.scripts.call(*early))) == ["a", "b"]
    held.requeue([], all_but=True)
    held.deregister()
    assert held.scripts.call(*held.reserve_call({QUEUE: Demand(5, 0)}, 1, late=True)) is None
    assert redis.zscore(keyspace.LEASES, held.identity) is None
    assert queued(redis) == ["a", "b"]
