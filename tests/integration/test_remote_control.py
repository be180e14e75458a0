"""Celery's remote control over real workers: what inspect shows, and what control changes."""

import datetime
import signal
from typing import Any

import pytest
from celery import Celery

from mutirao import JobCancelled, ModelNotFound, keyspace
from support import brokers, sample_models, waiting
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A worker of two processes that serves three of the models."""
    repository = sample_models.repository(
        tmp_path_factory.mktemp("control") / "models", "iris", "slow", "hangs", "forest"
    )
    repository.add("tells", sample_models.saved("slow"), max_wait_ms=300)
    repository.add(
        "seen", sample_models.saved("slow")
    )  # a model of one test alone: how long the others' requests take is not its
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, concurrency=2, args=["--only", "iris,slow,hangs,seen"]) as worker,
    ):
        yield Fleet(server, repository, worker)


@pytest.fixture
def client(busy):
    with busy.client() as client:
        yield client


@pytest.fixture
def stock(busy):
    with Celery(broker=busy.broker_url) as app:
        yield app


@pytest.fixture
def inspect(stock, busy):
    """Ask the worker: inspect("active")."""

    def ask(what, *args):
        found = getattr(stock.control.inspect(destination=[busy.worker.name], timeout=5, limit=1), what)(*args)
        return found[busy.worker.name]

    return ask


@pytest.fixture
def control(stock, busy):
    """Tell the worker: control("pool_grow", n=1)."""

    def tell(what, **given):
        said = stock.control.broadcast(what, given, destination=[busy.worker.name], reply=True, timeout=5, limit=1)
        return said[0][busy.worker.name]

    return tell


def _ids(requests):
    return {each["id"] for each in requests}


def test_inspect_active_and_reserved(client, inspect, busy):
    """What runs is active, with its process; what waits in the worker's hands is reserved; neither shows a value."""
    client.predict("seen", [[0.0, 0, 0]], timeout=20)
    running = []
    for _ in range(2):  # one after the other: each has its own process
        running.append(client.submit("seen", [[6.0, 7777.125, 0]]))
        waiting.until(lambda: running[-1].status == "running")
    waits = client.submit_many("seen", [[0.0, 7777.125, 0]] * 2)
    waiting.until(lambda: not brokers.queued(busy.server, "seen"))
    active, reserved = inspect("active"), inspect("reserved")
    assert _ids(active) == {job.id for job in running}
    assert {each["worker_pid"] for each in active} == {child.pid for child in busy.worker.children}
    assert all(each["time_start"] and each["name"] == keyspace.TASK for each in active)
    assert _ids(reserved) == {job.id for job in waits}
    assert "7777" not in str(active) + str(reserved)
    found = inspect("query_task", running[0].id, waits[0].id)
    assert {id: said[0] for id, said in found.items()} == {running[0].id: "active", waits[0].id: "reserved"}
    for job in (*running, *waits):
        job.result(20)
    # A client may hear of an end a moment before its worker hears that it is kept.
    waiting.until(lambda: inspect("active") == inspect("reserved") == [])


def test_inspect_stats(client, inspect, busy):
    """The statistics count each request, and tell the fitted times of each model's batches."""
    before = inspect("stats")["total"].get(keyspace.TASK, 0)
    for job in client.submit_many("iris", [ROW] * 50):
        job.result(20)
    # A client may hear of an end a moment before its worker hears that it is kept.
    waiting.until(lambda: inspect("stats")["total"].get(keyspace.TASK) == before + 50)
    stats = inspect("stats")
    assert stats["pool"]["max-concurrency"] == 2
    assert stats["batching"]["iris"]["answered"] >= 50
    assert stats["batching"]["iris"]["ms_per_row"] + stats["batching"]["iris"]["ms_per_batch"] > 0


