"""The embedded system with a stand-in for its workers: what starts, what ends it, and that nothing is left behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid

import psutil
import pytest
import redis

from mutirao import errors, settings
from mutirao.embedded import ChildExit, Embedded, redis_server, watchdog
from mutirao.embedded.process_group import SCRIPT, ProcessGroup
from support import brokers, waiting
from support.redis_servers import RedisServer

pytestmark = pytest.mark.skipif(brokers.AMQP, reason="the embedded system has a Redis of its own for a broker")

# Announces itself as a worker does, starts a child of its own, and at SIGTERM needs a moment, and Redis, to end.
STANDIN = """
import json, os, signal, subprocess, sys, time
import redis
client = redis.Redis.from_url(os.environ["MUTIRAO_BROKER_URL"])
name = sys.argv[sys.argv.index("--name") + 1]
pool = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def end(number, frame):
    time.sleep(0.2)
    client.rpush("ended", name.partition("@")[0])
    os._exit(0)
signal.signal(signal.SIGTERM, end)
info = {"name": name, "pid": os.getpid(), "processes": 1, "models": {}}
while True:
    try:
        client.hset("mutirao:workers", info["name"], json.dumps(info | {"seen_at": time.time()}))
    except redis.RedisError:
        pass
    time.sleep(0.1)
