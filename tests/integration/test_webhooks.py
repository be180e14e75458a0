"""Webhooks end to end: a job ends, and its receiver is told, whatever becomes of the receiver or of whoever tells."""

import contextlib
import threading
import time

import pytest
import standardwebhooks
from celery import Celery

from mutirao import errors, keyspace, settings
from mutirao.dead_letters import DeadLetters
from mutirao.doctor import snapshot
from mutirao.embedded import Embedded
from mutirao.embedded.redis_server import free_port
from mutirao.redisdb.drivers import RedisDriver
from mutirao_worker.webhooks.outbox import Outbox
from support import brokers, waiting, webhook_process
from support.redis_servers import RedisServer
from support.webhook_process import SECRET, Jobs, WebhookProcess, hosts
from support.webhook_receivers import Receiver, Silent

pytestmark = brokers.redis_only

LEASE = {"MUTIRAO_LEASE_S": "1"}


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


@pytest.fixture(scope="module")
def ports():
    """Ports for receivers that come and go: an operator names each that may be called."""
    return [free_port() for _ in range(16)]


@pytest.fixture(scope="module")
def courier(server, ports):
    """One process for all tests that do not end it."""
    with WebhookProcess(server.url, ",".join(f"http://127.0.0.1:{port}" for port in ports)) as started:
        yield started


@pytest.fixture
def receive(ports, courier):
    """Start a receiver that the courier may call."""
    with contextlib.ExitStack() as stack:
        yield lambda *statuses, **given: stack.enter_context(Receiver(*statuses, port=ports.pop(), **given))


@pytest.fixture
def redis(server):
    """A client of the Redis; whatever another test left is gone."""
    client = server.client()
    client.delete(keyspace.DEAD, keyspace.DEAD_INDEX, keyspace.WEBHOOKS, keyspace.WEBHOOKS_HELD)
    return client


@pytest.fixture
def jobs(server, redis):
    with Jobs(server.url) as made:
        yield made


@pytest.fixture
def own_jobs(redis_server):
    """Jobs on a Redis of the test's own, for tests that end the process that tells."""
    with Jobs(redis_server.url) as made:
        yield made


def letters(server):
    given = settings.load({}, broker_url=server.url)
    dead, client = DeadLetters(given), RedisDriver(given)
    try:
        return client.run(dead.letters(client.run(dead.ids())))
    finally:
        client.close()


def empty(redis):
    return not redis.exists(keyspace.WEBHOOKS, keyspace.WEBHOOKS_HELD)


def test_a_receiver_is_told_and_can_tell_that_it_is_us(receive, courier, redis, jobs):
    """An end is POSTed once, as the job's own document, with a signature that Standard Webhooks' library takes."""
    receiver = receive()
    (id,) = jobs.end(f"{receiver.url}?token=hunter2")
    (got,) = receiver.wait()
    event = standardwebhooks.Webhook(SECRET).verify(got.body, got.headers)
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("job.cancelled", id, "cancelled")
    assert event["data"]["links"]["self"] == f"/v1/jobs/{id}"
    assert "result" not in event["data"]
    assert got.path == "/hook?token=hunter2"
    assert got.headers["content-type"] == "application/json"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(got.body.replace(b"cancelled", b"succeeded"), got.headers)
    waiting.until(lambda: empty(redis))
    log = courier.wait_logged(f"webhook of job {id} to 127.0.0.1:{receiver.port}: answered 204, try 1")
    assert not [word for word in ("hunter2", "/hook", SECRET[6:]) if word in log]
    assert len(receiver.requests) == 1


def test_a_receiver_that_is_ill_is_called_again_with_the_same_id(receive, redis, jobs):
    """500 twice and then 200: three calls of one id and one body, each signed for its own time, and waits that grow."""
    receiver = receive(500, 500, 200)
    jobs.end(receiver.url)
    waits = []
    for tries in (1, 2):
        receiver.wait(tries)
        waits.append(webhook_process.wait_tried(redis, tries))
        webhook_process.pass_time(redis)
    calls = receiver.wait(3)
    assert 3 < waits[0] <= 6
    assert 18 < waits[1] <= 30
    assert len({call.headers["webhook-id"] for call in calls}) == len({call.body for call in calls}) == 1
    for call in calls:
        standardwebhooks.Webhook(SECRET).verify(call.body, call.headers)
    waiting.until(lambda: empty(redis))


def test_retry_after_is_kept(receive, redis, jobs):
    """A receiver that says 429 and Retry-After is left alone for that long."""
    receiver = receive(429, 200, headers={"Retry-After": "300"})
    jobs.end(receiver.url)
    assert 290 < webhook_process.wait_tried(redis, 1) <= 300