def test_inspect_scheduled(client, stock, inspect, busy):
    """A request with a time to run at is scheduled until then, and runs then."""
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    id = str(stock.send_task(keyspace.TASK, ["iris", [ROW]], queue="mutirao.iris", eta=eta))
    (found,) = waiting.until(lambda: inspect("scheduled"))
    assert found["request"]["id"] == id
    waiting.until(lambda: busy.server.client().exists(keyspace.record_key(id)))
    assert client.job(id).result(20)["predict"].tolist() == [0]
    assert datetime.datetime.now(datetime.UTC) >= eta
    assert inspect("scheduled") == []


def test_queues_come_and_go(client, control, inspect, busy):
    """A worker told to consume another queue serves it at once, and told to stop leaves it alone; the rest goes on."""
    control("cancel_consumer", queue="mutirao.iris")
    try:
        # Celery answers before it does it.
        waiting.until(lambda: "mutirao.iris" not in {queue["name"] for queue in inspect("active_queues")})
        waiting.until(lambda: not busy.server.client().exists(keyspace.consumers_key("mutirao.iris")))
        job = client.submit("iris", [ROW])
        assert client.predict("slow", [[0.0, 1, 0]], timeout=20)["predict"].tolist() == [1.0]
        assert job.status == "queued"
        assert brokers.queued(busy.server, "iris") == 1
    finally:
        control("add_consumer", queue="mutirao.iris")
    assert job.result(20)["predict"].tolist() == [0]
    assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]


def test_a_queue_whose_model_is_not_loaded(busy, control):
    """A queue whose model the worker did not load is answered with what it serves; the worker lives, and stops when told."""
    control("add_consumer", queue="mutirao.forest")
    try:
        with busy.client(check=False) as unchecked:
            with pytest.raises(
                ModelNotFound, match="model 'forest' is not served: models served: hangs, iris, seen, slow"
            ):
                unchecked.predict("forest", sample_models.get("forest").data[:1], timeout=20)
            assert unchecked.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
    finally:
        control("cancel_consumer", queue="mutirao.forest")


def test_no_model_s_queue(busy, control, client):
    """A queue that is no model's is consumed without harm."""
    control("add_consumer", queue="letters")
    try:
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
    finally:
        control("cancel_consumer", queue="letters")
    assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]


def test_rate_limit(client, control):
    """A rate limit set at run time holds requests back, and lets all of them go in the end; without it they go at once."""
    assert "ok" in control("rate_limit", task_name=keyspace.TASK, rate_limit="10/s")
    jobs = client.submit_many("iris", [ROW] * 15)
    for job in jobs:
        assert job.result(30)["predict"].tolist() == [0]
    finished = sorted(job.timings.finished_at for job in jobs)
    assert finished[-1] - finished[0] > 0.8
    assert "ok" in control("rate_limit", task_name=keyspace.TASK, rate_limit=None)
    for job in client.submit_many("iris", [ROW] * 100):
        assert job.result(5)["predict"].tolist() == [0]


def test_pool_grows_and_shrinks(client, control, inspect, busy):
    """A pool that grew runs as many batches at once as it has processes; one that shrank as many fewer, and goes on."""
    assert "ok" in control("pool_grow", n=2)
    waiting.until(lambda: len(busy.worker.children) == 4)
    jobs: list[Any] = []

    def all_busy():
        active = inspect("active")
        if len(active) == len(jobs):  # one by one, so that no two make a batch
            jobs.append(client.submit("slow", [[5.0, 0, 0]]))
        return {each["worker_pid"] for each in active} == {child.pid for child in busy.worker.children}

    waiting.until(all_busy)
    for job in jobs:
        job.result(20)
    assert "ok" in control("pool_shrink", n=2)
    waiting.until(lambda: len(busy.worker.children) == 2)
    jobs = [client.submit("slow", [[0.3, 0, 0]]) for _ in range(4)]
    for job in jobs:
        assert job.result(20)["predict"].tolist() == [0.3]


