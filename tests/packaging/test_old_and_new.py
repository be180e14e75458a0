"""A client of the last release works with workers and a gateway of today's, and the other way round; also over one folder of models."""

import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from zipfile import ZipFile

import pytest

from support import sample_models, waiting
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

pytestmark = [pytest.mark.processes, pytest.mark.executed]
ROOT = Path(__file__).parents[2]
# 0.2.0, the last commit whose manifests have format 1.
OLD = "0de4407"
BUILT_OF = ("producer", "worker", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")

# Each step of a job's life over each URL: Redis, then the gateway.
CLIENT = """
import json, sys
import mutirao
from mutirao import Client, errors

told = [mutirao.__file__]
for url in sys.argv[2:]:
    with Client(url) as client:
        job = client.submit("iris", json.loads(sys.argv[1]))
        answer = job.result(timeout=30)["predict"].tolist()
        slow = client.submit("slow", [[30.0, 0.0, 0.0]])
        cancelled = slow.cancel()
        try:
            slow.result(timeout=30)
            end = "answered"
        except errors.JobCancelled:
            end = "cancelled"
        told.append([answer, client.record(job.id).state, cancelled, end, sorted(each.name for each in client.models())])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The packages of both wheels, each in a folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("wheels")
    known = ["git", "cat-file", "-e", f"{OLD}^{{commit}}"]
    if subprocess.run(known, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip(f"commit {OLD} is not here: this is no clone of the repository with its history")
    (folder / "source").mkdir()
    with (folder / "old.tar").open("wb") as archive:
        subprocess.run(["git", "archive", OLD, *BUILT_OF], cwd=ROOT, stdout=archive, check=True)
    with tarfile.open(folder / "old.tar") as archive:
        archive.extractall(folder / "source", filter="data")
    builds = {"old": folder / "source", "new": ROOT}
    building = {
        name: subprocess.Popen(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / name], cwd=source
        )
        for name, source in builds.items()
    }
    for name, process in building.items():
        assert process.wait() == 0, name
        (wheel,) = (folder / name).glob("*.whl")
        with ZipFile(wheel) as opened:
            opened.extractall(folder / name)
    return {name: folder / name for name in builds}


@pytest.mark.parametrize(("clients", "workers"), [("old", "new"), ("new", "old")])
def test_a_client_works_with_workers_of_the_other_wheel(wheels, tmp_path, clients, workers):
    """Jobs of the one wheel's client are answered and cancelled by the other's workers, over Redis and through its gateway."""
    repository = sample_models.repository(tmp_path / "models", "iris", "slow", "houses")
    for model in ("iris", "slow"):  # as the old wheel has added them; the third is in today's format
        _write_in_format_1(repository.root / model / "model.toml")
    sample = sample_models.get("iris")
    theirs = {"PYTHONPATH": os.pathsep.join([str(wheels[workers]), sample_models.PYTHONPATH])}
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        gateway = stack.enter_context(GatewayProcess(server.url, env=theirs, wait=False))
        worker = stack.enter_context(WorkerProcess(server.url, repository.root, env=theirs, concurrency=2))
        gateway.wait_ready()
        # Its copy of what is served may be a second older than the worker.
        waiting.until(lambda: {"iris", "slow"} <= _served(gateway.url))
        env = {**os.environ, "PYTHONPATH": str(wheels[clients])}
        command = [sys.executable, "-c", CLIENT, json.dumps(sample.data[:2].tolist()), server.url, gateway.url]
        ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90)
        assert ran.returncode == 0, f"{ran.stderr}\n{worker.log}\n{gateway.log}"
        log = worker.log
    where, *told = json.loads(ran.stdout)
    assert Path(where).is_relative_to(wheels[clients])
    life = [sample.expected()[:2].tolist(), "succeeded", True, "cancelled", ["houses", "iris", "slow"]]
    assert told == [life, life]
    refused = "model houses is unavailable: " in log and "unknown field `format`" in log
    assert refused == (workers == "old")


def _write_in_format_1(path):
    """Write a manifest as it was before versions had steps."""
    text = path.read_text().replace("format = 2\n", 'runtime = "sklearn"\n')
    step = re.compile(r'steps = \[\n  \{ runtime = "sklearn", (file = .*), (saved_with = "[^"]*").* \},\n\]\n')
    text, found = step.subn(lambda match: f"{match[1].replace('file', 'model')}\n{match[2]}\n", text)
    assert found == 1
    path.write_text(text)


def _served(url):
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        return {model["name"] for model in json.load(response)["models"]}