@pytest.mark.parametrize("status", [410, 404, 307])
def test_what_can_never_be_delivered_is_kept_for_an_operator(receive, server, redis, jobs, status):
    """410, another 4xx, a redirect: called once, not followed, and then a dead letter that says so and can be replayed."""
    elsewhere = receive()
    receiver = receive(status, 200, headers={"Location": elsewhere.url})
    (id,) = jobs.end(receiver.url)
    (letter,) = waiting.until(lambda: letters(server))
    assert (letter.reason, letter.model, letter.attempts) == ("webhook undelivered", "iris", 1)
    assert f"answered {status}" in letter.message
    assert letter.replayable
    waiting.until(lambda: empty(redis))
    given = settings.load({}, broker_url=server.url)
    with contextlib.closing(RedisDriver(given)) as client:
        assert client.run(DeadLetters(given).replay([letter])) == {f"webhook-{id}": None}
    assert len(receiver.wait(2)) == 2
    waiting.until(lambda: empty(redis))
    assert elsewhere.connections == 0


def test_after_the_last_try_it_is_given_up(receive, server, redis, jobs):
    """A receiver that fails ten times over a day leaves a dead letter that counts them."""
    receiver = receive(503)
    jobs.end(receiver.url)
    for tries in range(1, 10):
        webhook_process.wait_tried(redis, tries)
        webhook_process.pass_time(redis)
    (letter,) = waiting.until(lambda: letters(server))
    assert letter.attempts == len(receiver.requests) == 10


def test_a_job_without_a_record_any_more_is_a_dead_letter(courier, server, redis):
    """Where the record has expired before a receiver could be told, an operator sees that."""
    redis.lpush(keyspace.WEBHOOKS, webhook_process.message("gone"))
    (letter,) = waiting.until(lambda: letters(server))
    assert (letter.id, letter.reason) == ("webhook-gone", "webhook undelivered")
    assert "record has expired" in letter.message


def test_a_message_that_is_none_is_dropped(receive, courier, redis, jobs):
    """Whatever else lies in the list is dropped with a line in the log, and the next delivery is made."""
    other = webhook_process.message("x").replace("mutirao.webhook", "os.system")
    redis.lpush(keyspace.WEBHOOKS, b"\xff\x00", b"[]", b'{"headers": {}}', b"null", other)
    receiver = receive()
    jobs.end(receiver.url)
    receiver.wait()
    waiting.until(lambda: empty(redis), what=lambda: courier.log)


def test_a_delivery_that_is_revoked_is_not_made(receive, server, courier, redis):
    """Celery's own revoke ends a delivery: it is neither made nor taken again."""
    receiver = receive()
    with Celery(broker=server.url) as celery:
        celery.control.revoke("webhook-unwanted")
    courier.wait_logged("webhook-unwanted")
    redis.lpush(keyspace.WEBHOOKS, webhook_process.message("unwanted"))
    waiting.until(lambda: empty(redis))
    assert not redis.exists(keyspace.DEAD)
    assert receiver.connections == 0


def test_a_record_that_cannot_be_read_is_a_dead_letter(courier, server, redis):
    """A record that is no record does not keep a thread busy for ever."""
    redis.set(keyspace.record_key("torn"), b'{"status":')
    redis.lpush(keyspace.WEBHOOKS, webhook_process.message("torn"))
    (letter,) = waiting.until(lambda: letters(server))
    assert "cannot be read" in letter.message
    redis.delete(keyspace.record_key("torn"))


def test_doctor_sees_what_nobody_tells(redis_server, own_jobs):
    """Doctor warns of ends that wait while no courier runs, and takes a courier that runs for no stranger."""
    given = own_jobs.settings
    assert snapshot.read(given, {}).undelivered == 0
    own_jobs.end("http://127.0.0.1:1/", 3)
    assert snapshot.read(given, {}).undelivered == 3
    with WebhookProcess(redis_server.url, "http://127.0.0.1:1"):
        waiting.until(lambda: snapshot.read(given, {}).undelivered == 0)
        assert snapshot.read(given, {}).foreign == ()


def test_a_delivery_outlives_kill_9(redis_server, own_jobs):
    """The process is killed while its receiver is being told: after the next one's start the receiver is told again, within the lease."""
    redis, hung = redis_server.client(), threading.Event()
    with Receiver(before=lambda _: hung.wait(20)) as receiver:
        with WebhookProcess(redis_server.url, hosts(receiver), env=LEASE) as courier:
            (id,) = own_jobs.end(receiver.url)
            receiver.wait(1)
            courier.kill()
        hung.set()
        assert (redis.llen(keyspace.WEBHOOKS), redis.zcard(keyspace.WEBHOOKS_HELD)) == (0, 1)
        with WebhookProcess(redis_server.url, hosts(receiver), env=LEASE):
            calls = receiver.wait(2)
            assert [call.event["data"]["id"] for call in calls] == [id, id]
            assert len({call.headers["webhook-id"] for call in calls}) == 1
            waiting.until(lambda: empty(redis))


