"""How a client hears of its jobs' ends: in groups on its one reply channel, and, where that said nothing, by looking."""

import asyncio
import json
import threading
import time

import msgspec
import numpy as np
import pytest
import uvloop

from mutirao import AsyncClient, Client, JobExpired, MutiraoError, keyspace
from mutirao.client import result_listener
from mutirao.wire import binary_codec, messages, tensors
from support import brokers, waiting
from support.redis_monitor import Monitor

COUNT = 1200  # more than one read takes


@pytest.fixture
def unserved(connect, redis_server):
    """A client of a Redis where no worker is, that queues all the same."""
    with connect(redis_server.url, check=False) as client:
        yield client


def _documents(server, count):
    """Take requests from the queue and answer each with its own place, as a worker's commit would; nothing is announced."""
    found: list[tuple[str, bytes]] = []
    redis = server.client()
    for headers in brokers.take(server, "iris", count):
        id = headers["id"]
        output = tensors.encode("predict", np.array([len(found)]), binary=True)
        result, _ = binary_codec.pack_result(messages.PredictResult("iris", "1", (output,)), 65_536)
        record = json.loads(redis.get(keyspace.record_key(id)))
        record |= {"status": "SUCCESS", "result": msgspec.to_builtins(result)}
        document = json.dumps(record, separators=(",", ":")).encode()
        redis.set(keyspace.record_key(id), document, ex=100)
        found.append((headers["mutirao"]["reply"], document))
    return found


def _announce(redis, documents):
    (client,) = {client for client, _ in documents}
    return redis.publish(keyspace.reply_channel(client), b"[" + b",".join(raw for _, raw in documents) + b"]")


def _subscribed(redis):
    return len(redis.pubsub_channels(keyspace.reply_channel("*")))


def _opened(client, server):
    """Make the client open its reply channel."""
    job = client.submit("iris", [[1.0]])
    with pytest.raises(TimeoutError):
        job.result(0.05)
    brokers.take(server, "iris", 1)
    waiting.until(lambda: _subscribed(server.client()) == 1)


def test_groups(unserved, redis_server):
    """Thousands of results come in groups over one channel, each to its own job; nothing is asked for but once a second."""
    redis = redis_server.client()
    _opened(unserved, redis_server)
    jobs = unserved.submit_many("iris", np.ones((COUNT, 4)))
    documents = _documents(redis_server, COUNT)
    answer = threading.Timer(0.2, lambda: [_announce(redis, documents[at : at + 500]) for at in range(0, COUNT, 500)])
    with Monitor(redis_server.url) as monitor:
        answer.start()
        done = list(unserved.as_completed(jobs, timeout=20))
        values = [job.result(0)["predict"].item() for job in done]
    answer.join()
    assert values == list(range(COUNT))
    assert [job.id for job in done] == [job.id for job in jobs]
    assert set(monitor.names()) <= {"PUBLISH", "MGET", "PING"}
    assert monitor.names().count("MGET") <= 3


def test_results_before_anybody_waits(unserved, redis_server):
    """Results that came before they were waited for are there at once: nothing is asked."""
    redis = redis_server.client()
    _opened(unserved, redis_server)
    jobs = unserved.submit_many("iris", np.ones((COUNT, 4)))
    assert _announce(redis, _documents(redis_server, COUNT)) == 1
    with Monitor(redis_server.url) as monitor:
        values = [job.result(5)["predict"].item() for job in jobs]
    assert values == list(range(COUNT))
    assert monitor.names().count("MGET") <= 1


def test_a_bound_on_what_nobody_waits_for(unserved, redis_server, monkeypatch):
    """Of results that nobody waits for, so many bytes are kept and no more; those waited for later are found all the same."""
    monkeypatch.setattr(result_listener, "EARLY_BYTES_MAX", 1000)
    redis = redis_server.client()
    _opened(unserved, redis_server)
    jobs = unserved.submit_many("iris", np.ones((20, 4)))
    _announce(redis, _documents(redis_server, 20))
    with Monitor(redis_server.url) as monitor:
        assert [job.result(5)["predict"].item() for job in jobs] == list(range(20))
    assert "MGET" in monitor.names()


@pytest.mark.parametrize("lost", ["never announced", "on the record's channel", "not records"])
def test_what_was_not_announced_is_found(unserved, redis_server, lost):
    """A result that did not come on the reply channel is found within about a second."""
    redis = redis_server.client()
    _opened(unserved, redis_server)
    jobs = unserved.submit_many("iris", np.ones((COUNT, 4)))
    documents = _documents(redis_server, COUNT)
    if lost == "on the record's channel":
        for _, raw in documents:
            redis.publish(keyspace.record_key(msgspec.json.decode(raw)["task_id"]), raw)
    elif lost == "not records":
        redis.publish(keyspace.reply_channel(documents[0][0]), b'{"not": "records"}')
    began = time.monotonic()
    done = list(unserved.as_completed(jobs, timeout=20))
    assert {job.id for job in done} == {job.id for job in jobs}
    assert time.monotonic() - began < 4


