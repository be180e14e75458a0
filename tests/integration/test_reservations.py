"""The scripts of the transport on a real Redis: taking, keeping, adopting, giving back and ending requests."""

import base64
import json
import time
from typing import Any

import brokers
import msgspec
import numpy as np
import pytest
import waiting
from servers import RedisServer

from mutirao import Client, queues, settings
from mutirao.dead import Letter
from mutirao.messages import JobRecord
from mutirao_worker.commit import Commit, Ending, Run
from mutirao_worker.request import of_envelope
from mutirao_worker.transport.reservations import Reservations, Room

pytestmark = brokers.redis_only

QUEUE, OTHER = queues.queue("iris"), queues.queue("forest")
ROOM = Room(100, 0)
GARBAGE = [b"", b"\x00\xff\xfe", b"[]", b"42", b"{}", b'{"headers":{}}', b'{"headers":{"id":7}}', b'"id": "x', b"\n\n"]


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(server):
    client = server.client()
    client.flushall()
    return client


@pytest.fixture
def worker(server, redis):
    """Make a worker's hold on requests: worker("w1", lease_s=1); what it found when it first looked is worker.first."""
    made = []

    def make(name, *names, **given):
        found = Reservations(settings.load({}, broker_url=server.url, **given), f"{name}@host")
        made.append(found)
        make.first = found.tend(names or [QUEUE])  # type: ignore[attr-defined]
        return found

    yield make
    for each in made:
        each.close()


@pytest.fixture
def submit(server, redis):
    """Submit as our own client does: submit("a", "b", priority="low")."""
    with Client(server.url, check=False) as client:

        def send(*ids, model="iris", **asked):
            client.submit_many(model, np.ones((len(ids), 4)), ids=list(ids), **asked)

        yield send


def reserve(worker, count=100, *, free=1, ahead=0, names=(QUEUE,)):
    call = worker.reserving({name: Room(count, ahead) for name in names}, free)
    return worker.taken(worker.scripts.call(*call))


def ids(taken):
    return [json.loads(envelope)["headers"]["id"] for _, _, envelope in taken.requests]


def queued(redis, model="iris", step=3):
    """The ids in a queue, the next to be served first."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(redis.lrange(queues.queue_key(model, step), 0, -1))]


def record(redis, id):
    """A record as it is, and as it must be laid out."""
    raw = redis.get(queues.record_key(id)).decode()
    assert raw.startswith('{"status":"'), raw
    assert raw.endswith("}}"), raw
    document = json.loads(raw)
    assert list(document)[-1] == "job", raw
    names = list(document["job"])
    if "started_at" in names:
        base = names[: names.index("started_at")]
        assert not {"worker", "version", "attempts", "place", "batch", "finished_at"} & set(base), raw
    msgspec.json.decode(raw, type=JobRecord)
    return document


def requests(taken):
    nobody: Any = None  # only what stands in an envelope is asked for
    return [of_envelope(nobody, tag, key, envelope) for tag, key, envelope in taken.requests]


def end(worker, server, found, status="SUCCESS", **more):
    commit = Commit(settings.load({}, broker_url=server.url), worker)
    run = Run("iris", "1", "w@host", 1.0, 2.0, len(found))
    said, _ = commit.end(run, [Ending(each, status, b'{"id":"x"}', **more) for each in found])
    return said


def age(redis, worker, seconds=60):
    """Have a worker's lease lapse."""
    redis.zincrby(queues.LEASES, -seconds, worker.identity)


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
    gone.leave([QUEUE])
    submit(*(f"i{n}" for n in range(8)))
    assert len(ids(reserve(live, 8, free=1))) == 8


def test_leases(worker, submit, redis):
    """A lease is renewed by reserving and by tending; once lapsed, its holder hears of it."""
    held = worker("w", lease_s=1)
    before = redis.zscore(queues.LEASES, held.identity)
    reserve(held)
    assert redis.zscore(queues.LEASES, held.identity) > before
    assert not held.tend([QUEUE]).lapsed
    waiting.until(lambda: redis.zscore(queues.LEASES, held.identity) < redis.time()[0])
    assert held.tend([QUEUE]).lapsed
    assert not held.tend([QUEUE]).lapsed
    age(redis, held)
    worker("other")
    assert reserve(held).lapsed
    assert not reserve(held).lapsed


def test_adopted(worker, submit, redis):
    """What a lost worker held goes to the head of its line, oldest first, with an attempt counted and the history told."""
    submit("a", "b", "c")
    lost, other = worker("w1"), worker("w2")
    assert ids(reserve(lost, 3)) == ["a", "b", "c"]
    submit("d")
    assert other.tend([QUEUE]).adopted == 0
    age(redis, lost)
    assert other.tend([QUEUE]).adopted == 3
    assert queued(redis) == ["a", "b", "c", "d"]
    taken = reserve(other)
    assert [json.loads(raw)["headers"].get("attempts", 0) for _, _, raw in taken.requests] == [1, 1, 1, 0]
    assert [each.deliveries for each in requests(taken)] == [2, 2, 2, 1]
    document = record(redis, "a")
    assert document["status"] == "QUEUED"
    assert [(each["worker"], each["how"]) for each in document["job"]["history"]] == [("w1@host", "worker lost")]
    assert not redis.exists(lost.key)
    assert redis.zscore(queues.LEASES, lost.identity) is None


