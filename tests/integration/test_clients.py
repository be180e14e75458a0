"""One suite for Client and AsyncClient, over Redis and over HTTP: the same verbs, the same answers, the same errors, against a
real worker.
"""

import concurrent.futures
import time
from typing import cast

import msgspec
import numpy as np
import pytest

from mutirao import (
    BrokerUnavailable,
    IdTaken,
    InvalidRequest,
    JobCancelled,
    JobNotFound,
    ModelFailed,
    ResultExpired,
    ResultTimeout,
    keyspace,
)
from mutirao.registry import ModelInfo
from support import brokers, sample_models, waiting
from support.client_kinds import KINDS, Gateways, Kind, subscribed
from support.redis_monitor import Monitor
from support.redis_servers import RedisServer

ROW = [5.1, 3.5, 1.4, 0.2]
OVER_HTTP = " over HTTP"
# What a gateway asks Redis all the time: which models and workers there are.
LOOKS = ("HGETALL", "PING", "TIME", "ZRANGEBYSCORE")


@pytest.fixture(scope="module")
def gateways():
    """The gateways of this module's tests."""
    with Gateways() as made:
        yield made


@pytest.fixture(params=[name + way for name in KINDS for way in ("", OVER_HTTP)])
def connect(request, gateways):
    """Make a client of any kind: connect(url, **settings), the URL a Redis's."""
    name = request.param
    return Kind(KINDS[name.removesuffix(OVER_HTTP)], gateways if name.endswith(OVER_HTTP) else None)


@pytest.fixture(scope="module")
def shared_redis():
    """One Redis for the gateway of all tests in which nobody serves."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(request, connect):
    """A Redis that holds nothing."""
    if connect.gateways is None or brokers.AMQP:
        with RedisServer() as server:
            yield server
    else:
        server = request.getfixturevalue("shared_redis")
        server.client().flushall()
        yield server


@pytest.fixture
def announced(redis_server):
    """The Redis, to which a worker that is no longer there has said which models it serves: a gateway queues no others."""
    for name in ("iris", "forest"):
        info = msgspec.json.encode(ModelInfo(name=name, version="1", signature=sample_models.IRIS_SIGNATURE))
        redis_server.client().hset(keyspace.MODELS, name, info)
    return redis_server


@pytest.fixture
def unserved(connect, announced):
    """A client of a Redis where no worker is, that queues all the same."""
    with connect(announced.url, check=False) as client:
        yield client


def test_predict_equals_the_model(client):
    """predict() answers with the model's own outputs, bit for bit, by name."""
    sample = sample_models.get("iris")
    outputs = client.predict("iris", sample.data, timeout=20)
    assert outputs.keys() == {"predict", "predict_proba"}
    assert np.array_equal(outputs["predict"], sample.expected())
    assert outputs["predict_proba"].tobytes() == sample.expected("predict_proba").tobytes()


def test_chosen_outputs_and_parameters(client):
    """`outputs` chooses what comes back."""
    outputs = client.predict("iris", [ROW], outputs=["decision_function"], parameters={"note": "unused"}, timeout=20)
    assert outputs.keys() == {"decision_function"}
    assert outputs["decision_function"].shape == (1, 3)


@pytest.mark.parametrize("form", ["frame", "columns", "rows"])
def test_frame_columns_and_rows(client, form):
    """A DataFrame, a mapping of named columns and rows that mix text and numbers are the same request."""
    frame = sample_models.get("houses").data[:9]
    data = {
        "frame": frame,
        "columns": {name: frame[name].to_list() for name in frame},
        "rows": frame.to_numpy().tolist(),
    }
    labels = client.predict("houses", data[form], timeout=20)["predict"]
    assert labels.tolist() == sample_models.get("houses").expected()[:9].tolist()


def test_submit_many_is_one_round_trip(unserved, redis_server):
    """submit_many sends one command, however many requests: all of them queued, each with its record."""
    unserved.submit("iris", [ROW])  # loads the script
    with Monitor(redis_server.url) as monitor:
        jobs = unserved.submit_many("iris", np.ones((200, 4)))
    assert [name for name in monitor.names() if name not in LOOKS] == ["EVALSHA"]
    assert brokers.queued(redis_server, "iris") == 201
    assert len({job.id for job in jobs}) == 200


