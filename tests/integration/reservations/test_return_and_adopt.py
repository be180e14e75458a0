"""The scripts of the transport on a real Redis: what was taken is given back or adopted, and ends once."""

import base64
import json
import os
import re
import signal
import threading

import msgspec
import pytest

from mutirao import keyspace, settings
from mutirao.dead_letters import DeadLetter
from mutirao_worker.engine.job_records import BatchRun, JobRecords
from support import brokers, waiting
from support.reservations import QUEUE, age, end, ids, queued, record, requests, reserve

pytestmark = brokers.redis_only


GARBAGE = [b"", b"\x00\xff\xfe", b"[]", b"42", b"{}", b'{"headers":{}}', b'{"headers":{"id":7}}', b'"id": "x', b"\n\n"]


@pytest.fixture
def overtaken(worker, submit, redis):
    """A slow worker, the request in its hands, and a quick one that has adopted it, for the slow one's lease had lapsed."""
    submit("a")
    slow, quick = worker("w1"), worker("w2")
    found = requests(reserve(slow))
    age(redis, slow)
    quick.renew_and_adopt([QUEUE])
    return slow, found, quick


def test_leases(worker, submit, redis):
    """A lease is renewed by reserving and by tending; once it has lapsed and was taken, its holder hears of it, either way."""
    held, other = worker("w", lease_s=1), worker("other")
    before = redis.zscore(keyspace.LEASES, held.identity)
    reserve(held)
    assert redis.zscore(keyspace.LEASES, held.identity) > before
    assert not held.renew_and_adopt([QUEUE]).lapsed
    waiting.until(lambda: redis.zscore(keyspace.LEASES, held.identity) < redis.time()[0])
    other.renew_and_adopt([QUEUE])
    assert held.renew_and_adopt([QUEUE]).lapsed
    assert not held.renew_and_adopt([QUEUE]).lapsed
    age(redis, held)
    other.renew_and_adopt([QUEUE])
    assert reserve(held).lapsed
    assert not reserve(held).lapsed


@pytest.mark.parametrize("look", [lambda held: held.renew_and_adopt([QUEUE]), reserve])
def test_lapsed_but_not_taken(worker, submit, redis, look):
    """What still stands under a lease that has lapsed is its holder's: it hears nothing, and goes on with it."""
    submit("a", "b")
    held, other = worker("w"), worker("other")
    assert ids(reserve(held)) == ["a", "b"]
    age(redis, held)
    assert not look(held).lapsed
    assert other.renew_and_adopt([QUEUE]).adopted == 0
    assert redis.hlen(held.key) == 2


def test_adopted(worker, submit, redis):
    """What a lost worker held goes to the head of its line, oldest first, with an attempt counted and the history told."""
    submit("a", "b", "c")
    lost, other = worker("w1"), worker("w2")
    assert ids(reserve(lost, 3)) == ["a", "b", "c"]
    submit("d")
    assert other.renew_and_adopt([QUEUE]).adopted == 0
    age(redis, lost)
    assert other.renew_and_adopt([QUEUE]).adopted == 3
    assert queued(redis) == ["a", "b", "c", "d"]
    taken = reserve(other)
    assert [json.loads(raw)["headers"].get("attempts", 0) for _, _, raw in taken.requests] == [1, 1, 1, 0]
    assert [each.deliveries for each in requests(taken)] == [2, 2, 2, 1]
    document = record(redis, "a")
    assert document["status"] == "QUEUED"
    assert [(each["worker"], each["how"]) for each in document["job"]["history"]] == [("w1@host", "worker lost")]
    assert not redis.exists(lost.key)
    assert redis.zscore(keyspace.LEASES, lost.identity) is None


def test_stock_envelope_is_adopted(worker, redis):
    """An envelope of a stock producer, with spaces and its own order of keys, has its attempts counted too."""
    headers = {"lang": "py", "task": keyspace.TASK, "id": "stock", "root_id": "stock"}
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
    letter = msgspec.json.decode(redis.hget(keyspace.DEAD, "a"), type=DeadLetter)
    assert (letter.id, letter.task_id, letter.model, letter.reason, letter.attempts) == (
        "a",
        "a",
        "iris",
        "worker lost",
        3,
    )
    assert json.loads(letter.envelope)["headers"]["id"] == "a"
    assert redis.zscore(keyspace.DEAD_INDEX, "a") == pytest.approx(letter.at, abs=1)


def test_the_first_end_wins(overtaken, redis, server):
    """A request that two workers computed has one result: that of the first, whoever it was; the second is told."""
    slow, first, quick = overtaken
    second = requests(reserve(quick))
    assert end(quick, server, second) == ["1"]
    kept = redis.get(keyspace.record_key("a"))
    assert end(slow, server, first) == ["SUCCESS"]
    assert redis.get(keyspace.record_key("a")) == kept
    assert not redis.exists(slow.key, quick.key)
    document = record(redis, "a")
    assert (document["status"], document["job"]["attempts"], document["job"]["batch"]) == ("SUCCESS", 2, 1)
    assert document["job"]["history"][0]["how"] == "worker lost"


def test_adopted_but_answered_all_the_same(overtaken, redis, server):
    """Where the worker that was taken for lost ends its request first, the adopted envelope is taken off the queue unrun."""
    slow, found, quick = overtaken
    assert end(slow, server, found) == ["1"]
    taken = reserve(quick)
    assert (taken.requests, [why for _, _, why in taken.gone]) == ([], ["SUCCESS"])
    assert queued(redis) == []
    assert not redis.exists(quick.key)