def test_stock_envelope_is_adopted(worker, redis):
    """An envelope of a stock producer, with spaces and its own order of keys, has its attempts counted too."""
    headers = {"lang": "py", "task": queues.TASK, "id": "stock", "root_id": "stock"}
    redis.lpush(
        QUEUE, json.dumps({"body": "W10=", "content-type": "application/json", "headers": headers, "properties": {}})
    )
    for deliveries in (1, 2, 3):
        held = worker(f"w{deliveries}")
        (found,) = requests(reserve(held))
        assert (found.id, found.deliveries) == ("stock", deliveries)
        age(redis, held)
        worker("tender")


def test_given_up(worker, submit, redis):
    """After the last delivery a request fails, with a dead letter, and is delivered no more."""
    submit("a")
    for place in range(3):
        lost = worker(f"w{place}", max_deliveries=3)
        assert ids(reserve(lost)) == ["a"]
        age(redis, lost)
        worker(f"o{place}", max_deliveries=3)
        assert len(worker.first.given_up) == (place == 2)
    assert queued(redis) == []
    document = record(redis, "a")
    assert document["status"] == "FAILURE"
    assert document["result"]["exc_type"] == "WorkerLostError"
    assert len(document["job"]["history"]) == 2
    letter = msgspec.json.decode(redis.hget(queues.DEAD, "a"), type=Letter)
    assert (letter.id, letter.task_id, letter.model, letter.reason, letter.attempts) == (
        "a",
        "a",
        "iris",
        "worker lost",
        3,
    )
    assert json.loads(letter.envelope)["headers"]["id"] == "a"
    assert redis.zscore(queues.DEAD_INDEX, "a") == pytest.approx(letter.at, abs=1)


def test_the_first_end_wins(worker, submit, redis, server):
    """A request that two workers computed has one result: that of the first, whoever it was; the second is told."""
    submit("a")
    slow, quick = worker("w1"), worker("w2")
    first = requests(reserve(slow))
    age(redis, slow)
    quick.tend([QUEUE])
    second = requests(reserve(quick))
    assert end(quick, server, second) == ["1"]
    kept = redis.get(queues.record_key("a"))
    assert end(slow, server, first) == ["SUCCESS"]
    assert redis.get(queues.record_key("a")) == kept
    assert not redis.exists(slow.key, quick.key)
    document = record(redis, "a")
    assert (document["status"], document["job"]["attempts"], document["job"]["batch"]) == ("SUCCESS", 2, 1)
    assert document["job"]["history"][0]["how"] == "worker lost"


def test_adopted_but_answered_all_the_same(worker, submit, redis, server):
    """Where the worker that was taken for lost ends its request first, the adopted envelope is taken off the queue unrun."""
    submit("a")
    slow, quick = worker("w1"), worker("w2")
    found = requests(reserve(slow))
    age(redis, slow)
    quick.tend([QUEUE])
    assert end(slow, server, found) == ["1"]
    taken = reserve(quick)
    assert (taken.requests, [why for _, _, why in taken.gone]) == ([], ["SUCCESS"])
    assert queued(redis) == []
    assert not redis.exists(quick.key)


def test_one_batch_with_the_same_request_twice(worker, submit, redis, server):
    """A request that stands in one batch twice, as after a duplicate delivery, is ended once."""
    submit("a")
    redis.lpush(queues.queue_key("iris", 3), redis.lindex(queues.queue_key("iris", 3), 0))
    held = worker("w")
    found = requests(reserve(held))
    assert len(found) == 2
    assert end(held, server, found) == ["1", "SUCCESS"]
    assert not redis.exists(held.key)


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
    commit = Commit(settings.load({}, broker_url=server.url), held)
    assert commit.vet(found) == ["", "", ""]
    with Client(server.url, check=False) as client:
        assert client.cancel("a")
    waiting.until(lambda: commit.vet(found) == ["REVOKED", "", "expired"])
    before = record(redis, "b")
    commit.started(Run("iris", "1", "w@host", 5.0, 0.0, 2), found)
    document = record(redis, "b")
    assert document["status"] == "STARTED"
    assert before["job"].items() <= document["job"].items()
    assert (document["job"]["started_at"], document["job"]["batch"]) == (5.0, 2)
    assert [record(redis, id)["status"] for id in ("a", "late")] == ["REVOKED"] * 2