def test_submit_many_answers_each(client):
    """Each row of an array is a request with its own answer."""
    rows = sample_models.get("iris").data[:30]
    jobs = client.submit_many("iris", rows)
    labels = [job.result(20)["predict"] for job in jobs]
    assert np.array_equal(np.concatenate(labels), sample_models.get("iris").expected()[:30])


def test_submit_many_of_nothing(client):
    """No requests are no jobs."""
    assert client.submit_many("iris", []) == []


def test_submit_many_of_frames(client):
    """Each row of a DataFrame is a request."""
    frame = sample_models.get("houses").data[:3]
    labels = [job.result(20)["predict"].tolist() for job in client.submit_many("houses", frame)]
    assert labels == [[label] for label in sample_models.get("houses").expected()[:3]]


def test_job_by_id(connect, client, fleet):
    """Anybody with the id has the job: its state, its times in order, its result."""
    id = client.submit("slow", [[0.2, 0, 0]]).id
    with connect(fleet.url) as other:
        job = other.job(id)
        assert job.result(20)["predict"].tolist() == [0.2]
        assert (job.status, job.done()) == ("succeeded", True)
        timings = job.timings
        assert timings.queued_at <= timings.started_at <= timings.finished_at
        assert 0 <= timings.queued_s < 20
        assert 0.2 <= timings.computed_s < 20
        record = job.record()
        assert (record.job.attempts, record.job.worker, record.job.rows) == (1, fleet.worker.name, 1)


def test_states_while_it_runs(client):
    """A job is running, then succeeded."""
    job = client.submit("slow", [[2.5, 0, 0]])
    waiting.until(lambda: job.status == "running")
    assert not job.done()
    assert not job.cancel()
    assert job.result(20)
    assert job.status == "succeeded"


def test_as_completed_is_the_order_of_ends(client):
    """as_completed yields the quick ones first, the failed ones too, each once."""
    slow, quick = client.submit("slow", [[1.5, 0, 0]]), client.submit("iris", [[5.1, 3.5, 1.4, 0.2]])
    waiting.until(lambda: quick.status == "succeeded")
    failed = client.submit("raises", [[-1.0, 0, 0]])
    order = [job.id for job in client.as_completed([slow, failed, quick], timeout=20)]
    assert set(order) == {slow.id, quick.id, failed.id}
    assert order[-1] == slow.id
    with pytest.raises(ModelFailed):
        failed.result(1)


def test_as_completed_times_out(client):
    """as_completed yields what ended in time, then says that the rest had not."""
    slow, quick = client.submit("slow", [[2.0, 0, 0]]), client.submit("iris", [ROW])
    waiting.until(quick.done)
    seen: list[str] = []
    with pytest.raises(ResultTimeout, match=r"(they go|it goes) on"):
        seen.extend(job.id for job in client.as_completed([slow, quick], timeout=0.5))
    assert seen == [quick.id]
    assert slow.result(20)


def test_result_times_out_and_goes_on(client):
    """A wait that ends early leaves the job alone."""
    job = client.submit("slow", [[1.0, 0, 0]])
    with pytest.raises(ResultTimeout, match=r"is still (queued|running) after 0\.2 s"):
        job.result(0.2)
    assert job.result(20)["predict"].tolist() == [1.0]


def test_no_worker_alive(unserved):
    """Where no live worker serves the model, the timeout says so, and how to start one."""
    job = unserved.submit("iris", [ROW])
    with pytest.raises(ResultTimeout, match=r"no live worker serves 'iris' \(start one with: mutirao worker\)"):
        job.result(0.3)
    assert job.status == "queued"


def test_cancel_queued(connect, announced):
    """A queued job that is cancelled ends at once, for its waiters too, and its payload is gone."""
    with connect(announced.url, check=False, result_ttl_s=0.5) as client:
        job = client.submit("iris", np.ones((4096, 4)))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            wait = pool.submit(job.result, 20)
            waiting.until(lambda: subscribed(announced))
            assert job.cancel()
            with pytest.raises(JobCancelled, match="was cancelled"):
                wait.result(20)
        assert job.status == "cancelled"
        assert job.cancel()
        assert announced.client().get(keyspace.payload_key(job.id, "in")) is None