def test_one_of_a_batch_is_terminated(busy, stock):
    """Terminating one request of a batch ends it as revoked, and its neighbours succeed, in another process."""
    with busy.client() as client, WorkerProcess(busy.url, busy.repository.root, args=["--only", "tells"]) as worker:
        for _ in range(2):  # its times are known, so that several make a batch
            client.predict("tells", [[0.0, 0, 0]], timeout=20)
        # The others wait for the first, so that they go together however they come.
        first = client.submit("tells", [[1.0, 0, 0]])
        waiting.until(lambda: first.status == "running")
        jobs = client.submit_many("tells", [[2.0, place, 0] for place in range(4)])
        waiting.until(lambda: all(job.status == "running" for job in jobs))
        before = {child.pid for child in worker.children}
        stock.control.revoke(jobs[1].id, terminate=True, signal="SIGKILL", destination=[worker.name])
        with pytest.raises(JobCancelled):
            jobs[1].result(20)
        for place in (0, 2, 3):
            assert jobs[place].result(20)["predict"].tolist() == [2.0 + place]
        assert not before & {child.pid for child in worker.children}


def test_terminated_alone(client, stock, inspect, busy):
    """Terminating a request that runs alone ends it as revoked; the next is served."""
    job = client.submit("hangs", [[-1.0, 0, 0]])
    waiting.until(lambda: job.id in _ids(inspect("active")))
    stock.control.revoke(job.id, terminate=True, destination=[busy.worker.name])
    with pytest.raises(JobCancelled):
        job.result(20)
    assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
    waiting.until(lambda: len(busy.worker.children) == 2)


def test_terminated_before_its_process_begins(busy, stock):
    """Terminating a request that was sent to a process, which has not begun it yet, ends it and the process that gets it."""
    with busy.client() as client, WorkerProcess(busy.url, busy.repository.root, args=["--only", "tells"]) as worker:
        (process,) = worker.children
        process.suspend()
        job = client.submit("tells", [[0.0, 1, 0]])
        waiting.until(lambda: job.status == "running")
        revoke = {"terminate": True, "signal": "SIGKILL", "destination": [worker.name]}
        assert stock.control.revoke(job.id, **revoke, reply=True, timeout=10, limit=1)
        process.resume()
        with pytest.raises(JobCancelled):
            job.result(20)
        waiting.until(lambda: process.pid not in {child.pid for child in worker.children})
        assert client.predict("tells", [[0.0, 2, 0]], timeout=20)["predict"].tolist() == [2.0]


def test_a_batch_is_given_back_at_a_cold_shutdown(busy, stock):
    """SIGQUIT gives back each request of a batch that runs, once and in their order, and another worker answers them."""
    args = ["--only", "tells"]
    with busy.client() as client:
        with WorkerProcess(busy.url, busy.repository.root, args=args) as worker:
            client.predict("tells", [[0.0, 0, 0]], timeout=20)
            (process,) = worker.children
            if brokers.AMQP:  # it asks for more than two once it has timed the model
                look = stock.control.inspect(destination=[worker.name], timeout=5, limit=1)
                waiting.until(lambda: look.stats()[worker.name]["prefetch_count"] >= 4)
            jobs = client.submit_many("tells", [[1.0, place, 0] for place in range(4)])
            waiting.until(lambda: all(job.status == "running" for job in jobs))
            assert {job.record().job.batch for job in jobs} == {4}
            worker.process.send_signal(signal.SIGQUIT)
            worker.wait_ended(10)
        assert not process.is_running()
        if not brokers.AMQP:  # on another server than the queue, the record says "running" until another worker has it
            assert [job.status for job in jobs] == ["queued"] * 4
        assert brokers.queued(busy.server, "tells") == 4
        with WorkerProcess(busy.url, busy.repository.root, args=args):
            assert [job.result(20)["predict"].tolist() for job in jobs] == [[1.0 + place] for place in range(4)]
        assert [job.record().job.attempts for job in jobs] == [1] * 4


def test_shutdown(busy, stock, tmp_path):
    """`celery control shutdown` ends a worker as SIGTERM does."""
    with WorkerProcess(busy.url, busy.repository.root) as other:
        waiting.until(lambda: stock.control.ping(destination=[other.name], timeout=1, limit=1))
        stock.control.shutdown(destination=[other.name])
        assert other.wait_ended() in (0, -signal.SIGTERM)
        assert "Got shutdown from remote" in other.log
