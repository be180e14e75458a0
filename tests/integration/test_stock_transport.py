"""MUTIRAO_ENGINE=0: requests come through kombu's own transport, and results are kept and announced as ever."""

import brokers
import pytest
import samples
from servers import RedisServer
from stock import Raised, StockClient
from workers import WorkerProcess

from mutirao import Client
from mutirao.embedded.redis_server import free_port

pytestmark = brokers.redis_only

ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory):
    repository = samples.repository(tmp_path_factory.mktemp("stock") / "models", "iris")
    with WorkerProcess(server.url, repository.root, env={"MUTIRAO_ENGINE": "0"}) as started:
        yield started


@pytest.fixture(scope="module")
def caught(server, worker):
    """Send what a stock client can send, and return what its get() raised."""
    with StockClient(server.url) as stock:

        def send(asking):
            with pytest.raises(Raised) as found:
                stock.run(f"{asking}.get(timeout=20)")
            return found.value

        yield send


@pytest.fixture(autouse=True)
def serves_the_next(server, worker):
    """After each test the same worker still serves."""
    yield
    with Client(server.url) as client:
        assert client.predict("iris", ROW, timeout=20)["predict"].tolist() == [0]
    assert worker.process.poll() is None


def test_the_worker_says_what_is_lost(worker):
    """At its start the worker warns of what it does without."""
    assert "warning: MUTIRAO_ENGINE is 0, so requests come through kombu's own transport" in worker.log


def test_a_task_that_is_not_ours_fails(caught):
    """An unknown task fails with Celery's own NotRegistered."""
    found = caught("app.send_task('mutirao.train', queue='mutirao.iris')")
    assert (found.name, found.text) == ("NotRegistered", "'mutirao.train'")


def test_a_body_that_is_pickle_fails(caught):
    """A body in pickle fails as an InvalidRequest that names what may be sent."""
    found = caught("app.send_task('mutirao.predict', args=['iris', [[1]]], queue='mutirao.iris', serializer='pickle')")
    assert found.name == "InvalidRequest"
    assert "send application/json" in found.text


def test_a_request_that_is_none_fails(caught):
    """Arguments that are no request fail as an InvalidRequest."""
    assert (
        caught("app.send_task('mutirao.predict', args=[1, 2, 3, 4, 5], queue='mutirao.iris')").name == "InvalidRequest"
    )


def test_a_planned_failover(server, worker):
    """A Redis that refuses as a replica for a while does not end the worker."""
    admin = server.client()
    admin.replicaof("127.0.0.1", free_port())
    worker.wait_logged("is away, connecting again")
    admin.execute_command("REPLICAOF", "NO", "ONE")