def test_cancelled_never_runs(client, fleet):
    """A cancelled job is not run when its turn comes."""
    with fleet.worker.still():
        job = client.submit("slow", [[0.0, 0, 0]])
        assert job.cancel()
    last = client.submit("slow", [[0.0, 0, 0]])
    assert last.result(20)
    assert job.status == "cancelled"
    assert job.timings.started_at is None


def test_unknown_jobs(client):
    """An id that was never submitted is not found, whatever is asked of it."""
    job = client.job("never-seen")
    for ask in (lambda: job.status, job.done, job.cancel, job.record, lambda: job.result(5), lambda: job.timings):
        with pytest.raises(JobNotFound, match="job 'never-seen' is not known: no such id was submitted"):
            ask()


def test_expired_results(connect, fleet):
    """Past the time for which results are kept, a job is said to have expired, not to be unknown."""
    with connect(fleet.url, result_ttl_s=0.5) as client:
        job = client.submit("iris", [ROW], expires_s=0.5)
        job.result(20)
        fleet.server.client().pexpire(keyspace.record_key(job.id), 1)
        waiting.until(lambda: not fleet.server.client().exists(keyspace.record_key(job.id)))
        waiting.until(lambda: time.time() > cast("float", keyspace.created_at(job.id)) + 1.0)
        with pytest.raises(ResultExpired, match=r"has expired: results are kept for 0\.5 s"):
            job.record()
        with pytest.raises(ResultExpired):
            client.job(job.id).result(5)


def test_models(client, fleet):
    """models() tells what each takes and gives, and how many live workers serve it."""
    known = {info.name: info for info in client.models()}
    assert known.keys() == set(fleet.repository.names())
    assert [str(spec) for spec in known["iris"].signature.inputs] == ["X FP64[-1, 4]"]
    assert [str(spec) for spec in known["houses"].signature.inputs] == [
        "area FP64[-1]",
        "city BYTES[-1]",
        "rooms FP64[-1]",
    ]
    assert {info.workers for info in known.values()} == {1}
    (worker,) = client.catalog().workers
    assert (worker.name, worker.processes) == (fleet.worker.name, 2)


def test_same_id_same_content_runs_once(client):
    """The same id with the same content is the same job: one execution, one answer to both."""
    id = f"mine-{keyspace.new_id()}"
    first = client.submit("tellsprocess", [[1.0, 2, 3]], id=id)
    second = client.submit("tellsprocess", [[1.0, 2, 3]], id=id)
    assert np.array_equal(first.result(20)["predict"], second.result(20)["predict"])
    ended = first.record()
    third = client.submit("tellsprocess", [[1.0, 2, 3]], id=id)
    assert np.array_equal(third.result(20)["predict"], first.result(20)["predict"])
    assert third.record() == ended
    assert ended.job.attempts == 1


def test_same_id_other_content_is_taken(unserved, redis_server):
    """The same id with other content is refused, and nothing of that call is queued, its other requests neither."""
    unserved.submit("iris", [ROW], id="mine")
    for other in ([[1.0, 1, 1, 1]], [ROW, ROW]):
        with pytest.raises(IdTaken, match="id 'mine' belongs to a job with other content"):
            unserved.submit("iris", other, id="mine")
    with pytest.raises(IdTaken):
        unserved.submit("forest", [ROW], id="mine")
    with pytest.raises(IdTaken):
        unserved.submit_many("iris", [ROW, [1.0, 1, 1, 1], ROW], ids=["first", "mine", "last"])
    assert redis_server.client().keys("celery-task-meta-*") == [b"celery-task-meta-mine"]
    assert brokers.queued(redis_server, "iris") == 1


def test_one_id_twice_in_a_call(unserved, redis_server):
    """Within one call, the same id with the same content is one job, and with other content is taken."""
    unserved.submit_many("iris", [ROW, ROW], ids=["twin", "twin"])
    assert brokers.queued(redis_server, "iris") == 1
    with pytest.raises(IdTaken):
        unserved.submit_many("iris", [ROW, [1.0, 1, 1, 1]], ids=["a", "a"])
    with pytest.raises(InvalidRequest, match="1 ids were given for 2 requests"):
        unserved.submit_many("iris", [ROW, ROW], ids=["b"])