"""


# A parent of its own process: says what runs, then waits for the end of its input.
PARENT = """
import json, sys
from mutirao.embedded import Embedded
home, standin = sys.argv[1:]
with Embedded(home, workers=2, flower=False, worker_command=(sys.executable, standin)) as system:
    system.wait_ready(30)
    print(json.dumps({"url": system.broker_url, "pids": system.pids}), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def standin(tmp_path):
    path = tmp_path / "standin.py"
    path.write_text(STANDIN)
    return path


@pytest.fixture
def mark(monkeypatch, tmp_path):
    """A mark that every process of this test inherits; none may be left at the end."""
    mark = f"{tmp_path}:{uuid.uuid4().hex}"
    monkeypatch.setenv("MUTIRAO_TEST_MARK", mark)
    yield mark
    try:
        waiting.until(lambda: not marked(mark), timeout_s=15, what=lambda: [each.cmdline() for each in marked(mark)])
    finally:
        for process in marked(mark):
            process.kill()


@pytest.fixture
def embedded(tmp_path, standin, mark):
    """Build systems in this test's folder, with the stand-in as worker."""

    def build(**options):
        given = {"home": tmp_path / "home", "flower": False, "worker_command": (sys.executable, str(standin))}
        return Embedded(**(given | options))

    return build


@pytest.fixture
def parent(tmp_path, standin, mark):
    """A system whose parent is a process of its own."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "home"), str(standin)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def marked(mark):
    """The processes of this test that run, this one apart: Redis overwrites its environment, but stands in its data folder."""
    folder = mark.partition(":")[0]

    def ours(process):
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.environ().get("MUTIRAO_TEST_MARK") == mark or process.cwd().startswith(folder)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if ours(process)]


def ended(url_of_next):
    with redis.Redis.from_url(url_of_next) as client:
        return sorted(name.decode() for name in client.lrange("ended", 0, -1))


def test_redis_answers_only_here_and_only_with_the_password(embedded):
    """Redis listens on loopback only, evicts nothing, logs every change, and refuses whoever has no password."""
    with embedded(workers=0) as system:
        addresses = {c.laddr.ip for c in psutil.Process(system.pids["redis"]).net_connections() if c.status == "LISTEN"}
        assert addresses == {"127.0.0.1"}
        with (
            redis.Redis.from_url(f"redis://127.0.0.1:{system.server.port}", retry=None) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        with redis.Redis.from_url(system.broker_url) as client:
            for option, value in {
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
            }.items():
                assert client.config_get(option) == {option: value}


def test_no_password_stands_on_a_command_line_or_in_a_readable_file(embedded, mark, tmp_path):
    """Other users of the machine see the passwords neither in `ps` nor in the folder."""
    with embedded() as system:
        system.wait_ready()
        passwords = (system.server.password, system.flower_password)
        lines = [" ".join(process.cmdline()) for process in marked(mark)]
        assert len(lines) >= 6  # redis, two stand-ins with a child each, the watchdog
        assert not [line for line in lines if any(password in line for password in passwords)]
        files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        open_to_others = [path for path in files if path.stat().st_mode & 0o077]
        assert not [path for path in open_to_others if any(p in path.read_text(errors="replace") for p in passwords)]
        assert (tmp_path / "home").stat().st_mode & 0o077 == 0


def test_other_processes_find_the_system_by_its_folder(embedded, tmp_path):
    """While it runs, settings in this folder name its Redis; after it, the default."""
    home = str(tmp_path / "home")
    with embedded(workers=0) as system:
        assert settings.load({"MUTIRAO_HOME": home}).broker_url == system.broker_url
        assert (system.home.state.stat().st_mode & 0o777) == 0o600
    assert not system.home.state.exists()
    assert settings.load({"MUTIRAO_HOME": home}).broker_url == settings.Settings().broker_url


def test_work_is_found_again_after_a_restart(embedded):
    """What was queued is there after a restart in the same folder, under the same address and password."""
    with embedded(workers=0) as first, redis.Redis.from_url(first.broker_url) as client:
        client.rpush("mutirao.iris", "a request")
    with embedded(workers=0) as second, redis.Redis.from_url(second.broker_url) as client:
        assert second.broker_url == first.broker_url
        assert client.lrange("mutirao.iris", 0, -1) == [b"a request"]


def test_what_a_crash_cut_off_may_be_taken_again_at_once(embedded):
    """No worker of the last run lives, so what they had reserved has lapsed, and the next adopts it."""
    with embedded(workers=0) as first, redis.Redis.from_url(first.broker_url) as client:
        client.zadd("mutirao:leases", {"a": time.time() + 6, "b": time.time() + 6})
    with embedded(workers=0) as second, redis.Redis.from_url(second.broker_url) as client:
        assert client.zrange("mutirao:leases", 0, -1, withscores=True) == [(b"a", 0.0), (b"b", 0.0)]


def test_workers_end_before_redis(embedded):
    """At the end, workers still reach Redis: each of them wrote its last word there."""
    with embedded() as system:
        system.wait_ready()
    with embedded(workers=0) as again:
        assert ended(again.broker_url) == ["worker1", "worker2"]


def test_a_killed_parent_leaves_no_orphan(parent, mark, embedded):
    """After kill -9 of the parent every process ends, in the same order as after Ctrl-C."""
    json.loads(parent.stdout.readline())
    assert len(marked(mark)) >= 7
    parent.kill()
    waiting.until(lambda: not marked(mark))
    with embedded(workers=0) as again:
        assert ended(again.broker_url) == ["worker1", "worker2"]


@pytest.mark.parametrize("moment_s", [0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8])
def test_a_parent_killed_while_it_starts_leaves_no_orphan(parent, mark, moment_s):
    """There is no moment in which a killed parent loses a child that it has just started."""
    time.sleep(moment_s)  # the claim is about any moment, so there is no condition to wait for
    parent.kill()
    parent.wait()
    waiting.until(lambda: not marked(mark))


def test_a_second_system_in_a_folder_is_refused_with_the_first_ones_name(parent, embedded, tmp_path):
    """The error names the folder and the process that has it, and the first system goes on."""
    url = json.loads(parent.stdout.readline())["url"]
    with pytest.raises(errors.EmbeddedError, match=f"{tmp_path / 'home'}.*process {parent.pid}") as caught, embedded():
        pass
    assert caught.value.pid == parent.pid
    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_a_system_started_while_a_killed_one_ends_waits_for_it(parent, embedded):
    """Right after kill -9 the folder is not free yet: the next system waits instead of refusing."""
    json.loads(parent.stdout.readline())
    parent.kill()
    parent.wait()
    with embedded(workers=0) as again:
        assert ended(again.broker_url) == ["worker1", "worker2"]


def test_a_dead_worker_is_started_again(embedded, mark):
    """A worker that was killed is reported, its own children are ended, and it runs again."""
    incidents: list[ChildExit] = []
    with embedded(report=incidents.append) as system:
        system.wait_ready()
        before = system.pids["worker1"]
        children = psutil.Process(before).children()
        os.kill(before, signal.SIGKILL)
        waiting.until(lambda: system.pids["worker1"] != before)
        system.wait_ready()
        assert children
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    (incident,) = incidents
    assert str(incident).startswith(f"worker1 (process {before}) was ended by SIGKILL; starting it again in 0.5 s")


def test_a_dead_redis_is_started_again_with_its_data(embedded):
    """Redis comes back by itself, on the same port, with what it had logged."""
    with embedded() as system, redis.Redis.from_url(system.broker_url) as client:
        client.rpush("mutirao.iris", "a request")
        waiting.until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
        before = system.pids["redis"]
        os.kill(before, signal.SIGKILL)
        waiting.until(lambda: system.pids["redis"] != before and redis_server.answers(system.server))
        assert client.lrange("mutirao.iris", 0, -1) == [b"a request"]
        system.check()


def test_a_redis_that_dies_again_and_again_stops_the_system_with_the_reason(embedded):
    """After five deaths in a row the system says so; its owner then closes it."""
    with embedded(workers=1) as system:
        system.server.config_path.write_text("no-such-option 1\n")
        os.kill(system.pids["redis"], signal.SIGKILL)

        def failed():
            try:
                system.check()
            except errors.EmbeddedError as exc:
                return str(exc)
            return ""

        assert "redis died 5 times in a row" in waiting.until(failed)


def test_a_dead_watchdog_stops_the_system(embedded, mark):
    """Without its watchdog the system ends itself, for nothing would then end the children of a killed parent."""
    with embedded() as system:
        system.wait_ready()
        (dog,) = [process for process in marked(mark) if "watch" in process.cmdline()]
        dog.kill()
        waiting.until(lambda: system._supervisor.failure)
        with pytest.raises(errors.EmbeddedError, match="the watchdog was killed"):
            system.check()
    assert not marked(mark)


def test_a_child_whose_parent_died_before_it_began_does_not_begin(tmp_path):
    """A child that was slow to start enrols, sees that its parent is gone, and does not become its command."""
    reads, writes = os.pipe()
    try:
        command = [*SCRIPT, "enrol", str(os.getppid()), str(writes), "0", "1.0", "touch", str(tmp_path / "begun")]
        done = subprocess.run(command, pass_fds=(writes,), capture_output=True, text=True, check=False)
        assert (done.returncode, "is gone" in done.stderr, (tmp_path / "begun").exists()) == (1, True, False)
        assert os.read(reads, 100).startswith(b"+ 0 1.0 ")
    finally:
        os.close(reads)
        os.close(writes)


def test_a_redis_left_by_two_killed_processes_does_not_share_its_data(parent, mark, embedded):
    """When parent and watchdog were both killed, the next system ends the Redis they left before it opens the data."""
    left = json.loads(parent.stdout.readline())["pids"]
    (dog,) = [process for process in marked(mark) if "watch" in process.cmdline()]
    dog.suspend()
    parent.kill()
    parent.wait()
    dog.kill()
    waiting.until(lambda: not dog.is_running() or dog.status() == psutil.STATUS_ZOMBIE)
    try:
        with embedded(workers=0) as again:
            assert again.pids["redis"] != left["redis"]
            waiting.until(lambda: left["redis"] not in [process.pid for process in marked(mark)])
            assert redis_server.answers(again.server)
    finally:
        for name in ("worker1", "worker2"):
            watchdog.kill(left[name])


def test_a_worker_that_cannot_start_is_named_with_its_last_words(embedded, tmp_path):
    """Waiting ends early where a worker dies each time, and the error carries the last line of its log."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no models here')")
    with embedded(workers=1, worker_command=(sys.executable, str(broken))) as system:
        with pytest.raises(
            errors.EmbeddedError, match="worker1 died each time it was started: no models here"
        ) as caught:
            system.wait_ready(30)
        assert str(system.home.log("worker1")) in str(caught.value)