def test_a_broken_subscription_is_made_anew(unserved, redis_server):
    """Where Redis drops the subscription, as it does with one that reads too slowly, what came meanwhile is read."""
    redis = redis_server.client()
    _opened(unserved, redis_server)
    jobs = unserved.submit_many("iris", np.ones((COUNT, 4)))
    documents = _documents(redis_server, COUNT)
    redis.config_set("client-output-buffer-limit", "pubsub 65536 65536 0")
    assert _announce(redis, documents) == 1  # more than the buffer may hold: the subscriber is dropped
    done = list(unserved.as_completed(jobs, timeout=20))
    assert sorted(job.result(0)["predict"].item() for job in done) == list(range(COUNT))
    redis.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")
    waiting.until(lambda: _subscribed(redis) == 1)
    job = unserved.submit("iris", np.ones((1, 4)))
    _announce(redis, _documents(redis_server, 1))
    assert job.result(5)["predict"].item() == 0


def test_a_job_waited_for_keeps_its_end(unserved, redis_server):
    """Once a job was waited for, its result is there without a question, even when its record is gone."""
    redis = redis_server.client()
    job = unserved.submit("iris", np.ones((1, 4)))
    _documents(redis_server, 1)
    assert job.result(5)["predict"].tolist() == [0]
    redis.flushall()
    with Monitor(redis_server.url) as monitor:
        assert job.result(5)["predict"].tolist() == [0]
    assert monitor.names() == []


def test_one_job_waited_for_twice(unserved, redis_server):
    """Two handles of one job, and the same handle twice, each hear of its end."""
    redis = redis_server.client()
    job = unserved.submit("iris", np.ones((1, 4)), id="mine")
    again, other = unserved.submit("iris", np.ones((1, 4)), id="mine"), unserved.job("mine")
    _announce_later = threading.Timer(0.3, lambda: _announce(redis, _documents(redis_server, 1)))
    _announce_later.start()
    assert len(list(unserved.as_completed([job, again, other, job], timeout=10))) == 4
    _announce_later.join()


def test_thousands_of_deadlines(unserved, redis_server):
    """Thousands of jobs whose deadline passes while nobody serves them end as expired, at their deadline."""
    jobs = unserved.submit_many("iris", np.ones((COUNT, 4)), expires_s=1.0)
    last = unserved.submit("iris", np.ones((1, 4)), expires_s=1.5)
    began = time.monotonic()
    done = list(unserved.as_completed([last, *jobs], timeout=20))
    assert 1.0 < time.monotonic() - began < 5.0
    assert done[-1].id == last.id
    for job in done:
        with pytest.raises(JobExpired):
            job.result(0)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_deadlines_that_passed_before_anybody_waited(redis_server, run):
    """Waits that begin together after their jobs' deadlines all hear of them, on either kind of event loop."""

    async def main():
        async with AsyncClient(redis_server.url, check=False) as client:
            jobs = [await client.submit("iris", [[1.0]], expires_s=0.02) for _ in range(3)]
            time.sleep(0.05)  # noqa: ASYNC251 - the loop stands still beyond the deadlines
            return await asyncio.gather(*(job.result(20) for job in jobs), return_exceptions=True)

    assert [type(end) for end in run(main())] == [JobExpired] * 3


def test_closing_tells_who_waits(redis_server):
    """A thread that waits through a client that another closes is told so."""
    client = Client(redis_server.url, check=False)
    job, heard = client.submit("iris", [[1.0]]), []

    def wait():
        try:
            job.result(30)
        except MutiraoError as exc:
            heard.append(str(exc))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.until(lambda: _subscribed(redis_server.client()) == 1)
    client.close()
    thread.join(10)
    assert heard == ["the client was closed while the job was waited for; the job goes on"]


def test_a_bug_leaves_nobody_waiting(redis_server, monkeypatch):
    """Whatever fails on the side that listens is told to those who wait."""
    monkeypatch.setattr(result_listener.ResultListener, "_on_message", lambda *_: 1 / 0)
    with Client(redis_server.url, check=False) as client:
        job = client.submit("iris", [[1.0]])
        with pytest.raises(ZeroDivisionError):
            job.result(10)