def test_what_is_on_its_way_is_held_until_its_holder_falls_silent(redis_server, own_jobs):
    """A process whose threads are all busy keeps what it holds for as long as it says so, and loses it a lease after it fell silent."""
    given = settings.load({}, broker_url=redis_server.url, lease_s=2.0)
    with contextlib.closing(Outbox(given)) as busy, contextlib.closing(Outbox(given)) as other:
        own_jobs.end("http://127.0.0.1:1/")
        (envelope,) = busy.take(1)
        began = time.monotonic()
        while time.monotonic() - began < 5:
            assert busy.take(0) == other.take(1) == []
        assert waiting.until(lambda: other.take(1), timeout_s=10) == [envelope]
        busy.complete(envelope)
        assert empty(redis_server.client())


def test_fifty_dead_receivers_do_not_delay_a_healthy_one(redis_server, own_jobs):
    """Fifty receivers that take connections and never answer, each with twenty deliveries: a healthy one is told at once, all the time."""
    redis = redis_server.client()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Silent()) for _ in range(50)]
        healthy = stack.enter_context(Receiver())
        stack.enter_context(WebhookProcess(redis_server.url, hosts(healthy, *silent), threads=128))
        for each in silent:
            own_jobs.end(each.url, 20)
        waiting.until(lambda: not redis.llen(keyspace.WEBHOOKS))
        late = []
        for count in range(1, 11):
            began = time.monotonic()
            own_jobs.end(healthy.url)
            healthy.wait(count)
            late.append(time.monotonic() - began)
        assert sorted(late)[5] < 1, late
        assert max(late) < 5, late
        assert redis.zcard(keyspace.WEBHOOKS_HELD) >= 1000


def test_redis_away_and_back(redis_server):
    """While Redis is away nothing is lost, and what was left is told when it is back; a stop in between two deliveries is clean."""
    redis = redis_server.client()
    with (
        Receiver() as receiver,
        WebhookProcess(redis_server.url, hosts(receiver)) as courier,
        Jobs(redis_server.url) as jobs,
    ):
        jobs.end(receiver.url)
        receiver.wait(1)
        waiting.until(lambda: empty(redis))
        redis_server.stop()
        courier.wait_logged("is away, connecting again")
        redis_server.start()
        jobs.end(receiver.url)
        receiver.wait(2)
        waiting.until(lambda: empty(redis))
        assert courier.stop() == 0


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"MUTIRAO_WEBHOOK_HOSTS": ""}, "webhooks are off"),
        ({"MUTIRAO_WEBHOOK_HOSTS": "*.com"}, "MUTIRAO_WEBHOOK_HOSTS has '*.com'"),
        ({"MUTIRAO_WEBHOOK_SECRET": ""}, "MUTIRAO_WEBHOOK_SECRET is missing"),
        ({"MUTIRAO_WEBHOOK_SECRET": "hunter2"}, "MUTIRAO_WEBHOOK_SECRET is not a secret"),
    ],
)
def test_it_does_not_start_with_settings_that_cannot_be(env, said):
    """Without hosts, or without a good secret, the command ends with one line that names the setting, and not its secret."""
    with WebhookProcess("redis://127.0.0.1:1", "crm.example.com", env=env, wait=False) as courier:
        assert courier.process.wait(timeout=30) == 2
        assert said in courier.log
        assert "hunter2" not in courier.log
        assert "Traceback" not in courier.log


def test_results_on_a_server_of_their_own():
    """Where queues are on another Redis than records, deliveries are with the records, and so are dead letters that are replayed."""
    with RedisServer() as queue, RedisServer() as results, Receiver(410, 200) as receiver:
        env = {"MUTIRAO_RESULT_URL": results.url}
        with (
            WebhookProcess(queue.url, hosts(receiver), env=env),
            Jobs(queue.url, result_url=results.url) as jobs,
            contextlib.closing(RedisDriver(jobs.settings)) as client,
        ):
            jobs.end(receiver.url)
            dead = DeadLetters(jobs.settings)
            (id,) = waiting.until(lambda: client.run(dead.ids()))
            assert client.run(dead.replay([client.run(dead.find(id))])) == {id: None}
            receiver.wait(2)


def test_mutirao_up_tells_receivers_where_hosts_are_allowed(tmp_path, monkeypatch):
    """`mutirao up` runs the courier with the settings of its caller, and refuses to start without a secret."""
    with Receiver() as receiver:
        monkeypatch.setenv("MUTIRAO_WEBHOOK_HOSTS", hosts(receiver))
        with pytest.raises(errors.SettingsError, match="MUTIRAO_WEBHOOK_SECRET"), Embedded(tmp_path, workers=0):
            pass
        monkeypatch.setenv("MUTIRAO_WEBHOOK_SECRET", SECRET)
        with Embedded(tmp_path, workers=0, flower=False) as system, Jobs(system.broker_url) as jobs:
            assert "webhooks" in system.pids
            jobs.end(receiver.url)
            receiver.wait()


def test_a_job_that_expired_is_told_of_too(receive, jobs):
    """A job whose deadline passed before anybody served it ends in an event."""
    receiver = receive()
    jobs.expire(receiver.url)
    assert receiver.wait()[0].event["type"] == "job.expired"
