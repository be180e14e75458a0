"""Dead letters: what is kept of a request that could not be served, and what replay and purge make of it."""

import concurrent.futures
import json
import time
from typing import Any

import numpy as np
import pytest

from mutirao import BrokerUnavailable, Client, JobNotFound, WorkerLost, errors, keyspace, settings
from mutirao.dead_letters import DeadLetters
from mutirao.redisdb.drivers import RedisDriver
from support import brokers, dead_lettering
from support.redis_servers import RedisServer

pytestmark = brokers.redis_only

LIST = keyspace.queue_key("iris", 3)


class Operator:
    """Runs the operations on dead letters as `mutirao dead` does."""

    def __init__(self, url, **given):
        self._given = settings.load({}, broker_url=url, **given)
        self._dead, self._redis = DeadLetters(self._given), RedisDriver(self._given)

    def __getattr__(self, name):
        return lambda *args: self._redis.run(getattr(self._dead, name)(*args))

    def replay_ids(self, ids):
        return self.replay([letter for letter in self.letters(ids) if letter is not None])

    def close(self):
        self._redis.close()


@pytest.fixture
def operator(redis_server):
    made = Operator(redis_server.url)
    yield made
    made.close()


@pytest.fixture
def client(redis_server):
    with Client(redis_server.url, check=False) as made:
        yield made


def _envelopes(redis, key=LIST):
    """The messages in a queue, who is served next first."""
    return [json.loads(raw) for raw in reversed(redis.lrange(key, 0, -1))]


def test_a_replayed_request_is_as_it_was_first_sent(redis_server, client, operator):
    """Replay keeps id and content, forgets deliveries, queues at the end with a new deadline, and tells it in the record's history."""
    redis = redis_server.client()
    job = client.submit("iris", [[1.0, 2.0]], expires_s=50)
    (sent,), before = _envelopes(redis), job.record().job
    (id,) = dead_lettering.dead_letters(redis_server.url, "iris", 1, deliveries=3)
    with pytest.raises(WorkerLost, match="gave up after 3 deliveries"):
        job.result(0)
    (letter,) = operator.letters([id])
    assert (letter.id, letter.task_id, letter.model, letter.reason, letter.worker, letter.attempts) == (
        job.id, job.id, "iris", "worker lost", "dying@host", 3,
    )  # fmt: skip
    assert (letter.summary, letter.replayable, letter.is_offloaded) == ("iris: 1x2 FP64", True, False)
    assert letter.inputs()[""].tolist() == [[1.0, 2.0]]
    client.submit("iris", [[3.0, 4.0]])
    assert operator.replay_ids([id]) == {id: None}
    assert _envelopes(redis)[-1] == sent
    assert redis.llen(keyspace.wakeup_key("mutirao.iris")) >= 1
    raw, record = redis.get(keyspace.record_key(id)), client.job(id).record()
    assert (raw.startswith(b'{"status":"QUEUED","task_id":'), raw.endswith(b"}}")) == (True, True)
    assert list(json.loads(raw))[-1] == "job"
    assert record.state == "queued"
    history = [(entry.worker, entry.how) for entry in record.job.history]
    assert history == [*[("dying@host", "worker lost")] * 3, ("", "replayed")]
    assert (record.job.digest, record.job.rows, record.job.priority) == (before.digest, 1, "normal")
    assert record.job.queued_at > letter.at > before.queued_at
    assert record.job.expires_at - record.job.queued_at == pytest.approx(86_400)
    assert not redis.exists(keyspace.DEAD, keyspace.DEAD_INDEX)


def test_a_second_replay_tells_the_first(redis_server, client, operator):
    """A request that is given up and replayed again has both in its history, and one deadline."""
    job = client.submit("iris", [[1.0]], priority="high")
    for _ in range(2):
        (id,) = dead_lettering.dead_letters(redis_server.url, "iris", 1)
        operator.replay_ids([id])
    raw = redis_server.client().get(keyspace.record_key(job.id)).decode()
    assert [entry.how for entry in job.record().job.history] == ["worker lost", "replayed"] * 2
    assert (raw.count('"expires_at"'), raw.count('"queued_at"'), raw.count('"history"')) == (1, 1, 1)