@pytest.mark.parametrize(("asked", "says"), [({"expires_s": 0}, "expires_s is 0"), ({"expires_s": float("nan")}, "expires_s is nan"), ({"priority": "urgent"}, "use high, normal or low")])  # fmt: skip
def test_odd_deadlines_and_priorities(unserved, redis_server, asked, says):
    """A deadline or priority that cannot be is refused, and nothing is queued."""
    with pytest.raises(InvalidRequest, match=says):
        unserved.submit("iris", [ROW], **asked)
    assert redis_server.client().keys("celery-task-meta-*") == []
    assert brokers.queued(redis_server, "iris") == 0


@pytest.mark.parametrize("rows", [4096, 60_000])
def test_large_payloads_go_beside(client, fleet, rows):
    """128 KiB and 1.8 MiB of tensors go beside the message and come back beside the record; the request's are gone after."""
    data = np.random.default_rng(rows).normal(size=(rows, 4))
    data[0, 0] = 5e-324
    jobs = [client.submit("iris", part, outputs=["predict_proba"]) for part in np.array_split(data, -(-rows // 10_000))]
    big = client.submit("slow", np.zeros((10_000, 3)))
    redis = fleet.server.client()
    found = np.concatenate([job.result(30)["predict_proba"] for job in jobs])
    assert np.array_equal(found, sample_models.get("iris").model.predict_proba(data))
    assert big.result(30)["predict"].shape == (10_000,)
    for job in [*jobs, big]:
        assert redis.get(keyspace.payload_key(job.id, "in")) is None
        assert redis.strlen(keyspace.payload_key(job.id, "out")) >= 10_000 * 8 // 3
        assert redis.strlen(keyspace.record_key(job.id)) < 2000


def test_nan_and_infinities_travel(client):
    """NaN, infinities and subnormals go in and come out bit for bit."""
    data = np.array([[0.0, np.nan, 1.0], [0.0, np.inf, 0.0], [0.0, -np.inf, 1.0], [0.0, 5e-324, 0.0]])
    found = client.predict("slow", data, timeout=20)["predict"]
    assert np.array_equal(found, data.sum(axis=1), equal_nan=True)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A worker whose requests come from one server and whose results go to another."""
    from support.worker_process import WorkerProcess

    root = sample_models.repository(tmp_path_factory.mktemp("split") / "models", "iris", "slow").root
    with (
        RedisServer() as broker,
        RedisServer() as results,
        WorkerProcess(broker.url, root, env={"MUTIRAO_RESULT_URL": results.url}),
    ):
        yield broker, results


@brokers.redis_only
def test_split_results(connect, split):
    """Results may be kept on another server than requests: every verb works, and each server holds only its own."""
    broker, results = split
    with connect(broker.url, result_url=results.url) as client:
        assert client.predict("iris", np.tile(ROW, (4096, 1)), timeout=20)["predict"].shape == (4096,)
        jobs = client.submit_many("iris", sample_models.get("iris").data[:9])
        assert {job.id for job in client.as_completed(jobs, timeout=20)} == {job.id for job in jobs}
        first, job = client.submit("slow", [[1.0, 0, 0]]), client.submit("slow", [[0.0, 0, 0]])
        waiting.until(lambda: broker.client().keys(keyspace.reserved_key("*")))
        assert results.client().keys(keyspace.reserved_key("*")) == []
        assert job.cancel()
        assert first.result(20)
        assert job.status == "cancelled"
        assert broker.client().keys("celery-task-meta-*") == []
        assert results.client().keys("mutirao.*") == []


@brokers.redis_only
def test_split_results_away(direct, split):
    """Where the queues' server is away, the records that were already written are taken back."""
    _, results = split
    with RedisServer() as away, direct(away.url, result_url=results.url, check=False, timeout_s=1.0) as client:
        away.stop()
        with pytest.raises(BrokerUnavailable, match=str(away.port)):
            client.submit("iris", [ROW] * 3000, id="never-queued")
        with pytest.raises(JobNotFound):
            client.job("never-queued").record()
        assert results.client().keys("*never-queued*") == []
