"""Many requests in one call: one script that takes all of them or none, and writes what one call each would have written."""

import base64
import json
import re
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutirao import IdTaken, InvalidRequest, QueueFull, SignatureMismatch, errors, keyspace, settings
from mutirao.client import redis_backend
from mutirao.client.encoding import RequestEncoder, SubmitOptions, encode_groups
from mutirao.client.request_data import validate
from mutirao.registry import ModelInfo, WorkerInfo
from mutirao.wire import messages
from mutirao.wire.signature import InputSpec, Signature
from support import brokers, sample_models
from support.redis_monitor import Monitor

ROW = [5.1, 3.5, 1.4, 0.2]
QUEUE = keyspace.queue_key("iris", 3)


@pytest.fixture
def unserved(connect, redis_server):
    """A client of a Redis where no worker is, that queues all the same."""
    with connect(redis_server.url, check=False) as client:
        yield client


@brokers.redis_only
def test_ten_thousand_in_one_call(unserved, redis_server):
    """Ten thousand requests are one command; they stand in line in the caller's order, each with its own values."""
    rows = np.arange(40_000.0).reshape(10_000, 4)
    unserved.submit("iris", [ROW], priority="high")  # loads the script
    with Monitor(redis_server.url) as monitor:
        jobs = unserved.submit_many("iris", rows)
    assert [name for name in monitor.names() if name != "PING"] == ["EVALSHA"]  # a new connection is asked first
    redis = redis_server.client()
    envelopes = [json.loads(raw) for raw in reversed(redis.lrange(QUEUE, 0, -1))]
    assert [envelope["headers"]["id"] for envelope in envelopes] == [job.id for job in jobs]
    values = b"".join(base64.b64decode(envelope["body"])[-32:] for envelope in envelopes)
    assert values == rows.tobytes()
    records = [json.loads(raw) for raw in redis.mget([keyspace.record_key(job.id) for job in jobs])]
    assert [record["task_id"] for record in records] == [job.id for job in jobs]
    assert len({record["job"]["digest"] for record in records}) == 10_000


def test_too_many_in_one_call(unserved, redis_server):
    """More requests than one call may have are refused, with what to do."""
    with pytest.raises(InvalidRequest, match="100001 requests in one call, the limit is 100000: split it"):
        unserved.submit_many("iris", np.empty((100_001, 4)))
    assert redis_server.client().dbsize() == 0


def test_a_full_queue_takes_nothing(connect, redis_server):
    """A queue counts over all priorities; a call that would exceed its limit is refused as a whole, and a smaller one is not."""
    redis = redis_server.client()
    with connect(redis_server.url, check=False, queue_limit=1000) as client:
        client.submit_many("iris", np.ones((600, 4)), priority="low")
        client.submit_many("iris", np.ones((395, 4)), priority="high")
        with pytest.raises(QueueFull) as caught:
            client.submit_many("iris", np.ones((6, 4)))
        assert str(caught.value) == (
            "queue of model 'iris' is full: 995 of 1,000 requests wait, 6 more do not fit; "
            "no live worker serves it (start one with: mutirao worker)"
        )
        assert (caught.value.status, caught.value.retryable, caught.value.data) == (429, True, {"model": "iris", "depth": 995, "limit": 1000, "retry_after_s": None})  # fmt: skip
        assert (brokers.queued(redis_server, "iris"), len(redis.keys("celery-task-meta-*"))) == (995, 995)
        client.submit_many("iris", np.ones((5, 4)))
        with pytest.raises(QueueFull, match=r"is full: 1,000 of 1,000 requests wait; "):
            client.submit("iris", [ROW])
        client.submit("forest", [ROW])  # another queue
        with pytest.raises(QueueFull, match=r"1,001 in one call can never fit: split it"):
            client.submit_many("forest", np.ones((1001, 4)))


def test_a_full_queue_tells_when_to_try_again(connect, redis_server):
    """The estimate is what is too much over what the live workers answer in a second; the dead ones do not count."""
    redis, now = redis_server.client(), time.time()
    for name, rate, seen_at in (("a", 1.0, now), ("b", 1.5, now), ("dead", 100.0, now - 60)):
        info = WorkerInfo(name=name, pid=1, processes=1, models={"iris": "1"}, rates={"iris": rate}, seen_at=seen_at)
        redis.hset(keyspace.WORKERS, name, msgspec.json.encode(info))
    with connect(redis_server.url, check=False, queue_limit=20) as client:
        client.submit_many("iris", np.ones((20, 4)))
        with pytest.raises(QueueFull, match="20 of 20 requests wait; try again in about 4 s") as caught:
            client.submit_many("iris", np.ones((10, 4)))
        assert caught.value.retry_after_s == 4.0


def test_sent_twice_is_queued_once(connect, redis_server):
    """The same call sent again, as after a broken connection, queues nothing, even where it has filled its queue."""
    ids, rows = [f"id-{at}" for at in range(2500)], np.random.default_rng(0).normal(size=(2500, 4))
    with connect(redis_server.url, check=False, queue_limit=2500) as client:
        client.submit_many("iris", rows, ids=ids)
        client.submit_many("iris", rows, ids=ids)
        client.submit_many("iris", rows[:3], ids=["id-0", "id-1", "id-2"])
        with pytest.raises(IdTaken, match="'id-7'"):
            client.submit_many("iris", rows[:2], ids=["fresh", "id-7"])
        assert [headers["id"] for headers in brokers.take(redis_server, "iris", 2500)] == ids
        assert brokers.queued(redis_server, "iris") == 0