def test_many_operators_replay_each_letter_once(redis_server, client):
    """Of operators that replay the same letters at the same time one sends each; the others are told that it is gone."""
    jobs = client.submit_many("iris", np.ones((600, 4)))
    ids = dead_lettering.dead_letters(redis_server.url, "iris", 600)
    operators = [Operator(redis_server.url) for _ in range(4)]
    letters = operators[0].letters(ids)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda each: each.replay(letters), operators))
    for each in operators:
        each.close()
    sent = [envelope["headers"]["id"] for envelope in _envelopes(redis_server.client())]
    assert sorted(sent) == sorted(job.id for job in jobs)
    assert sum(why is None for each in said for why in each.values()) == 600
    assert {type(why) for each in said for why in each.values()} == {type(None), JobNotFound}


def test_a_stock_request_is_replayed_without_its_old_deadline(redis_server, operator):
    """A stock client's message, spaced and ordered its own way, goes back as it was, but for a deadline that has passed."""
    redis = redis_server.client()
    headers = {"lang": "py", "task": "mutirao.predict", "id": "stock-1", "expires": "2020-01-01T00:00:00+00:00", "root_id": "stock-1"}  # fmt: skip
    message = {"body": "W1tdXQ==", "content-encoding": "utf-8", "headers": headers, "properties": {"priority": 0}}
    redis.lpush("mutirao.iris", json.dumps(message))
    assert dead_lettering.dead_letters(redis_server.url, "iris", 1) == ["stock-1"]
    redis.delete(keyspace.record_key("stock-1"))
    assert operator.replay_ids(["stock-1"]) == {"stock-1": None}
    assert _envelopes(redis, "mutirao.iris") == [{**message, "headers": {**headers, "expires": None}}]
    job = json.loads(redis.get(keyspace.record_key("stock-1")))["job"]
    assert (job["model"], job["priority"]) == ("iris", "high")


def test_tensors_beside_a_letter(redis_server, client, operator):
    """Large tensors are kept for a week beside a dead letter, go with it when it is replayed or purged, and without them it stays."""
    redis = redis_server.client()
    jobs = client.submit_many("iris", [np.ones((4000, 4))] * 3)
    ids = dead_lettering.dead_letters(redis_server.url, "iris", 3)
    keys = {id: keyspace.payload_key(id, "in") for id in ids}
    assert all(redis.ttl(key) == pytest.approx(keyspace.DEAD_PAYLOAD_S, abs=60) for key in keys.values())
    sent, purged, gone = (job.id for job in jobs)
    letters = operator.letters([sent, gone])
    assert letters[0].inputs(operator.tensors(letters[0]))[""].shape == (4000, 4)
    redis.delete(keys[gone])
    said = operator.replay(letters)
    assert said[sent] is None
    assert isinstance(said[gone], errors.NotReplayable)
    assert "its tensors, which lay beside it, are gone" in str(said[gone])
    assert operator.purge([purged]) == [purged]
    assert operator.ids() == [gone]
    assert 0 < redis.ttl(keys[sent]) <= 2 * 86_400
    assert not redis.exists(keys[purged])


def test_a_job_that_lives_again_is_left_alone(redis_server, client, operator):
    """A letter whose job waits, or has ended well, under the same id changes nothing of it, and says so."""
    redis = redis_server.client()
    jobs = client.submit_many("iris", np.ones((2, 4)))
    ids = dead_lettering.dead_letters(redis_server.url, "iris", 2)
    for job, status in zip(jobs, ("QUEUED", "SUCCESS"), strict=True):
        redis.set(
            keyspace.record_key(job.id), redis.get(keyspace.record_key(job.id)).replace(b"FAILURE", status.encode())
        )
    before = redis.mget([keyspace.record_key(id) for id in ids])
    said = [str(operator.replay_ids([job.id])[job.id]) for job in jobs]
    assert ["its job is queued again" in said[0], "its job has succeeded since" in said[1]] == [True, True]
    assert redis.mget([keyspace.record_key(id) for id in ids]) == before
    assert (operator.ids(), redis.llen(LIST)) == (ids, 0)


def test_the_oldest_letters_make_room(redis_server, client, operator):
    """No more letters are kept than 100,000; with the oldest go the tensors beside it."""
    redis = redis_server.client()
    fill = """for i = 1, tonumber(ARGV[1]) do
      redis.call('HSET', KEYS[1], 'old-' .. i, '{}') redis.call('ZADD', KEYS[2], i, 'old-' .. i) end"""
    redis.eval(fill, 2, keyspace.DEAD, keyspace.DEAD_INDEX, keyspace.DEAD_MAX - 1)
    redis.set(keyspace.payload_key("old-1", "in"), "x")
    client.submit_many("iris", np.ones((2, 4)))
    ids = dead_lettering.dead_letters(redis_server.url, "iris", 2)
    assert (redis.hlen(keyspace.DEAD), redis.zcard(keyspace.DEAD_INDEX)) == (keyspace.DEAD_MAX, keyspace.DEAD_MAX)
    assert (operator.ids()[0], operator.ids()[-2:]) == ("old-2", ids)
    assert not redis.exists(keyspace.payload_key("old-1", "in"))


