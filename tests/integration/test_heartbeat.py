"""What workers say of themselves: what they serve at this moment, how quick they are, and that they are gone when they are."""

import os
import socket
import subprocess
import time

import joblib
import msgspec
import numpy as np
import pytest
from celery import Celery

from mutirao import Client, ModelUnavailable, SignatureMismatch, keyspace, printable, registry, settings
from mutirao.client.redis_backend import RedisBackend
from mutirao.doctor.fleet_checks import failures, leases, versions
from mutirao.doctor.snapshot import Snapshot
from mutirao.redisdb.drivers import RedisDriver
from mutirao_worker.cli.worker import free_name
from mutirao_worker.models.repository import Repository
from support import brokers, probe_models, sample_models, waiting
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import BIN, Fleet, WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]
LEASE_S = 2.0


@pytest.fixture(scope="module")
def announced(tmp_path_factory):
    """A worker of two processes; one of its models cannot be warmed up there."""
    folder = tmp_path_factory.mktemp("announced")
    repository = sample_models.repository(folder / "models", "iris", "slow")
    file = folder / "cold.joblib"
    joblib.dump(probe_models.Cold().fit(np.zeros((2, 3))), file)
    repository.add("cold", file)
    env = {"COLD": "1", "MUTIRAO_LEASE_S": str(LEASE_S)}
    with RedisServer() as server, WorkerProcess(server.url, repository.root, concurrency=2, env=env) as worker:
        yield Fleet(server, repository, worker)


@pytest.fixture
def look(announced):
    """Read the catalogue."""
    given = settings.load({}, **brokers.broker_of(announced.url))
    driver, core = RedisDriver(given), RedisBackend(given, check=False)
    yield lambda: driver.run(core.catalog())
    driver.close()


@pytest.fixture
def timed(announced, look):
    """Have the worker time one of its models, and say so."""

    def time():
        with announced.client() as client:
            for job in client.submit_many("iris", [ROW] * 300):
                job.result(30)
        waiting.until(own, timeout_s=15)
        return own()

    def own():
        return next(
            (each for each in look().workers if each.name == announced.worker.name and "iris" in each.speeds), None
        )

    return time


def test_only_what_is_warm_is_served(announced, look):
    """A worker that has announced itself serves what is loaded and warm; what failed its warm-up is unavailable, with the reason."""
    (worker,) = (worker for worker in look().workers if worker.name == announced.worker.name)
    assert set(worker.models) == {"iris", "slow"}
    assert look().models["cold"].reason == "its warm-up failed: RuntimeError: no weights on this machine"
    with pytest.raises(ModelUnavailable, match="no weights on this machine"), announced.client() as client:
        client.predict("cold", [[1.0, 2.0, 3.0]])


def test_a_worker_that_fails_speaks_for_itself_alone(announced, look):
    """A model that one worker serves is ready, however often another that cannot announces itself; when the one is gone, it is not."""
    why = "its warm-up failed: RuntimeError: no weights on this machine"

    def bad():
        return next(worker for worker in look().workers if worker.name == announced.worker.name)

    args = ["--only", "cold"]
    with WorkerProcess(announced.url, announced.repository.root, args=args) as other:
        before = bad().seen_at
        waiting.until(lambda: bad().seen_at > before, timeout_s=15)
        known = look()
        assert [worker.name for worker in known.serving("cold")] == [other.name]
        assert known.find("cold").signature.inputs
        assert known.find("cold").reason == ""
        assert bad().failing == {"cold": why}
        found = failures(Snapshot(settings=settings.load({}), registry=known))
        assert found.level == "warning"
        assert f"cold on {announced.worker.name} ({why})" in found.found
        other.stop()
        waiting.until(lambda: not look().serving("cold"))
        assert (look().models["cold"].state, look().models["cold"].reason) == ("unavailable", why)


def test_how_quick_it_is(announced, look, timed):
    """Once it has answered, a worker tells its rows a second and its latest batches' rows; the model remembers the speed."""
    worker = timed()
    assert worker.cores >= 1
    assert worker.speeds["iris"] > 100
    assert 1 <= worker.batches["iris"] <= 300
    assert look().speed("iris") >= worker.speeds["iris"]
    assert look().models["iris"].speed > 100
    if not brokers.AMQP:
        assert announced.server.client().zscore(keyspace.LEASES, worker.identity)


