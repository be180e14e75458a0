"""The scripts that end jobs, on a real Redis: whoever has a webhook leaves one task for it, however it ends; nobody else leaves any."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from mutirao import Client, keyspace, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.client.redis_backend import RedisBackend
from mutirao.dead_letters import DeadLetters
from mutirao.redisdb.drivers import RedisDriver
from mutirao_worker.engine.job_records import JobRecords
from mutirao_worker.engine.outcome import BatchRun, Outcome
from support import brokers, waiting
from support.reservations import age, end, ids, record, requests, reserve

pytestmark = brokers.redis_only

URL = "https://crm.example/hook?id=7"
# A stock worker that cannot import this project; it says which jobs it was told of.
WORKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mutirao", "mutirao_worker"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
from celery import Celery
app = Celery("stock", broker=sys.argv[1])
app.conf.broker_connection_retry_on_startup = True

@app.task(name="mutirao.webhook", bind=True)
def hook(task, id):
    app.connection_for_write().default_channel.client.rpush("told", f"{task.request.id} {id}")

app.worker_main(["worker", "--pool=solo", "--queues=mutirao:webhooks", "--loglevel=error", "--without-gossip", "--without-mingle"])
"""


@pytest.fixture
def core(server, redis):
    """Run operations of a client's core, and submit jobs that have a webhook."""
    given = settings.load({}, broker_url=server.url)
    driver, core = RedisDriver(given), RedisBackend(given, check=False)

    class Running:
        def run(self, operation):
            return driver.run(operation)

        def submit(self, *names, **asked):
            ask = SubmitOptions(model="iris", webhook=URL, **asked)
            return driver.run(core.submit(ask, [np.ones((1, 4))] * len(names), list(names)))

        def cancel(self, id):
            return driver.run(core.cancel(id))

        def record(self, id):
            return driver.run(core.record(id))

    yield Running()
    driver.close()


def told(redis):
    """The jobs of which somebody is to be told, in order."""
    messages = [json.loads(raw) for raw in reversed(redis.lrange(keyspace.WEBHOOKS, 0, -1))]
    assert all(message["headers"]["task"] == keyspace.WEBHOOK_TASK for message in messages)
    found = [json.loads(message["body"])[0][0] for message in messages]
    assert [message["headers"]["id"] for message in messages] == [f"webhook-{id}" for id in found]
    return found


def test_succeeded_and_failed(worker, server, redis, core, submit):
    """Who succeeds and who fails is told of in the step that ends it, once; who has no webhook is not, whatever its result says."""
    core.submit("a", "b")
    submit("c")
    held = worker("w")
    found = requests(reserve(held))
    assert told(redis) == []
    run = BatchRun("iris", "1", "w@host", 1.0, 2.0, 3)
    results = (
        b'{"id":"x"}',
        b'{"exc_type":"E","exc_message":["x"]}',
        b'{"parameters":{"webhook":"https://crm.example"}}',
    )
    endings = [
        Outcome(each, "FAILURE" if each.id == "b" else "SUCCESS", result)
        for each, result in zip(found, results, strict=True)
    ]
    records = JobRecords(settings.load({}, broker_url=server.url), held)
    records.commit(run, endings)
    assert told(redis) == ["a", "b"]
    assert record(redis, "a")["job"]["webhook"] == URL
    records.commit(run, endings)
    assert told(redis) == ["a", "b"]


def test_cancelled_and_expired(worker, redis, core, submit, server):
    """Who is cancelled or expires is told of, once: found out by a client, when it is taken, or by a last look."""
    core.submit("cancelled", "seen")
    core.submit("asked", "taken", expires_s=0.05)
    submit("other")
    with Client(server.url, check=False) as client:
        assert client.cancel("other")
    for _ in range(2):
        assert core.cancel("cancelled")
    assert told(redis) == ["cancelled"]
    time.sleep(0.1)  # the deadline itself
    assert core.record("asked").state == "expired"
    assert told(redis) == ["cancelled", "asked"]
    held = worker("w")
    taken = reserve(held)
    assert ids(taken) == ["seen"]
    assert told(redis) == ["cancelled", "asked", "taken"]
    document = redis.get(keyspace.record_key("seen")).decode()
    redis.set(keyspace.record_key("seen"), document.replace('"expires_at":', '"expires_at":1.0,"was":'))
    records = JobRecords(settings.load({}, broker_url=server.url), held)
    assert records.prerun_check(requests(taken)) == ["expired"]
    assert told(redis) == ["cancelled", "asked", "taken", "seen"]


def test_given_up_and_replayed(worker, redis, core, server):
    """Who is given up is told of; replayed, it ends again, and is told of again."""
    core.submit("a", tenant="crm")
    lost = worker("w1", max_deliveries=1)
    reserve(lost)
    age(redis, lost)
    worker("w2", max_deliveries=1)
    assert told(redis) == ["a"]
    dead = DeadLetters(settings.load({}, broker_url=server.url))
    letter = core.run(dead.find("a"))
    assert core.run(dead.replay([letter])) == {"a": None}
    assert record(redis, "a")["job"]["webhook"] == URL
    held = worker("w3")
    assert end(held, server, requests(reserve(held))) == ["1"]
    assert told(redis) == ["a", "a"]


def test_a_stock_worker_runs_it(worker, redis, core, server):
    """A Celery worker that knows nothing of this project takes the task from its queue and runs it, with the job's id."""
    core.submit("a", "b")
    assert core.cancel("a")
    assert core.cancel("b")
    process = subprocess.Popen([sys.executable, "-c", WORKER, server.url])
    try:
        waiting.until(lambda: redis.llen("told") == 2)
        assert redis.lrange("told", 0, -1) == [b"webhook-a a", b"webhook-b b"]
        waiting.until(lambda: not redis.exists("unacked"))
    finally:
        process.terminate()
        assert process.wait(20) == 0
