"""Flower over this system: every prediction can be read, none of its data can, and nobody reads it without the password."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from celery import Celery

from mutirao import Client, errors
from mutirao.cli import main
from mutirao.embedded import redis_server
from support import sample_models, waiting
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

USER, PASSWORD = "ana", "segredo"
SECRET = 7777.125  # a number that stands in requests and results, and must stand nowhere else
OPEN = {"/metrics", "/healthcheck"}  # Flower's own choice: neither names a request
CLOSED = [
    "/", "/workers", "/tasks", "/tasks/datatable", "/broker", "/api/workers", "/api/tasks", "/api/task/types", "/api/queues/length",
    "/task/1", "/api/task/info/1", "/api/task/result/1",
]  # fmt: skip
CHANGES = [
    "/api/worker/shutdown/w@h", "/api/worker/pool/grow/w@h", "/api/worker/queue/cancel-consumer/w@h", "/api/task/revoke/1",
    "/api/task/async-apply/mutirao.predict", "/api/task/send-task/mutirao.predict",
]  # fmt: skip


class Flower:
    """`mutirao flower` in a process of its own."""

    def __init__(self, url, folder, *args, **env):
        self.port = redis_server.free_port()
        command = [sys.executable, "-m", "mutirao", "flower", "--port", str(self.port), *args]
        with (folder / "flower.log").open("wb") as out:
            environment = {**os.environ, "MUTIRAO_BROKER_URL": url, **env}
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out)
        self.log = folder / "flower.log"
        waiting.until(
            lambda: self.status("/healthcheck") == 200 or self.process.poll() is not None, what=self.log.read_text
        )

    def ask(self, path, auth=f"{USER}:{PASSWORD}", data=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data)
        if auth:
            request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.read().decode()

    def status(self, path, auth=None, data=None):
        try:
            self.ask(path, auth, data)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code
        except OSError:
            return 0
        return 200

    def tasks(self):
        return json.loads(self.ask("/api/tasks"))

    def ended(self, id):
        """What Flower shows of a task once it has ended."""
        return waiting.until(
            lambda: (task := self.tasks().get(id)) and task["state"] in {"SUCCESS", "FAILURE", "REVOKED"} and task
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker for good and bad models, on a Redis of its own."""
    repository = sample_models.repository(tmp_path_factory.mktemp("models"), "iris", "houses", "raises", "aborts")
    repository.add("hangs", sample_models.saved("hangs"), time_limit_s=1)
    with RedisServer(password="geheim") as server, WorkerProcess(server.url, repository.root) as worker:
        yield worker


@pytest.fixture(scope="module")
def flower(worker, tmp_path_factory):
    with Flower(worker.url, tmp_path_factory.mktemp("flower"), FLOWER_BASIC_AUTH=f"{USER}:{PASSWORD}") as flower:
        waiting.until(lambda: worker.name in flower.ask("/api/workers"))
        yield flower


def test_a_prediction_is_shown_with_model_shape_state_runtime_and_worker(flower, worker):
    """Of a prediction Flower shows the task's name, the model, the shape of what went in and came out, how long, and where."""
    with Client(worker.url) as client:
        job = client.submit("houses", sample_models.get("houses").data[:3])
        job.result(30)
    shown = flower.ended(job.id)
    assert shown["name"] == "mutirao.predict"
    assert shown["args"] == "houses: area 3 FP64, city 3 BYTES, rooms 3 FP64"
    assert shown["state"] == "SUCCESS"
    assert shown["result"] == "houses:1 -> predict 3, predict_proba 3x2"
    assert 0 < shown["runtime"] < 10
    assert shown["worker"] == worker.name


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("raises", "ModelFailed(model='raises', version='1', cause='ValueError')"),
        ("hangs", "TimeLimitExceeded"),
        ("aborts", "WorkerLost"),
    ],
)
def test_a_failure_is_shown_with_its_reason(model, reason, flower, worker):
    """A model that raised, one that ran too long and one whose process died: Flower says FAILURE and why."""
    with Client(worker.url) as client:
        job = client.submit(model, [[-1.0, 2.0, SECRET]])
        with pytest.raises(errors.JobError):
            job.result(30)
    shown = flower.ended(job.id)
    assert shown["state"] == "FAILURE"
    assert reason in shown["exception"]
    assert reason in flower.ask(f"/task/{job.id}").replace("&#x27;", "'").replace("&#39;", "'")


def test_the_data_is_shown_nowhere(flower, worker):
    """No number of a request or result reaches Flower, its pages, or the worker's log, whoever sent it."""
    stock = Celery(broker=worker.url, backend=worker.url)
    with Client(worker.url) as client, stock.connection_for_write() as connection:
        send = {"queue": "mutirao.raises", "connection": connection}
        ids = [client.submit("raises", [[first, 1.0, SECRET]]).id for first in (-1.0, 0.5)]
        ids += [
            stock.send_task("mutirao.predict", [*args], **send).id
            for args in (["raises", [[SECRET] * 3]], [SECRET, SECRET], [])
        ]
        for id in ids:
            assert "7777" not in json.dumps(flower.ended(id) | {"uuid": "", "root": "", "root_id": ""} | TIMES)
            page = flower.ask(f"/task/{id}")
            assert f"{SECRET}" not in page
        for job in client.as_completed([client.job(id) for id in ids], timeout=30):
            assert job.status in {"succeeded", "failed"}
    stock.close()
    assert f"{SECRET}" not in worker.log
    assert f"{SECRET}" not in flower.log.read_text()