def test_a_queue_that_is_consumed_no_more(announced, look):
    """A worker that is told to consume a queue no more says so at once, and again when it does."""
    destination = [announced.worker.name]
    with Celery(broker=announced.broker_url) as app:
        app.control.cancel_consumer("mutirao.slow", destination=destination, reply=True)
        waiting.until(lambda: not look().serving("slow"), timeout_s=4)
        assert look().serving("iris")
        app.control.add_consumer("mutirao.slow", destination=destination, reply=True)
        waiting.until(lambda: look().serving("slow"), timeout_s=4)


@pytest.mark.skipif(brokers.AMQP, reason="is about the engine's leases")
def test_gone_within_its_lease(announced, look):
    """A worker that was killed is taken for gone when its lease lapses, not when its announcement is old; its speed is remembered."""
    args = ["--only", "slow"]
    env = {"MUTIRAO_LEASE_S": str(LEASE_S)}
    with WorkerProcess(announced.url, announced.repository.root, args=args, env=env) as other:
        assert len(look().serving("slow")) == 2
        other.kill()
        began = time.monotonic()
        waiting.until(lambda: len(look().serving("slow")) == 1, timeout_s=registry.FRESH_S)
        assert time.monotonic() - began < LEASE_S + 2
        waiting.until(lambda: look().silent == (other.name,), timeout_s=registry.FRESH_S)
        found = leases(Snapshot(settings=settings.load({}), registry=look()))
        assert (found.level, f"gone: {other.name}" in found.found) == ("warning", True)
    waiting.until(lambda: len(look().serving("iris")) == 1)  # one of another test may be on its way out


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_pools_without_processes(announced, look, pool):
    """Where nothing is forked, models are warm as well, and served."""
    args = ["--only", "iris", "--pool", pool]
    with WorkerProcess(announced.url, announced.repository.root, args=args) as other:
        assert [worker.models for worker in look().workers if worker.name == other.name] == [{"iris": "1"}]


def test_the_last_known_speed(announced, look):
    """A worker that has not timed a model announces it with the speed that was last measured, whoever measured it."""

    def own():
        return next(worker for worker in look().workers if worker.name == announced.worker.name)

    assert "slow" not in own().speeds
    redis, before = announced.server.client(), own().seen_at
    info = msgspec.structs.replace(look().models["slow"], speed=123.0, workers=0)
    redis.hset(keyspace.MODELS, "slow", msgspec.json.encode(info))
    waiting.until(lambda: own().seen_at > before, timeout_s=15)
    assert look().models["slow"].speed == 123.0


@pytest.mark.skipif(brokers.AMQP, reason="RabbitMQ keeps the queue of a name's remote control to one connection")
def test_workers_of_one_name_speak_each_for_itself(redis_server, announced):
    """Two workers under one name, and no simple one, are both there, each with what it serves; when one stops, the other still is."""
    name, root = f'né"w\n[x]@{socket.gethostname()}', announced.repository.root
    with (
        WorkerProcess(redis_server.url, root, name=name, args=["--only", "iris,slow"], wait=False) as both,
        WorkerProcess(redis_server.url, root, name=name, args=["--only", "iris"], wait=False) as one,
        announced._replace(server=redis_server).client() as client,
    ):
        both.wait_ready()
        one.wait_ready()
        for _ in range(2):  # each has announced itself once more
            since = time.time()
            waiting.until(lambda: all(worker.seen_at > since for worker in client.catalog().workers), timeout_s=15)  # noqa: B023 - it is called at once
            known = client.catalog()
            assert {worker.pid: set(worker.models) for worker in known.workers} == {
                both.pid: {"iris", "slow"},
                one.pid: {"iris"},
            }
            assert (known.models["iris"].workers, known.models["slow"].workers) == (2, 1)
        shown = printable.escaped(name)
        node, _, host = shown.partition("@")
        assert {worker.name for worker in known.workers} == {f"{node}#{pid}@{host}" for pid in (both.pid, one.pid)}
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
        one.stop()
        (left,) = client.catalog().workers
        assert (left.name, left.pid, set(left.models)) == (shown, both.pid, {"iris", "slow"})
        job = client.submit("iris", [ROW])
        job.result(20)
        assert printable.escaped(job.record().job.worker) == shown


