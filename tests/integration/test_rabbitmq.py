"""RabbitMQ for a broker, with results in Redis: what it promises, and what happens when a worker or the broker goes away."""

import subprocess
import sys

import msgspec
import pytest

from mutirao import BrokerUnavailable, Client, JobNotFound, QueueFull, WorkerLost, keyspace, settings
from mutirao.dead_letters import DeadLetters
from mutirao.redisdb.drivers import RedisDriver
from support import rabbitmq_server, sample_models, waiting
from support.worker_process import WorkerProcess

pytestmark = pytest.mark.skipif(bool(rabbitmq_server.MISSING), reason=rabbitmq_server.MISSING)

ROW = [[5.1, 3.5, 1.4, 0.2]]
WITHOUT_KOMBU = """
import sys
sys.modules["kombu"] = None
from mutirao import Client
Client("amqp://u:secret@127.0.0.1:1//", result_url="redis://127.0.0.1:1")
"""


@pytest.fixture(scope="module")
def server():
    with rabbitmq_server.RabbitServer() as made:
        yield made


@pytest.fixture
def results(redis_server, server):
    """A Redis for results; RabbitMQ has nothing left of the test before."""
    yield redis_server
    with server.connect() as connection:
        for model in ("iris", "slow", "aborts"):
            connection.default_channel.queue_delete(keyspace.queue(model))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return sample_models.repository(tmp_path_factory.mktemp("rabbitmq") / "models", "iris", "slow", "aborts").root


def _worker(server, results, root, **given):
    return WorkerProcess(server.url, root, env={"MUTIRAO_RESULT_URL": results.url}, **given)


def test_answers(connect, server, results, root):
    """Requests that were queued before the first worker started are answered, in order of submission, and nothing stays behind."""
    with connect(server.url, result_url=results.url, check=False) as client:
        jobs = client.submit_many("iris", ROW * 1200)
        assert server.depth("mutirao.iris") == 1200
        with _worker(server, results, root):
            assert all(job.result(30)["predict"].tolist() == [0] for job in jobs)
            waiting.until(lambda: server.depth("mutirao.iris") == 0)
        runs = [job.record().job for job in jobs]
        assert runs == sorted(runs, key=lambda run: (run.started_at, run.place))
    assert not results.client().keys("mutirao.*")


def test_a_killed_worker_loses_nothing(connect, server, results, root):
    """What a worker held when it was killed is answered by another, at once."""
    with _worker(server, results, root) as first, connect(server.url, result_url=results.url) as client:
        running = client.submit("slow", [[60.0, 0, 0]])
        waiting.until(lambda: running.status == "running")
        jobs = client.submit_many("iris", ROW * 20)
        running.cancel()
        first.kill()
        with _worker(server, results, root, concurrency=2):
            assert all(job.result(20)["predict"].tolist() == [0] for job in jobs)


@pytest.mark.timeout(180)
def test_the_broker_is_killed(connect, server, results, root):
    """RabbitMQ is killed and comes back: what ran meanwhile is kept, what waited is answered, once each, by the same worker."""
    with _worker(server, results, root, concurrency=2) as worker, connect(server.url, result_url=results.url) as client:
        running = client.submit("slow", [[3.0, 0, 0]])
        waiting.until(lambda: running.status == "running")
        jobs = client.submit_many("slow", [[[0.01, 0, 0]]] * 30)
        server.restart(kill=True)
        assert running.result(30)["predict"].tolist() == [3.0]
        assert all(job.result(60)["predict"].tolist() == [0.01] for job in jobs)
        assert client.predict("iris", ROW, timeout=30)["predict"].tolist() == [0]
        assert worker.process.poll() is None
        waiting.until(lambda: server.depth("mutirao.slow") == 0)
        assert "Traceback" not in worker.log


def test_a_dead_letter_is_sent_again(server, results, root):
    """A request that killed its process goes to the dead letters; sent again it waits in RabbitMQ under its own id."""
    with _worker(server, results, root), Client(server.url, result_url=results.url) as client:
        job = client.submit("aborts", [[-1.0, 0, 0]])
        with pytest.raises(WorkerLost):
            job.result(30)
    given = settings.load(broker_url=server.url, result_url=results.url)
    store, dead = RedisDriver(given), DeadLetters(given)
    letter = store.run(dead.find(job.id))
    assert (letter.reason, letter.model) == ("process died", "aborts")
    assert store.run(dead.replay([letter])) == {job.id: None}
    store.close()
    assert server.depth("mutirao.aborts") == 1
    with _worker(server, results, root), Client(server.url, result_url=results.url) as client:
        waiting.until(lambda: client.job(job.id).status == "failed")
        assert "replayed" in [each["how"] for each in msgspec.to_builtins(client.record(job.id).job.history)]


def test_away(connect, results):
    """Where the broker is away, a call fails in bounded time, names it without its password, and leaves no record."""
    with connect("amqp://u:secret@127.0.0.1:1//", result_url=results.url, check=False, timeout_s=1.0) as client:
        with pytest.raises(BrokerUnavailable, match=r"the broker at amqp://u:\*\*\*@127.0.0.1:1// is unavailable"):
            client.submit("iris", ROW, id="never")
        with pytest.raises(JobNotFound):
            client.job("never").record()


def test_a_full_queue(connect, server, results):
    """A call that does not fit into the queue is refused as a whole."""
    with connect(server.url, result_url=results.url, check=False, queue_limit=3) as client:
        client.submit_many("iris", ROW * 2)
        with pytest.raises(QueueFull, match="2 of 3 requests wait, 2 more do not fit"):
            client.submit_many("iris", ROW * 2, ids=["a", "b"])
        assert server.depth("mutirao.iris") == 2
        assert not results.client().exists(keyspace.record_key("a"))


def test_the_same_id_twice(connect, server, results):
    """The same id with the same content is queued once, whenever it is sent again."""
    with connect(server.url, result_url=results.url, check=False) as client:
        for _ in range(2):
            client.submit("iris", ROW, id="mine")
        assert server.depth("mutirao.iris") == 1


def test_an_idle_connection_that_broke(connect, server, results):
    """A client whose connection broke while nobody used it opens another, and its caller sees nothing of it."""
    with connect(server.url, result_url=results.url, check=False) as client:
        client.submit("iris", ROW)
        server.restart()
        client.submit("iris", ROW)
        assert server.depth("mutirao.iris") == 2


def test_without_kombu():
    """A client for whose broker kombu is missing says what to install, without the password."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT_KOMBU], capture_output=True, text=True, check=False)
    assert "pip install '.[celery]'" in ran.stderr
    assert "secret" not in ran.stderr
