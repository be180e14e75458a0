"""Several models on one worker: none keeps another out, however much of it waits and however long it takes."""

import time

import numpy as np
import pytest

from mutirao import Client, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver
from support import brokers, execution_log, waiting
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A worker of two processes with a model that others flood, a quick one, and one of more than a second a row."""
    models = {"flood": 0.02, "quick": 0.001, "dear": 1.2}
    root = execution_log.repository(tmp_path_factory.mktemp("fairness") / "models", models, max_batch_rows=32)
    with RedisServer() as server, WorkerProcess(server.url, root, concurrency=2), Client(server.url) as client:
        client.predict("flood", np.array([[0.0, 1.0, 1.0]]), timeout=20)
        yield client


def test_a_flood_keeps_nobody_out(client):
    """Under a backlog of many seconds a request of another model is answered within two batches, also if nobody has timed it."""
    flood = client.submit_many("flood", np.array([[0.0, number, 1.0] for number in range(800)]))
    time.sleep(1)  # so that every slot is taken, and so is what is held ahead
    took = {}
    for model in ("quick", "dear", "quick"):
        began = time.monotonic()
        client.predict(model, np.array([[0.0, 1.0, 2.0]]), timeout=60)
        took[model] = time.monotonic() - began
    assert not flood[-1].done()
    assert took["quick"] < 3
    assert took["dear"] < 4.5
    for job in flood:
        job.cancel()


@pytest.mark.skipif(brokers.AMQP, reason="is about the engine's queues")
def test_a_crowded_tenant_keeps_no_other_out(client):
    """Under one tenant's backlog of many seconds the first request of another, to the same model, is answered within two batches."""
    given = settings.load({}, broker_url=client.settings.broker_url)
    driver, core = RedisDriver(given), RedisBackend(given, check=False)
    rows = np.array([[0.0, number, 4.0] for number in range(800)])
    crowd = driver.run(core.submit(SubmitOptions(model="flood", tenant="crowd"), rows, rows=True)).ids
    time.sleep(1)  # so that every slot is taken, and so is what is held ahead
    began = time.monotonic()
    (own,) = driver.run(core.submit(SubmitOptions(model="flood", tenant="single"), rows[:1], rows=True)).ids
    waiting.until(lambda: driver.run(core.record(own)).done, timeout_s=30)
    assert time.monotonic() - began < 4.5
    assert driver.run(core.record(crowd[-1])).state == "queued"
    driver.run(core.cancel_or_expire(crowd, "revoked"))
    driver.close()


def test_a_backlog_is_worked_on_without_a_pause(client):
    """While requests of one model wait, somebody runs some, though the queues of the worker's other models are empty."""
    jobs = client.submit_many("quick", np.array([[0.0, number, 3.0] for number in range(3000)]))
    runs = sorted({(job.timings.started_at, job.timings.finished_at) for job in client.as_completed(jobs, timeout=60)})
    until, idle = runs[0][1], 0.0
    for started_at, finished_at in runs[1:]:
        idle += max(0.0, started_at - until)
        until = max(until, finished_at)
    assert idle < 0.1 * (until - runs[0][0])
