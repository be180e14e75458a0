"""What waits, and where a request stands in its line, on a real Redis: told at once, however much waits, with or without workers."""

import json

import msgspec
import numpy as np
import pytest

from mutirao import keyspace, queue_stats, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.client.redis_backend import RedisBackend
from mutirao.dead_letters import DeadLetters
from mutirao.queue_stats import QueueDepth
from mutirao.redisdb.drivers import RedisDriver
from mutirao.registry import ModelInfo, WorkerInfo
from support import brokers
from support.reservations import QUEUE, age, requests, reserve

pytestmark = brokers.redis_only


@pytest.fixture
def ask(server, redis):
    """Run operations of a client's core: ask.submit("a", "b", tenant="crm", rows=3), ask.depths("iris"), ask.place("a")."""
    given = settings.load({}, broker_url=server.url)
    driver, core = RedisDriver(given), RedisBackend(given, check=False)

    class Asking:
        run = driver.run

        def submit(self, *names, rows=1, model="iris", **asked):
            driver.run(core.submit(SubmitOptions(model=model, **asked), [np.ones((rows, 4))] * len(names), list(names)))

        def look(self):
            driver.run(core.catalog())

        def depths(self, *models):
            return driver.run(queue_stats.depths(core, models))

        def counted(self, *models):
            return {(each.model, each.tenant): (each.requests, each.rows) for each in self.depths(*models)}

        def place(self, id):
            return driver.run(queue_stats.position(core, driver.run(core.record(id))))

        def before(self, *names):
            return [self.place(id).before for id in names]

    yield Asking()
    driver.close()


def announce(redis, worker, **speeds):
    """Have a worker say how quick it is."""
    info = WorkerInfo(
        name="w@host", pid=1, processes=1, models=dict.fromkeys(speeds, "1"), identity=worker.identity, speeds=speeds,
        seen_at=float(redis.time()[0]),
    )  # fmt: skip
    redis.hset(keyspace.WORKERS, "w@host", msgspec.json.encode(info))
    for name in speeds:
        redis.hset(keyspace.MODELS, name, msgspec.json.encode(ModelInfo(name=name, version="1")))


def test_places(worker, ask):
    """A request's place is how many of its priority are before it, at any moment: taken, given back, and taken again."""
    ask.submit("c", "d", priority="low")
    ask.submit("a", "b")
    assert ask.before("a", "b", "c", "d") == [0, 1, 0, 1]
    assert [ask.place(id).urgent for id in ("a", "d")] == [0, 2]
    held = worker("w")
    taken = reserve(held, 1)
    assert ask.before("b", "c", "d") == [0, 0, 1]
    ask.submit("e")
    assert ask.before("b", "e") == [0, 1]
    held.requeue([taken.requests[0][0]])
    assert ask.before("a", "b", "e") == [0, 1, 2]
    reserve(held, 100)
    ask.submit("f")
    assert ask.before("f") == [0]


def test_places_after_a_loss(worker, ask, redis, server):
    """What a lost worker held is before all others again; a dead letter that is replayed stands at the end."""
    ask.submit("a", "b")
    lost = worker("w1")
    reserve(lost)
    ask.submit("c")
    age(redis, lost)
    worker("w2")
    assert ask.before("a", "b", "c") == [0, 1, 2]
    last = worker("w3", max_deliveries=2)
    reserve(last, 1)
    age(redis, last)
    worker("w4", max_deliveries=2)
    dead = DeadLetters(settings.load({}, broker_url=server.url))
    assert ask.run(dead.replay([ask.run(dead.find("a"))])) == {"a": None}
    assert ask.before("b", "c", "a") == [0, 1, 2]


def test_many_wait(worker, ask, redis):
    """A place costs the same in a long line: a few commands, and none that looks at the line."""
    ask.submit(*(f"a{number}" for number in range(5000)))
    redis.config_resetstat()
    assert ask.before("a4999") == [4999]
    calls = redis.info("commandstats")
    assert not {"cmdstat_lrange", "cmdstat_lindex", "cmdstat_lpos"} & calls.keys()
    assert calls["cmdstat_llen"]["calls"] < 10
    reserve(worker("w"), 1000)
    assert ask.before("a4999") == [3999]


def test_a_place_behind_a_stock_consumer(ask, redis):
    """Where another program has taken or purged requests, a place is at worst the last in the line; the next line counts right."""
    ask.submit("a", "b", "c")
    redis.rpop(keyspace.queue_key("iris", 3), 2)
    assert ask.before("c") == [0]
    redis.delete(keyspace.queue_key("iris", 3))
    ask.submit("d", "e", rows=2)
    assert ask.before("d", "e") == [0, 1]
    redis.delete(keyspace.queue_key("iris", 3))
    ask.submit("f", rows=3)
    assert ask.counted("iris") == {("iris", ""): (1, 3)}