def test_results_elsewhere():
    """Where results are kept on another server, letters are there; one that cannot be pushed to the queues' server becomes one again."""
    with RedisServer() as broker, RedisServer() as results:
        operator = Operator(broker.url, result_url=results.url, timeout_s=0.5)
        with Client(broker.url, result_url=results.url, check=False) as client:
            jobs = client.submit_many("iris", np.ones((2, 4)))
            envelopes: list[Any] = broker.client().lrange(LIST, 0, -1)[::-1]
            kept: Any = results.client()
            broker.client().delete(LIST)
            for job, raw in zip(jobs, envelopes, strict=True):
                document = kept.get(keyspace.record_key(job.id))
                kept.set(keyspace.record_key(job.id), document.replace(b"QUEUED", b"FAILURE"))
                _write(kept, job.id, raw.decode())
            broker.stop()
            before = kept.get(keyspace.record_key(jobs[0].id)), kept.hgetall(keyspace.DEAD)
            with pytest.raises(BrokerUnavailable):
                operator.replay_ids([job.id for job in jobs])
            assert (kept.get(keyspace.record_key(jobs[0].id)), kept.hgetall(keyspace.DEAD)) == before
            assert kept.zrange(keyspace.DEAD_INDEX, 0, -1) == [job.id.encode() for job in jobs]
            broker.start()
            assert operator.replay_ids([job.id for job in jobs]) == {job.id: None for job in jobs}
            assert broker.client().lrange(LIST, 0, -1)[::-1] == envelopes
            assert broker.client().llen(keyspace.wakeup_key("mutirao.iris")) >= 1
            assert jobs[0].record().state == "queued"
            assert not kept.exists(keyspace.DEAD, LIST)
        operator.close()


def _write(redis, id, envelope):
    letter = {"id": id, "task_id": id, "model": "iris", "queue": LIST, "reason": "process died", "message": "gone",
              "at": time.time(), "worker": "w@host", "attempts": 3, "envelope": envelope}  # fmt: skip
    redis.hset(keyspace.DEAD, id, json.dumps(letter))
    redis.zadd(keyspace.DEAD_INDEX, {id: letter["at"]})


def test_what_is_no_request_is_not_replayed(redis_server, operator):
    """Letters without an id, or that were no task message, stay and say why; the others of the call are sent."""
    redis = redis_server.client()
    _write(redis, "good", '{"headers":{"id":"good"}}')
    for id, change in (("x-1", {"task_id": "", "reason": "no id"}), ("x-2", {"reason": "not decodable", "envelope_base64": True}),
                       ("x-3", {"queue": "celery", "model": ""})):  # fmt: skip
        _write(redis, id, "{}")
        redis.hset(keyspace.DEAD, id, json.dumps(json.loads(redis.hget(keyspace.DEAD, id)) | change))
    said = operator.replay_ids(["x-1", "x-2", "x-3", "good"])
    assert said["good"] is None
    assert all(isinstance(said[id], errors.NotReplayable) for id in ("x-1", "x-2", "x-3"))
    assert operator.ids() == ["x-1", "x-2", "x-3"]


def test_the_record_of_an_ignored_result_is_not_made(redis_server, operator):
    """A request whose client wants no result is sent again without a record."""
    _write(redis_server.client(), "mute", '{"headers":{"id":"mute","ignore_result":true}}')
    assert operator.replay_ids(["mute"]) == {"mute": None}
    assert not redis_server.client().exists(keyspace.record_key("mute"))


def test_a_given_up_request_keeps_its_letter_only_once(redis_server, client, operator):
    """Given up, replayed and given up again: the second letter takes the first one's place."""
    job = client.submit("iris", [[1.0]])
    for _ in range(2):
        assert dead_lettering.dead_letters(redis_server.url, "iris", 1) == [job.id]
        assert operator.ids() == [job.id]
        operator.replay_ids([job.id])