def test_one_batch_with_the_same_request_twice(worker, submit, redis, server):
    """A request that stands in one batch twice, as after a duplicate delivery, is ended once."""
    submit("a")
    redis.lpush(keyspace.queue_key("iris", 3), redis.lindex(keyspace.queue_key("iris", 3), 0))
    held = worker("w")
    found = requests(reserve(held))
    assert len(found) == 2
    assert end(held, server, found) == ["1", "SUCCESS"]
    assert not redis.exists(held.key)


def test_given_back(worker, submit, redis, server):
    """What is given back stands at the head of its line, oldest first, no attempt counted, and its record is queued again."""
    submit(*"abcd")
    held = worker("w")
    taken = reserve(held, 4)
    submit("e")
    JobRecords(settings.load({}, broker_url=server.url), held).mark_started(
        BatchRun("iris", "1", "w", 1.0, 0.0, 2), requests(taken)
    )
    assert record(redis, "b")["status"] == "STARTED"
    assert held.requeue([taken.requests[2][0], taken.requests[1][0]]) == 2
    assert queued(redis) == ["b", "c", "e"]
    assert held.requeue([taken.requests[0][0]], all_but=True) == 1
    assert queued(redis) == ["d", "b", "c", "e"]
    assert redis.hlen(held.key) == 1
    document = record(redis, "b")
    assert (document["status"], document["job"]["history"][0]["how"]) == ("QUEUED", "given back")
    assert "started_at" not in document["job"]
    assert b'"attempts"' not in b"".join(redis.lrange(keyspace.queue_key("iris", 3), 0, -1))
    assert redis.ttl(keyspace.record_key("b")) > 0


def test_layout_survives_every_script(worker, submit, redis, server):
    """Through taking, running, being lost, given back and ended, a record keeps its form and all that it said at first."""
    submit("a")
    base = record(redis, "a")["job"]
    for place in range(3):
        held = worker(f"w{place}")
        found = requests(reserve(held))
        JobRecords(settings.load({}, broker_url=server.url), held).mark_started(
            BatchRun("iris", "1", "w", 1.0, 0.0, 1), found
        )
        assert base.items() <= record(redis, "a")["job"].items()
        if place == 1:
            held.requeue([found[0].tag])
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


def test_a_workers_name_breaks_no_record(worker, submit, redis):
    """A name with quotes, a newline, brackets and letters of other alphabets stands in records and letters as it is."""
    name, hows = 'né"w\n\\[x]},"started_at":1', ["given back", "worker lost"]
    submit("a")
    for how in (*hows, "given up"):
        held = worker(name, max_deliveries=2)
        found = requests(reserve(held))
        if how == "given back":
            held.requeue([found[0].tag])
        else:
            age(redis, held)
            worker("tender", max_deliveries=2)
        history = record(redis, "a")["job"]["history"]
        assert [(each["worker"], each["how"]) for each in history] == [(f"{name}@host", each) for each in hows][
            : len(history)
        ]
    document, letter = record(redis, "a"), msgspec.json.decode(redis.hget(keyspace.DEAD, "a"), type=DeadLetter)
    assert (document["status"], document["job"]["worker"], letter.worker) == ("FAILURE", *[f"{name}@host"] * 2)


@pytest.mark.parametrize("garbage", GARBAGE, ids=repr)
def test_garbage(worker, redis, garbage):
    """Whatever lies in a queue is taken and given back byte for byte, and adopted so but for the count of its deliveries."""
    redis.lpush(QUEUE, garbage)
    for place in range(2):
        held = worker(f"w{place}")
        ((tag, key, envelope),) = reserve(held).requests
        assert (key, envelope) == (QUEUE.encode(), garbage)
        if place == 0:
            assert held.requeue([tag]) == 1
        else:
            age(redis, held)
            worker("tender")
            assert worker.first.adopted == 1
    (adopted,) = redis.lrange(QUEUE, 0, -1)
    assert re.sub(rb'"attempts":1,?', b"", adopted) == garbage
    assert (b'"headers"' in garbage) == (b'"attempts":1' in adopted)


def test_unreadable_bytes_are_given_up(worker, redis):
    """An envelope that is no text, but has headers, is given up after its deliveries like others, and its letter can be read."""
    redis.lpush(QUEUE, b'{"headers":{"id":"odd","task":"x"},"body":"\x00\xff\xfe"}')
    for place in range(2):
        held = worker(f"w{place}", max_deliveries=2)
        reserve(held)
        age(redis, held)
        worker(f"o{place}", max_deliveries=2)
    (raw,) = redis.hvals(keyspace.DEAD)
    letter = msgspec.json.decode(raw, type=DeadLetter)
    assert (letter.id, letter.reason, letter.envelope_base64) == ("odd", "worker lost", True)
    assert base64.b64decode(letter.envelope).endswith(b'"body":"\x00\xff\xfe"}')


def test_leaving(worker, submit, redis):
    """Who leaves with empty hands is on no list; who still holds something leaves a lapsed lease, and others adopt it at once."""
    submit("a")
    empty, full = worker("w1"), worker("w2")
    reserve(full)
    empty.deregister()
    full.deregister()
    assert redis.zrange(keyspace.LEASES, 0, -1) == [full.identity.encode()]
    assert not redis.exists(keyspace.SLOTS, keyspace.consumers_key(QUEUE))
    worker("w3")
    assert worker.first.adopted == 1


def test_from_a_signal_s_handler(worker, submit, redis):
    """What a signal's handler gives back in the midst of another call is given back: it does not wait for that call's end."""
    submit("a", "b")
    held = worker("w1")
    tags = [tag for tag, _, _ in reserve(held).requests]
    gave = []
    before = signal.signal(signal.SIGUSR1, lambda *_: gave.append(held.requeue(tags)))
    try:
        redis.client_pause(500)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        held.renew_and_adopt([QUEUE])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert gave == [2]
    assert queued(redis) == ["a", "b"]