def test_differing_copies_of_one_version(redis_server, tmp_path):
    """doctor names model, version and hosts; the catalogue keeps to one copy; what either takes is refused by nobody, whoever gets it."""
    first, second = Repository(tmp_path / "first"), Repository(tmp_path / "second")
    first.add("twin", sample_models.saved("iris"))
    second.add("twin", sample_models.saved("houses"))
    house = sample_models.get("houses").data[:1]
    with (
        WorkerProcess(redis_server.url, first.root) as one,
        WorkerProcess(redis_server.url, second.root) as other,
        Fleet(redis_server, first, one).client() as client,
        GatewayProcess(redis_server.url) as gateway,
        gateway.client() as http,
    ):
        shown = client.catalog().models["twin"].signature
        assert [spec.name for spec in shown.inputs] == ["X"]
        for _ in range(2):  # each has announced itself once more
            since = time.time()
            waiting.until(lambda: all(worker.seen_at > since for worker in client.catalog().workers), timeout_s=15)  # noqa: B023 - it is called at once
            known = client.catalog()
            assert known.models["twin"].signature == shown
            assert [[spec.name for spec in each.inputs] for each in known.models["twin"].variants] == [
                list(house.columns)
            ]
        found = versions(Snapshot(settings=settings.load({}), registry=known))
        assert (found.level, "twin version 1" in found.found) == ("warning", True)
        assert one.name in found.found
        assert other.name in found.found
        for data, body in (([ROW], {"rows": [ROW]}), (house, {"rows": house.to_numpy().tolist()})):
            assert client.submit("twin", data).id
            waiting.until(lambda: http.post("/v1/models/twin/jobs", json=body).status_code == 202, timeout_s=5)  # noqa: B023 - it is called at once
        if not brokers.AMQP:  # where kombu gives a message back, nothing can be noted in it
            _all_are_answered(client, redis_server.url, [ROW], house)
        with pytest.raises(SignatureMismatch):
            client.submit("twin", [[1.0, 2.0]])
        assert http.post("/v1/models/twin/jobs", json={"rows": [[1.0, 2.0]]}).status_code == 400
        one.stop()
        waiting.until(lambda: client.catalog().models["twin"].signature != shown, timeout_s=15)
        waiting.until(lambda: not client.catalog().models["twin"].variants, timeout_s=15)


def _all_are_answered(client, url, *data):
    """What some worker's copy takes is answered, whoever gets it first; what none takes fails."""
    jobs = [client.submit("twin", each) for _ in range(10) for each in data]
    assert {len(job.result(30)["predict"]) for job in jobs} == {1}
    assert {entry.how for job in jobs for entry in job.record().job.history} <= {"handed over"}
    with Celery(broker=url, backend=url) as app:
        nobodys = app.send_task(keyspace.TASK, ("twin", [[1.0, 2.0]]), queue=keyspace.queue("twin"))
        nobodys.get(timeout=30, propagate=False)
    with pytest.raises(SignatureMismatch):
        client.job(nobodys.id).result(30)


def test_a_name_that_cannot_be_printed(redis_server, tmp_path):
    """A worker whose name has a line break or an escape code is shown with these escaped: in its log, records, tables, and by doctor."""
    host = socket.gethostname()
    shown = rf"""odd\n\x1b[31m'"@{host}"""
    with (
        WorkerProcess(
            redis_server.url,
            sample_models.repository(tmp_path, "iris").root,
            name=f"odd\n\x1b[31m'\"@{host}",
            wait=False,
        ) as odd,
        Client(redis_server.url) as client,
    ):
        waiting.until(lambda: [worker.name for worker in client.catalog().workers] == [shown], timeout_s=60)
        job = client.submit("iris", [ROW])
        job.result(30)
        assert job.record().job.worker == shown
        assert f"{shown} ready" in odd.log
        env = {**os.environ, **brokers.environment(redis_server.url)}
        said = subprocess.run([BIN / "mutirao", "doctor"], env=env, capture_output=True, text=True, check=False).stdout
        assert f": {shown}\n" in said


def test_a_second_worker_of_a_machine_takes_a_name_of_its_own(redis_server):
    """Without --name, a worker is not called as another that lives here; one that was killed, or lives elsewhere, keeps no name."""
    given, host, redis = (
        settings.load({}, **brokers.broker_of(redis_server.url)),
        socket.gethostname(),
        redis_server.client(),
    )

    def announce(name, pid):
        info = registry.WorkerInfo(name=name, pid=pid, processes=1, models={}, seen_at=time.time())
        redis.hset(keyspace.WORKERS, name, msgspec.json.encode(info))

    dead = subprocess.Popen(["true"])
    dead.wait()
    for name, pid, free in (
        ("celery@elsewhere", os.getpid(), ""),
        (f"celery@{host}", dead.pid, ""),
        (f"celery@{host}", os.getpid(), f"celery2@{host}"),
        (f"celery2@{host}", os.getpid(), f"celery3@{host}"),
    ):
        announce(name, pid)
        assert free_name(given) == free
    redis_server.stop()
    assert free_name(given) == ""
