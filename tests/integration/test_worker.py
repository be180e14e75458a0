"""The worker: one copy of the models, warm children, capped threads, time limits, its banner, its start and its end."""

import os
import subprocess
import sys

import joblib
import numpy as np
import psutil
import pytest

from mutirao import Client, ModelFailed, ModelUnavailable, TimeLimitExceeded, keyspace, settings
from support import bad_models, brokers, probe_models, sample_models, waiting
from support.redis_servers import RedisServer
from support.stock_client import Raised
from support.worker_process import Fleet, WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def special(tmp_path_factory):
    """A worker of two processes whose models tell how they are treated; three of them cannot be loaded."""
    folder = tmp_path_factory.mktemp("special")
    repository = sample_models.repository(folder / "models", "iris", "slow", "raises")
    sample_models.repository(folder / "models", "hangs", soft_time_limit_s=0.5, time_limit_s=30.0)
    for kind in (probe_models.Large, probe_models.Notes, probe_models.Threads, probe_models.Jobs):
        _add(repository, folder, kind)
    _tamper(repository, "raises")
    _add(repository, folder, bad_models.Summing, name="missing")
    (repository.root / "missing" / "1" / "model.joblib").unlink()
    _add(repository, folder, bad_models.Summing, name="foreign")
    manifest = repository.root / "foreign" / "model.toml"
    manifest.write_text(manifest.read_text().replace('runtime = "sklearn"', 'runtime = "other"'))
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, concurrency=2, env={"NOTES": str(folder / "notes")}) as worker,
    ):
        yield Fleet(server, repository, worker)


def _add(repository, folder, kind, name=""):
    file = folder / f"{kind.__name__}.joblib"
    joblib.dump(kind().fit(np.zeros((2, 3))), file, compress=1)
    repository.add(name or kind.__name__.lower(), file)


def _tamper(repository, name):
    with (repository.root / name / "1" / "model.joblib").open("ab") as file:
        file.write(b"one byte more than was added")


@pytest.fixture
def own(special):
    with special.client() as client:
        yield client


def test_one_copy_of_the_models(special, own):
    """Models are loaded before the fork: each child has them resident, and nearly none of it to itself."""
    size = probe_models.MEGABYTES * 2**20
    for job in own.submit_many("large", np.zeros((8, 3))):
        assert job.result(20)["predict"].tolist() == [probe_models.MEGABYTES * 2**17]
    found = [child.memory_full_info() for child in special.worker.children]
    assert len(found) == 2
    assert all(memory.uss < size / 2 for memory in found), found
    assert max(memory.rss for memory in found) > size


def test_each_child_is_warm(special, tmp_path):
    """Each child has predicted every model's example before it was given work."""
    notes = special.repository.root.parent / "notes"
    children = {child.pid for child in special.worker.children}
    assert len(children) == 2
    assert children <= {int(line) for line in notes.read_text().split()}


@pytest.mark.parametrize("model", ["threads", "jobs"])
def test_threads_are_capped(own, model):
    """Native libraries and n_jobs use as many threads as make processes x threads = cores."""
    assert own.predict(model, np.ones((1, 3)), timeout=20)["predict"].tolist() == [max(1, CORES // 2)]


def test_soft_time_limit(special, own):
    """A soft time limit interrupts the prediction and keeps its process."""
    before = {child.pid for child in special.worker.children}
    with pytest.raises(TimeLimitExceeded, match="the model ran past its time limit and was stopped"):
        own.predict("hangs", [[-1.0, 0, 0]], timeout=20)
    assert own.predict("iris", [ROW], timeout=20)
    assert {child.pid for child in special.worker.children} == before


def test_time_limits_follow_the_model(fleet, stock):
    """A model's hard limit holds whatever queue it came through and whatever longer one is asked; a shorter one is granted."""
    for asking, limit in [
        ("app.send_task('mutirao.predict', args=['hangs', [[-1, 0, 0]]], queue='mutirao.iris')", "2.0"),
        ("ask([[-1, 0, 0]], 'hangs', time_limit=3600)", "2.0"),
        ("ask([[30, 0, 0]], 'slow', time_limit=1)", "1"),
    ]:
        with pytest.raises(Raised) as caught:
            stock.run(f"{asking}.get(timeout=20)")
        assert caught.value.name == "TimeLimitExceeded"
        assert caught.value.text == f"TimeLimitExceeded({limit},)"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("raises", "is not the file that was added: its digest is sha256:"),
        ("missing", "model.joblib is missing: put it back, or add the model again"),
        ("foreign", "runtime 'other' is not known: this worker has python, sklearn"),
    ],
)
def test_broken_models_do_not_stop_the_others(special, own, model, says):
    """A model that cannot be loaded is unavailable with its reason, in the list and in every answer; the others serve."""
    info = {each.name: each for each in own.models()}[model]
    assert info.state == "unavailable"
    assert says in info.reason
    with pytest.raises(ModelUnavailable, match=f"model '{model}' is unavailable"):
        own.submit(model, np.ones((1, 3)))
    with Client(special.url, check=False) as unchecked, pytest.raises(ModelUnavailable) as caught:
        unchecked.predict(model, np.ones((1, 3)), timeout=20)
    assert says in str(caught.value)
    assert own.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]