@pytest.mark.parametrize("named", [False, True])
def test_a_port_that_another_program_takes_before_redis_does(embedded, monkeypatch, named):
    """Where another program takes Redis's port between its choice and Redis's start, Redis moves, unless the port was named."""
    with contextlib.ExitStack() as stack:
        command = redis_server.command

        def taken_meanwhile(binary, server, *rest):
            if not ports:
                other = stack.enter_context(socket.socket())
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind((redis_server.HOST, server.port))
                other.listen()
            ports.append(server.port)
            return command(binary, server, *rest)

        ports: list[int] = []
        monkeypatch.setattr(redis_server, "command", taken_meanwhile)
        system = embedded(workers=0, port=redis_server.free_port() if named else None)
        stack.callback(system.close)
        if named:
            with pytest.raises(errors.EmbeddedError, match=r"did not start: .*Failed listening"):
                system.start()
            assert len(ports) == 1
            return
        system.start()
        assert system.server.port != ports[0]
        assert system.home.secrets().redis_port == system.server.port
        assert redis_server.answers(system.server)


def test_a_taken_port_is_refused(embedded):
    """A port that was asked for and is in use is not silently another one."""
    with (
        RedisServer() as other,
        pytest.raises(errors.EmbeddedError, match=f"port {other.port} .* in use"),
        embedded(port=other.port),
    ):
        pass


def test_a_hung_process_is_killed_after_its_grace(tmp_path, mark):
    """What ignores SIGTERM is killed, with its whole group, and the end stays within its bound."""
    ignoring = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    processes = ProcessGroup(tmp_path / "watchdog.log")
    hung = processes.start([sys.executable, "-c", ignoring], stage=0, grace_s=0.5, log=tmp_path / "hung.log")
    waiting.until(lambda: (tmp_path / "hung.log").read_text() == "on\n")
    before = time.monotonic()
    processes.end()
    assert hung.returncode == -signal.SIGKILL
    assert time.monotonic() - before < processes.bound_s


@pytest.mark.parametrize("option", ["port", "gateway_port", "flower_port"])
def test_a_port_that_was_named_is_that_one_or_none(option, embedded):
    """A port that is in use is refused where it was named, before anything starts; only a default one moves."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        system = embedded(workers=0, gateway=True, **({"flower": True} | {option: port}))
        with pytest.raises(errors.EmbeddedError, match=f"port {port} of 127.0.0.1 is in use: name another with --"):
            system.start()
        assert not (system.home.redis / "redis.conf").exists()
        system.close()
        assert redis_server.chosen_port(None, port, "--port") != port


def test_a_port_that_was_named_twice_is_refused(embedded):
    """The gateway and Flower cannot share a port."""
    system = embedded(workers=0, gateway=True, flower=True, gateway_port=19, flower_port=19)
    with pytest.raises(errors.EmbeddedError, match="port 19 is named twice"):
        system.start()
    system.close()