@brokers.redis_only
def test_the_bell(unserved, redis_server):
    """Every call leaves one token on the queue's bell, of which there are never more than eight."""
    redis = redis_server.client()
    for count in (1, 2):
        unserved.submit_many("iris", np.ones((50, 4)))
        assert redis.lrange(keyspace.wakeup_key("mutirao.iris"), 0, -1) == [b"1"] * count
    for _ in range(9):
        unserved.submit("iris", [ROW], priority="high")
    assert redis.llen(keyspace.wakeup_key("mutirao.iris")) == 8


@pytest.mark.parametrize("many", [[ROW, ROW, [1.0, "a", 3.0, 4.0]], [ROW, ROW, [1.0]], np.array([ROW, ROW, ["x"] * 4])])
def test_the_row_that_does_not_fit_is_named(client, many):
    """In a call of many rows, the error says which of them does not fit."""
    at = 0 if isinstance(many, np.ndarray) else 2
    with pytest.raises(SignatureMismatch, match=rf"request {at}: model 'iris' takes X FP64\[-1, 4\], got"):
        client.submit_many("iris", many)


def test_frames_answer_as_rows(client):
    """The rows of a DataFrame with text in it answer as the same rows sent one by one."""
    frame = sample_models.get("houses").data[:12]
    jobs = client.submit_many("houses", frame)
    alone = [client.submit("houses", frame.iloc[at : at + 1]) for at in range(12)]
    for job, other in zip(jobs, alone, strict=True):
        assert job.result(20)["predict"].tolist() == other.result(20)["predict"].tolist()
        assert job.record().job.digest == other.record().job.digest


NUMBERS = st.sampled_from([0, 1, -3, 2**53, 2**53 + 1, 2**63, True, 1.5, -0.0, 1e300, float("nan"), float("inf"), "a"])
MATRIX = Signature(inputs=(InputSpec("X", "FP64", (-1, 2)),), outputs=())
WHOLE = Signature(inputs=(InputSpec("X", "INT64", (-1, 2)),), outputs=())
COLUMNS = Signature(inputs=(InputSpec("a", "FP64", (-1,)), InputSpec("b", "INT64", (-1,))), outputs=(), frame=True)


def written(takes, many, *, alone):
    """What would be sent of each request: all at once, or each read by itself; or the error's kind."""
    maker, ask = RequestEncoder("me", settings.load({}, broker_url="redis://127.0.0.1")), SubmitOptions(model="m")
    ids = [f"id-{at}" for at in range(len(many))]
    try:
        found = (
            [validate(ask.model, takes, [[row]], rows=False)[0] for row in many]
            if alone
            else validate(ask.model, takes, many, rows=True)
        )
        return [
            (run.template.texts, *run.items[at : at + 3])
            for run in encode_groups(ask, found, ids, maker)
            for at in range(0, len(run.items), 3)
        ]
    except errors.MutiraoError as exc:
        return type(exc)


@given(
    st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from([None, MATRIX, WHOLE, COLUMNS]),
)
def test_rows_at_once_are_rows_one_by_one(many, takes):
    """Whatever stands in the rows, a call of many writes the very bytes that a call each would have written, or the same error."""
    assert written(takes, many, alone=False) == written(takes, many, alone=True)


def test_settle_keeps_the_layout(unserved, redis_server):
    """A cancelled record begins with its status and ends with its job, whose later part says that it never started."""
    job = unserved.submit("iris", [ROW])
    before = redis_server.client().get(keyspace.record_key(job.id))
    assert job.cancel()
    raw = redis_server.client().get(keyspace.record_key(job.id))
    assert raw.startswith(b'{"status":"REVOKED","task_id":')
    kept = before[before.index(b',"job":') : -2]
    assert re.fullmatch(re.escape(kept) + rb',"started_at":null,"finished_at":[\d.]+\}\}', raw[raw.index(b',"job":') :])
    assert msgspec.json.decode(raw, type=messages.JobRecord).state == "cancelled"


def test_settle_changes_nothing_else(unserved, redis_server):
    """Only a queued record can be cancelled: one that runs or has ended is handed back byte for byte."""
    job = unserved.submit("iris", [ROW])
    redis, key = redis_server.client(), keyspace.record_key(job.id)
    for status in (b"STARTED", b"SUCCESS"):
        raw = redis.get(key).replace(b"QUEUED", status).replace(b"STARTED", status)
        redis.set(key, raw)
        assert not job.cancel()
        assert redis.get(key) == raw


def test_a_fork_has_its_own_name(monkeypatch):
    """A client that finds itself in another process takes another name."""
    made = redis_backend.RedisBackend(settings.load({}, broker_url="redis://127.0.0.1"), check=False)
    name = made.client
    assert made.client == name
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert made.client != name


def test_rates_are_optional():
    """A worker that announces no rates counts as none."""
    assert msgspec.json.decode(b'{"name":"w","pid":1,"processes":1,"models":{}}', type=WorkerInfo).rates == {}
    assert ModelInfo(name="m", version="1").workers == 0
