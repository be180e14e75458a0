"""The containers themselves: closed, truthful about their health, and patient when they are stopped."""

import base64
import json
import signal
import subprocess
import urllib.error
import urllib.request

import numpy as np
import pytest

from compose.stack import ROOT, assert_closed, compose, docker, missing
from support import sample_models, waiting

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

# In a worker's container, as its user: the first process is the engine's init, its child is Celery's main process.
SIGNAL = "import os, psutil; os.kill(psutil.Process(1).children()[0].pid, {})"


def page(stack, auth=None, path="/api/tasks"):
    """Flower's status and page."""
    headers = {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()} if auth else {}
    request = urllib.request.Request(f"http://127.0.0.1:{stack.flower_port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_without_passwords_nothing_starts(tmp_path):
    """Without an .env, compose refuses and names the command that writes one; there is no default password."""
    empty = tmp_path / "env"
    empty.touch()
    command = [*compose(), "--file", ROOT / "docker-compose.yml", "--env-file", empty, "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "run deploy/make-env first" in done.stderr


def test_passwords_are_written_once(tmp_path):
    """make-env makes different passwords, and a secret for webhooks, that only their owner can read, and does not overwrite them."""
    file = tmp_path / "env"
    made = [
        subprocess.run([ROOT / "deploy" / "make-env", file], capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [done.returncode for done in made] == [0, 1]
    assert made[1].stderr == f"make-env: {file} exists or cannot be written: remove it to have new passwords made\n"
    values = [line.split("=")[1] for line in file.read_text().splitlines()]
    assert len(set(values)) == 7
    assert {len(value.removeprefix("whsec_")) for value in values} == {48}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("password", "reason"),
    [("0a1b2c", "is shorter than 16 characters"), ("with/a/slash/in/it", "holds characters other than")],
)
def test_a_bad_password_is_refused_by_name(stack, password, reason):
    """Redis does not start with a password that is short, or that would break a URL, and says which one it is."""
    given = [f"--env=MUTIRAO_REDIS_{role}_PASSWORD={'x' * 16}" for role in ("ADMIN", "PRODUCER", "FLOWER")]
    image = f"mutirao-test-redis:{stack.tag}"
    command = [
        "docker",
        "run",
        "--rm",
        "--tmpfs=/run/redis:mode=0777",
        *given,
        f"--env=MUTIRAO_REDIS_WORKER_PASSWORD={password}",
        image,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert f"MUTIRAO_REDIS_WORKER_PASSWORD {reason}" in done.stderr
    assert password not in done.stderr


def test_containers_are_closed(two_workers):
    """No container has root, a writable root file system, a capability, unlimited memory, or a port beyond loopback."""
    for container in two_workers.containers():
        assert_closed(container)


def test_workers_cannot_change_models(two_workers):
    """The models are mounted read-only, the root file system cannot be written, and the network has no way out."""
    for container in two_workers.containers("worker"):
        (mount,) = [mount for mount in container["Mounts"] if mount["Destination"] == "/models"]
        assert mount["RW"] is False
        try_both = "for folder in /models /opt/mutirao; do touch $folder/x 2>&1; done; true"
        assert docker("exec", container["Id"], "sh", "-c", try_both).count("Read-only file system") == 2
        (network,) = container["NetworkSettings"]["Networks"].values()
        assert json.loads(docker("network", "inspect", network["NetworkID"]))[0]["Internal"]


def test_the_example_producer_prints_an_answer(two_workers):
    """`compose run submit` answers a request from inside, as a producer that has neither scikit-learn nor the models."""
    done = two_workers.compose("run", "--rm", "-T", "submit", "predict", "iris", "[[5.1, 3.5, 1.4, 0.2]]", "--json")
    expected = sample_models.get("iris").model.predict([[5.1, 3.5, 1.4, 0.2]])
    assert json.loads(done.stdout)["outputs"]["predict"] == expected.tolist()


def test_flower_asks_for_its_password(two_workers):
    """Flower shows the tasks with its password, and nothing without it or with another one."""
    with two_workers.client() as client:
        job = client.submit("iris", [[5.1, 3.5, 1.4, 0.2]])
        job.result(timeout=60)
    auth = f"mutirao:{two_workers.passwords['MUTIRAO_FLOWER_PASSWORD']}"
    waiting.until(lambda: job.id in page(two_workers, auth)[1])
    assert page(two_workers, auth)[0] == 200
    assert page(two_workers)[0] == 401
    assert page(two_workers, "mutirao:wrong")[0] == 401
    _, seen = page(two_workers, auth, f"/api/task/info/{job.id}")
    assert "5.1" not in json.loads(seen)["args"]


def test_a_hanging_worker_is_unhealthy(two_workers):
    """A worker whose main process no longer runs is unhealthy although its container runs; it recovers when it goes on."""
    stuck, _ = two_workers.containers("worker")
    docker("exec", stuck["Id"], "python", "-c", SIGNAL.format(int(signal.SIGSTOP)))
    waiting.until(lambda: sorted(two_workers.health("worker")) == ["healthy", "unhealthy"], timeout_s=60)
    docker("exec", stuck["Id"], "python", "-c", SIGNAL.format(int(signal.SIGCONT)))
    two_workers.wait_health("worker", "healthy", 2)


def test_queued_work_outlives_a_killed_redis(two_workers):
    """While Redis is away workers and Flower are unhealthy; after a kill it has every queued request, and all are answered."""
    stack, sample = two_workers, sample_models.get("iris")
    stack.compose("up", "--detach", "--no-recreate", "--scale", "worker=0")
    with stack.client() as client:
        jobs = client.submit_many("iris", sample.data)
        stack.compose("kill", "redis")
        stack.wait_health("flower", "unhealthy")
        stack.compose("start", "redis")
        stack.wait_health("redis", "healthy")
        assert [job.status for job in jobs] == ["queued"] * len(jobs)
        stack.up(workers=2)
        stack.compose("kill", "redis")
        stack.wait_health("worker", "unhealthy", 2)
        stack.compose("start", "redis")
        stack.up(workers=2)
        answers = [job.result(timeout=180)["predict"][0] for job in jobs]
    assert np.array_equal(answers, sample.expected())
    assert stack.refused() == []


def test_a_stopped_worker_finishes_what_it_runs(two_workers):
    """A worker that is told to stop finishes the prediction that runs, once, and then ends by itself."""
    stack = two_workers
    stack.up(workers=1)
    (worker,) = stack.containers("worker")
    with stack.client() as client:
        job = client.submit("slow", [[8.0, 0.0, 0.0]])
        waiting.until(lambda: job.status == "running")
        stack.compose("stop", "worker")
        record = job.record()
    state = json.loads(docker("inspect", worker["Id"]))[0]["State"]
    assert (record.state, record.job.attempts) == ("succeeded", 1)
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert 8 <= record.job.finished_at - record.job.started_at < 30