TIMES = dict.fromkeys(["received", "sent", "started", "succeeded", "failed", "timestamp", "runtime"])


def test_queues_are_shown_with_their_lengths(flower):
    """One queue per model, and no password in the broker's address."""
    assert "mutirao.iris" in flower.ask("/broker")
    assert {queue["name"] for queue in json.loads(flower.ask("/api/queues/length"))["active_queues"]} >= {
        "mutirao.iris",
        "mutirao.houses",
    }
    assert "geheim" not in flower.ask("/broker")
    assert "geheim" not in flower.log.read_text()


@pytest.mark.parametrize("path", CLOSED)
def test_nothing_is_shown_without_the_password(path, flower):
    """Each page and each endpoint answers 401 to a stranger and to a wrong password."""
    assert flower.status(path) == 401
    assert flower.status(path, auth=f"{USER}:wrong") == 401
    assert flower.status(path, auth=":") == 401


@pytest.mark.parametrize("path", sorted(OPEN))
def test_what_is_open_names_no_request(path, flower, worker):
    """The health check and the counters are open to monitors; they hold no id and no data."""
    with Client(worker.url) as client:
        id = client.submit("iris", sample_models.get("iris").data[:1]).id
        flower.ended(id)
    assert id not in flower.ask(path, auth=None)


@pytest.mark.parametrize("path", CHANGES)
def test_nothing_can_be_changed(path, flower):
    """It is read-only: even with the password no worker is shut down, nothing revoked, nothing sent."""
    assert flower.status(path, auth=f"{USER}:{PASSWORD}", data=b"{}") == 403
    assert flower.status(path, data=b"{}") == 401


def test_no_password_stands_on_its_command_line(flower):
    """Neither Redis's nor Flower's own password can be read in `ps`."""
    import psutil

    line = " ".join(psutil.Process(flower.process.pid).cmdline())
    assert "mutirao_worker.app flower" in line
    assert PASSWORD not in line
    assert "geheim" not in line


def test_a_password_is_made_and_printed_where_none_is_given(worker, tmp_path):
    """`mutirao flower` alone prints the address, the user and a password that opens the page; SIGTERM ends it with code 0."""
    with Flower(worker.url, tmp_path) as flower:
        first = flower.log.read_text().splitlines()[0].split()
        assert first[:4] == ["Flower:", f"http://127.0.0.1:{flower.port}", "user", "mutirao"]
        assert flower.status("/api/tasks", auth=f"mutirao:{first[5]}") == 200
        assert flower.status("/api/tasks") == 401
        flower.process.send_signal(signal.SIGTERM)
        assert flower.process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        (["--address", "0.0.0.0"], {}, "--address '0.0.0.0' is reached from other machines"),
        (["--address", ""], {}, "--address '' is reached from other machines"),
        (["--password", ""], {}, "must be user:password"),
        ([], {"FLOWER_BASIC_AUTH": "nobody"}, "must be user:password"),
        ([], {"FLOWER_BASIC_AUTH": ""}, "must be user:password"),
        ([], {"FLOWER_BASIC_AUTH": "a:b,c"}, "must be user:password"),
    ],
)
def test_it_does_not_start_without_a_real_password(args, env, expected, tmp_path):
    """Open to other machines without a password, or with an empty one: refused in one line, with code 2."""
    command = [sys.executable, "-m", "mutirao", "flower", *args]
    done = subprocess.run(
        command, env={**os.environ, **env}, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert expected in line


def test_the_missing_extra_is_named(tmp_path):
    """Where Flower is not installed, one line says what to install."""
    program = "import sys; sys.modules['flower'] = None; sys.argv = ['mutirao', 'flower']; from mutirao.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: Flower is not installed: pip install '.[flower]' in the folder of mutirão's source\n"


def test_it_starts_while_redis_is_away(tmp_path):
    """It says that Redis does not answer, without its password, and shows its pages all the same."""
    url = f"redis://:geheim@127.0.0.1:{redis_server.free_port()}/0"
    with Flower(url, tmp_path, FLOWER_BASIC_AUTH=f"{USER}:{PASSWORD}") as flower:
        assert "Redis does not answer at redis://:***@127.0.0.1" in flower.log.read_text()
        assert flower.status("/api/tasks", auth=f"{USER}:{PASSWORD}") == 200
        assert "geheim" not in flower.log.read_text()


def test_the_usual_port_that_is_taken_is_replaced(monkeypatch, capsys):
    """Beside the Flower of `mutirao up`, one whose port nobody named takes another, and prints that one beside its password."""
    started = []
    monkeypatch.setattr("os.execve", lambda _path, command, _env: started.append(command))
    monkeypatch.setattr("sys.argv", ["mutirao", "flower"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        usual = taken.getsockname()[1]
        monkeypatch.setattr("mutirao.cli.flower.FLOWER_PORT", usual)
        with pytest.raises(SystemExit, match="0"):
            main()
    (port,) = (int(arg.removeprefix("--port=")) for arg in started[0] if arg.startswith("--port="))
    assert port != usual
    assert f"Flower: http://127.0.0.1:{port}  user mutirao  password " in capsys.readouterr().out


def test_a_port_that_is_taken_is_refused(tmp_path):
    """Beside another Flower a port that was named is refused in one line, before a password is shown that opens nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mutirao", "flower", "--port", str(port)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"error: port {port} of 127.0.0.1 is in use: name another with --port, or none, for any that is free\n",
    )