def test_banner(special):
    """The start says who, where, how many processes and threads, memory, and each model with version, queue and state."""
    log = special.worker.wait_logged("mutirao.threads")
    shown = settings.without_password(special.broker_url)
    assert f"mutirão worker {special.worker.name} on {shown}" in log
    threads = max(1, CORES // 2)
    assert f"2 processes x {threads} thread{'s' * (threads > 1)}, " in log
    assert "MB with the models loaded" in log
    rows = {line.split()[0]: line.split() for line in log.splitlines() if " mutirao." in line}
    assert rows["iris"][1:4] == ["1", "mutirao.iris", "ready"]
    assert rows["raises"][1:4] == ["1", "mutirao.raises", "unavailable:"]


@pytest.mark.parametrize(
    ("models", "command", "args", "says"),
    [
        ("", "mutirao", [], "no model in {root}: add one with mutirao models add NAME FILE, or set MUTIRAO_MODELS"),
        ("iris", "mutirao", ["--only", "iris,rose"], "model 'rose' is not in {root}: there are iris"),
        ("iris", "celery", ["-Q", "mutirao.rose"], "model 'rose' is not in {root}: there are iris"),
        ("iris", "mutirao", ["--only", "../iris"], "model name '../iris' is not allowed"),
        ("iris", "celery", ["-Q", "mutirao.iris\x1b[31m"], "is not allowed"),
    ],
)
def test_refuses_to_start(redis_server, tmp_path, models, command, args, says):
    """A worker without models, or with one that is not there, ends at once with one line that says so, and with an error code."""
    root = tmp_path / "models"
    if models:
        sample_models.repository(root, models)
    with WorkerProcess(redis_server.url, root, command=command, args=args, wait=False) as worker:
        assert worker.wait_ended() in (1, 2)
        errors = [line for line in worker.log.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, worker.log
        assert says.format(root=root) in errors[0]
        assert "Traceback" not in worker.log


def test_stops_warmly(redis_server, tmp_path):
    """SIGTERM lets the running request finish, leaves the queued one for others, takes the announcement back, and ends with 0."""
    root = sample_models.repository(tmp_path / "models", "slow").root
    with WorkerProcess(redis_server.url, root) as worker, Client(redis_server.url) as client:
        running = client.submit("slow", [[1.5, 0, 0]])
        waiting.until(lambda: running.status == "running")
        worker.stop(wait=False)
        waiting.until(lambda: "Warm shutdown" in worker.log)
        queued = client.submit("slow", [[0.0, 0, 0]])
        assert running.result(20)["predict"].tolist() == [1.5]
        assert worker.wait_ended() == 0
        assert queued.status == "queued"
        assert client.catalog().workers == ()
        assert [info.workers for info in client.models()] == [0]
        assert brokers.queued(redis_server, "slow") == 1


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_other_pools(redis_server, tmp_path, pool):
    """Without child processes, in the worker's own or in threads, the answers and the errors are the same."""
    root = sample_models.repository(tmp_path / "models", "iris", "raises", "exits").root
    with WorkerProcess(redis_server.url, root, args=["--pool", pool]), Client(redis_server.url) as client:
        for model in ("raises", "exits"):
            with pytest.raises(ModelFailed):
                client.predict(model, [[-1.0, 0, 0]], timeout=20)
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]


def _health(url):
    command = [sys.executable, "-m", "mutirao_worker.healthcheck"]
    env = {**os.environ, "MUTIRAO_BROKER_URL": url}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def test_health(special, redis_server):
    """The health check is 0 where a worker of this machine lives, and 1, with the reason, where none announced itself."""
    well = _health(special.url)
    assert (well.returncode, well.stdout) == (0, f"{special.worker.name} alive\n")
    ill = _health(redis_server.url)
    assert ill.returncode == 1
    assert "announced itself in the last 15 s" in ill.stdout


@brokers.redis_only
def test_health_of_a_worker_that_hears_nothing(special):
    """A worker that announces itself, but whose lease has lapsed, takes nothing: the health check fails and says so, and doctor names it."""
    process = psutil.Process(special.worker.pid)
    process.suspend()
    try:
        redis = special.server.client()
        redis.zadd(keyspace.LEASES, dict.fromkeys(redis.zrange(keyspace.LEASES, 0, -1), 1.0))
        ill = _health(special.url)
        assert (ill.returncode, "does not hear Redis" in ill.stdout) == (1, True)
        with Client(special.url) as client:
            known = client.catalog()
        assert (*known.unleased, *known.silent) == (special.worker.name,)
    finally:
        process.resume()
    waiting.until(lambda: _health(special.url).returncode == 0)


def test_health_of_a_hanging_worker(special):
    """A worker whose main process hangs falls silent, and its health check fails; it is well again when it goes on."""
    process = psutil.Process(special.worker.pid)
    process.suspend()
    try:
        redis = special.server.client()
        ((own, raw),) = redis.hgetall(keyspace.WORKERS).items()
        long_ago = raw.partition(b',"seen_at":')[0] + b',"seen_at":1.0}'
        redis.hset(keyspace.WORKERS, own, long_ago)  # as if 15 s had passed
        assert _health(special.url).returncode == 1
    finally:
        process.resume()
    waiting.until(lambda: _health(special.url).returncode == 0)