def test_given_back(worker, submit, redis, server):
    """What is given back stands at the head of its line, oldest first, no attempt counted, and its record is queued again."""
    submit(*"abcd")
    held = worker("w")
    taken = reserve(held, 4)
    submit("e")
    Commit(settings.load({}, broker_url=server.url), held).started(Run("iris", "1", "w", 1.0, 0.0, 2), requests(taken))
    assert record(redis, "b")["status"] == "STARTED"
    assert held.give_back([taken.requests[2][0], taken.requests[1][0]]) == 2
    assert queued(redis) == ["b", "c", "e"]
    assert held.give_back([taken.requests[0][0]], all_but=True) == 1
    assert queued(redis) == ["d", "b", "c", "e"]
    assert redis.hlen(held.key) == 1
    document = record(redis, "b")
    assert (document["status"], document["job"]["history"][0]["how"]) == ("QUEUED", "given back")
    assert "started_at" not in document["job"]
    assert b'"attempts"' not in b"".join(redis.lrange(queues.queue_key("iris", 3), 0, -1))
    assert redis.ttl(queues.record_key("b")) > 0


def test_layout_survives_every_script(worker, submit, redis, server):
    """Through taking, running, being lost, given back and ended, a record keeps its form and all that it said at first."""
    submit("a")
    base = record(redis, "a")["job"]
    for place in range(3):
        held = worker(f"w{place}")
        found = requests(reserve(held))
        Commit(settings.load({}, broker_url=server.url), held).started(Run("iris", "1", "w", 1.0, 0.0, 1), found)
        assert base.items() <= record(redis, "a")["job"].items()
        if place == 1:
            held.give_back([found[0].tag])
        else:
            age(redis, held)
            worker("tender")
        assert len(record(redis, "a")["job"]["history"]) == place + 1
    held = worker("last")
    assert end(held, server, requests(reserve(held))) == ["1"]
    document = record(redis, "a")
    assert base.items() <= document["job"].items()
    assert [each["how"] for each in document["job"]["history"]] == ["worker lost", "given back", "worker lost"]
    assert document["job"]["attempts"] == 3


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
def test_garbage(worker, redis, garbage):
    """Whatever lies in a queue is taken, given back and adopted as it is, byte for byte, and breaks no script."""
    redis.lpush(QUEUE, garbage)
    for place in range(2):
        held = worker(f"w{place}")
        ((tag, key, envelope),) = reserve(held).requests
        assert (key, envelope) == (QUEUE.encode(), garbage) or b'"attempts"' in envelope
        if place == 0:
            assert held.give_back([tag]) == 1
        else:
            age(redis, held)
            worker("tender")
            assert worker.first.adopted == 1
    assert redis.llen(QUEUE) == 1


def test_unreadable_bytes_are_given_up(worker, redis):
    """An envelope that is no text, but has headers, is given up after its deliveries like others, and its letter can be read."""
    redis.lpush(QUEUE, b'{"headers":{"id":"odd","task":"x"},"body":"\x00\xff\xfe"}')
    for place in range(2):
        held = worker(f"w{place}", max_deliveries=2)
        reserve(held)
        age(redis, held)
        worker(f"o{place}", max_deliveries=2)
    (raw,) = redis.hvals(queues.DEAD)
    letter = msgspec.json.decode(raw, type=Letter)
    assert (letter.id, letter.reason, letter.envelope_base64) == ("odd", "worker lost", True)
    assert base64.b64decode(letter.envelope).endswith(b'"body":"\x00\xff\xfe"}')


def test_bells_are_bounded(worker, submit, redis):
    """However often it rings, a bell holds at most eight tokens, and none once its queue is empty."""
    held = worker("w")
    for place in range(20):
        submit(f"a{place}")
        reserve(held, 1)
        submit(f"b{place}")
        held.give_back([], all_but=True)
        assert redis.llen(queues.bell_key(QUEUE)) <= 8
    while reserve(held).left:
        pass
    assert not redis.exists(queues.bell_key(QUEUE))


def test_a_million_is_as_quick_as_a_hundred(worker, redis):
    """Taking costs the same from a long queue as from a short one: it counts commands by what it takes."""
    envelope = b'{"headers":{"id":"x%d","task":"mutirao.predict"},"properties":{},"body":"W10="}'
    redis.lpush(QUEUE, *(envelope % number for number in range(50_000)))
    held = worker("w")
    before = redis.info("commandstats").get("cmdstat_rpop", {}).get("calls", 0)
    assert len(reserve(held, 100).requests) == 100
    assert redis.info("commandstats")["cmdstat_rpop"]["calls"] - before == 1


def test_leaving(worker, submit, redis):
    """Who leaves with empty hands is on no list; who still holds something leaves a lapsed lease, and others adopt it at once."""
    submit("a")
    empty, full = worker("w1"), worker("w2")
    reserve(full)
    empty.leave([QUEUE])
    full.leave([QUEUE])
    assert redis.zrange(queues.LEASES, 0, -1) == [full.identity.encode()]
    assert not redis.exists(queues.SLOTS, queues.consumers_key(QUEUE))
    worker("w3")
    assert worker.first.adopted == 1