def test_no_place(worker, ask, redis, server):
    """Nobody can tell the place of a job that does not wait, or or that a stock client sent."""
    ask.submit("a")
    record = ask.run(RedisBackend(settings.load({}, broker_url=server.url), check=False).record("a"))
    plain = msgspec.structs.replace(record, job=msgspec.structs.replace(record.job, line=None))
    core = RedisBackend(settings.load({}, broker_url=server.url), check=False)
    assert ask.run(queue_stats.position(core, record)) is not None
    assert ask.run(queue_stats.position(core, plain)) is None
    assert ask.run(queue_stats.position(core, msgspec.structs.replace(record, status="STARTED"))) is None


def test_how_long_it_takes(worker, ask, redis):
    """The wait is what stands before a request over the live workers' speed; without a live one nobody knows."""
    ask.submit("a", "b", rows=10)
    ask.submit("urgent", rows=30, priority="high")
    ask.submit("c", tenant="crm", rows=400)
    held = worker("w")
    announce(redis, held, iris=100.0)
    assert [ask.place(id).wait_s for id in ("urgent", "a", "b", "c")] == [0, 0.3 + 0.3, 0.4 + 0.4, 0]
    ask.submit("d", tenant="crm")
    assert ask.place("d").wait_s == pytest.approx((200.5 + 50) / 100)  # on average a request of the line has 200.5 rows
    age(redis, held)
    ask.look()
    assert ask.place("a").wait_s is None


def test_depths(worker, ask, redis):
    """Requests and rows are counted by model and by tenant, as they come and go; what has no line of its own is in the queue's."""
    ask.submit("a", "b", rows=10)
    ask.submit("c", priority="high")
    ask.submit("d", tenant="crm", rows=7, priority="low")
    ask.submit("e", "f", tenant="web")
    ask.submit("g", model="forest", rows=3)
    whole = {
        ("iris", ""): (3, 21),
        ("iris", "crm"): (1, 7),
        ("iris", "web"): (2, 2),
        ("forest", ""): (1, 3),
        ("dear", ""): (0, 0),
    }
    assert ask.counted("iris", "forest", "dear") == whole
    held = worker("w")
    taken = reserve(held)
    assert len(taken.requests) == 6
    assert ask.counted("iris") == {("iris", ""): (0, 0)}
    held.requeue([tag for tag, _, _ in taken.requests])
    assert ask.counted("iris", "forest", "dear") == whole
    reserve(held)
    age(redis, held)
    worker("w2")
    assert ask.counted("iris", "forest", "dear") == whole
    assert redis.hgetall(keyspace.LIST_COUNTS)
    for _ in range(6):
        reserve(worker("w3"), 1)
    assert ask.counted("iris", "dear") == {("iris", ""): (0, 0), ("dear", ""): (0, 0)}


def test_stock_producers_are_counted(ask, redis):
    """Requests of a stock producer count as one row each; how long the oldest waits its id tells, where it is one that can."""
    headers = {"lang": "py", "task": keyspace.TASK, "id": "stock"}
    envelope = {"body": "W10=", "content-type": "application/json", "headers": headers, "properties": {}}
    redis.lpush(QUEUE, json.dumps(envelope))
    assert ask.depths("iris") == (QueueDepth("iris", "", 1, 1, None, (1, 0, 0, 0)),)
    headers["id"] = keyspace.new_id()
    redis.lpush(keyspace.queue_key("iris", 3), json.dumps(envelope))
    (found,) = ask.depths("iris")
    assert (found.requests, found.rows) == (2, 2)
    assert found.oldest_s == pytest.approx(0, abs=5)


def test_the_oldest(worker, ask, redis):
    """The age of what waits is that of the oldest at the head of any of a tenant's lists, by its record."""
    ask.submit("young", tenant="crm", priority="high")
    ask.submit("old", "other", tenant="crm")
    document = redis.get(keyspace.record_key("old")).decode()
    at = float(json.loads(document)["job"]["queued_at"])
    redis.set(keyspace.record_key("old"), document.replace(f'"queued_at":{at:.4f}', f'"queued_at":{at - 500:.4f}'))
    stock, crm = ask.depths("iris")
    assert stock.oldest_s is None
    assert crm.oldest_s == pytest.approx(500, abs=5)
    assert requests(reserve(worker("w"), 2))[1].id == "old"
    (_, crm) = ask.depths("iris")
    assert crm.oldest_s == pytest.approx(0, abs=5)


def test_nothing_is_asked_of_another_broker(ask):
    """Where the broker is no Redis, nobody can look into its queues, and nobody tries."""
    given = settings.load({}, broker_url="amqp://nobody@127.0.0.1:1//", result_url="redis://127.0.0.1:1/0")
    assert list(queue_stats.depths(RedisBackend(given, check=False), ["iris"])) == []
