"""Between queue and model: nothing is lost in fetching, and no message, full Redis or deadly request takes the worker with it."""

import base64
import contextlib
import gzip
import json
import os
import pickle
import re
import signal
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import redis

from mutirao import BrokerUnavailable, Client, TimeLimitExceeded, WorkerLost, keyspace
from support import execution_log, recorded_models, waiting
from support.end_announcements import EndAnnouncements
from support.execution_log import ExecutionLog
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

SECRET = "payload-of-7391"  # nothing that is shown of a message may have it
SECRETS = (SECRET, base64.b64encode(SECRET.encode()).decode().rstrip("="))
ROW = [[0.0, 1.0, 2.0]]
QUEUE = keyspace.queue("quick")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return execution_log.repository(tmp_path_factory.mktemp("transport") / "models", time_limit_s=1.0)


@pytest.fixture(scope="module")
def hardy(root):
    """A worker that ought to live through all of these tests: where one killed it, the next gets another."""
    with RedisServer() as server, contextlib.ExitStack() as stack:
        alive: list[WorkerProcess] = []

        def living():
            if not alive or alive[-1].process.poll() is not None:
                server.client().flushall()
                alive.append(stack.enter_context(WorkerProcess(server.url, root)))
            return alive[-1]

        yield server, living


def test_stopped_while_it_waits(redis_server, root):
    """A worker that is stopped while it waits for work, and then killed, takes no request with it."""
    with Client(redis_server.url) as client, WorkerProcess(redis_server.url, root) as worker:
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]
        os.killpg(worker.pid, signal.SIGSTOP)
        job = client.submit("quick", ROW)
        os.killpg(worker.pid, signal.SIGKILL)
        with WorkerProcess(redis_server.url, root):
            assert job.result(10)["predict"].tolist() == [5.0]


def test_killed_with_requests_in_hand(redis_server, root):
    """What a killed worker had taken is answered by one that was there already, in seconds."""
    rows = np.array([[0.0, number, 0] for number in range(100)])
    with (
        Client(redis_server.url) as client,
        WorkerProcess(redis_server.url, root) as worker,
        WorkerProcess(redis_server.url, root),
    ):
        jobs = client.submit_many("dear", rows)
        waiting.until(lambda: any(job.done() for job in jobs))
        worker.kill()
        deadline = time.monotonic() + 20
        for number, job in enumerate(jobs):
            assert job.result(deadline - time.monotonic())["predict"].tolist() == [3.0 * number]


def test_reserved_unheard(redis_server, root):
    """A request that stands under a live worker's name, though its reply never came, is given back and answered."""
    with Client(redis_server.url) as client, WorkerProcess(redis_server.url, root) as worker:
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]
        admin = redis_server.client()
        (identity,) = (name.decode() for name in admin.zrange(keyspace.LEASES, 0, -1))
        os.kill(worker.pid, signal.SIGSTOP)
        job = client.submit("quick", ROW)
        # As a call does that Redis runs for a connection which is broken, when nobody has told Redis yet.
        taken = admin.rpop(keyspace.queue_key("quick", keyspace.STEPS["normal"]))
        admin.hset(
            keyspace.reserved_key(identity), f"77 {keyspace.queue_key('quick', keyspace.STEPS['normal'])}", taken
        )
        os.kill(worker.pid, signal.SIGCONT)
        assert job.result(20)["predict"].tolist() == [5.0]
        assert admin.keys(keyspace.reserved_key("*")) == []


def test_time_limit_that_passes_while_the_worker_stands_still(redis_server, root):
    """What was computed within its time limit is answered, though the worker's loop stood still until that had passed."""
    with Client(redis_server.url) as client, WorkerProcess(redis_server.url, root) as worker:
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]
        job = client.submit("dear", ROW * 30)  # for 0.6 s of the second that it has
        waiting.until(lambda: job.status == "running")
        with worker.still():
            time.sleep(2)  # the fault itself
        assert job.result(20)["predict"].tolist() == [5.0] * 30


def test_scripts_that_redis_forgot(redis_server, root):
    """An idle worker whose next call Redis does not know any more, as after a failover, answers all the same."""
    with Client(redis_server.url) as client, WorkerProcess(redis_server.url, root):
        for _ in range(3):
            redis_server.client().script_flush()
            assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]


def test_full_redis(root):
    """A full Redis refuses what is submitted, in a sentence; what it has accepted is taken, answered and kept all the same."""
    rows = np.array([[0.0, number, 0] for number in range(60)])
    with (
        RedisServer() as server,
        Client(server.url) as client,
        EndAnnouncements(server.url) as commits,
        WorkerProcess(server.url, root) as worker,
    ):
        admin = server.client()
        jobs = client.submit_many("dear", rows)
        waiting.until(jobs[0].done)
        admin.config_set("maxmemory", 1)
        with pytest.raises(BrokerUnavailable, match=r"maxmemory"):
            client.submit("quick", ROW)
        for number, job in enumerate(jobs):
            assert job.result(60)["predict"].tolist() == [3.0 * number]
        admin.config_set("maxmemory", 0)
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]
        assert worker.process.poll() is None
        assert not commits.doubles()


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def _envelope(body=b"[[]]", *, text=None, encoding="base64", content_type="application/json", without=(), **headers):
    """An envelope as kombu has it, around any body."""
    id = str(uuid.uuid4())
    head = {
        "lang": "py",
        "task": "mutirao.predict",
        "id": id,
        "root_id": id,
        "argsrepr": "",
        "kwargsrepr": "",
    } | headers
    document = {
        "body": base64.b64encode(body).decode() if text is None else text,
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": {key: value for key, value in head.items() if key not in without},
        "properties": {
            "correlation_id": id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": encoding,
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps({key: value for key, value in document.items() if key not in without}).encode()


TRIPLE = json.dumps([["quick", [[0, 1, 2]]], {}, {}]).encode()
UNREADABLE, NO_TASK, NO_ID = "not decodable", "not a task message", "no id"
BODIES = {
    "garbage": (f"\x00\x01{SECRET}".encode() + b"\xff\xfe", {UNREADABLE}),
    "nothing": (b"", {UNREADABLE}),
    "half an envelope": (_envelope(TRIPLE)[:-40], {UNREADABLE}),
    "a list": (json.dumps([SECRET]).encode(), {UNREADABLE, NO_TASK}),
    "a number": (b"42", {UNREADABLE, NO_TASK}),
    "an empty object": (b"{}", {UNREADABLE, NO_TASK, NO_ID}),
    "deep nesting": (b"[" * 100_000, {UNREADABLE}),
    "deep nesting that is closed": (b"[" * 100_000 + b"]" * 100_000, {UNREADABLE, NO_TASK}),
    "headers that are a list": (
        _envelope(TRIPLE).replace(b'"headers": {', b'"headers": [{', 1).replace(b'"}, "prop', b'"}], "prop'),
        {UNREADABLE, NO_TASK, NO_ID},
    ),
    "no headers": (_envelope(TRIPLE, without=("headers",)), {UNREADABLE, NO_TASK, NO_ID}),
    "no properties": (_envelope(TRIPLE, without=("properties",)), {UNREADABLE, NO_TASK}),
    "no body": (_envelope(without=("body",)), {UNREADABLE, NO_TASK}),
    "no id": (_envelope(TRIPLE, without=("id",)), {NO_ID}),
    "an id that is a number": (_envelope(TRIPLE, id=7), {NO_ID, NO_TASK}),
    "no task": (_envelope(TRIPLE, without=("task",)), {NO_TASK, "unknown task"}),
    "another task": (_envelope(TRIPLE, task="mutirao.train"), {"unknown task"}),
    "@@@ for a body": (_envelope(text="@@@"), {UNREADABLE, NO_TASK}),
    "base64 that is cut": (_envelope(text=base64.b64encode(TRIPLE).decode()[:-3]), {UNREADABLE, NO_TASK}),
    "an encoding nobody knows": (_envelope(text=SECRET, encoding="rot13"), {UNREADABLE, NO_TASK}),
    "a body that is no triple": (_envelope(json.dumps({"data": SECRET}).encode()), {UNREADABLE, NO_TASK}),
    "a body that is no JSON": (_envelope(SECRET.encode()), {UNREADABLE, NO_TASK}),
    "a body of deep nesting": (_envelope(b"[" * 100_000), {UNREADABLE, NO_TASK}),
    "yaml": (_envelope(f"- {SECRET}".encode(), content_type="application/x-yaml"), {UNREADABLE, NO_TASK}),
    "a bomb": (
        lambda: _envelope(gzip.compress(bytes(200 * 2**20)), compression="application/x-gzip"),
        {UNREADABLE, NO_TASK},
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_message_that_is_none(hardy, name):
    """A message that is damaged, or none at all, becomes a dead letter with its reason; the worker serves on and tells no payload."""
    server, living = hardy
    message, reasons = BODIES[name]
    _is_put_aside(server, living(), message() if callable(message) else message, reasons)


def test_pickle_is_put_aside(hardy, tmp_path):
    """A pickled body is never opened, wherever it goes."""
    server, living = hardy
    canary = tmp_path / "canary"
    body = pickle.dumps([["quick", Canary(canary)], {}, {}])
    _is_put_aside(
        server, living(), _envelope(body, content_type="application/x-python-serialize"), {UNREADABLE, NO_TASK}
    )
    assert not canary.exists()


def _is_put_aside(server, worker, message, reasons):
    admin = server.client()
    before = _letters(admin)
    pid, memory = worker.pid, _peak(worker.pid)
    admin.lpush(QUEUE, message)
    with Client(server.url) as client:
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0], worker.log
    letters = waiting.until(
        lambda: [letter for id, letter in _letters(admin).items() if id not in before],
        timeout_s=10,
        what=lambda: worker.log,
    )
    assert worker.process.poll() is None
    assert (worker.pid, admin.llen(QUEUE)) == (pid, 0)
    (letter,) = letters
    assert letter["reason"] in reasons, letter
    assert letter["queue"] == QUEUE
    kept = letter["envelope"]
    assert (base64.b64decode(kept) if letter.get("envelope_base64") else kept.encode()) == message
    told = worker.log + letter["message"]
    assert not [secret for secret in SECRETS if secret in told]
    assert _peak(worker.pid) - memory < 100 * 2**20  # nothing was unpacked
    assert not admin.exists(*admin.keys(keyspace.reserved_key("*")), "unacked", "unacked_index")


def _letters(admin: redis.Redis):
    return {id: json.loads(letter) for id, letter in admin.hgetall(keyspace.DEAD).items()}


def _peak(pid):
    """The most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def test_only_the_anonymous_exchange(hardy):
    """No queue depends on a binding that an eviction or a flush could take away, and its messages with it."""
    server, living = hardy
    living()
    with Client(server.url) as client:
        client.predict("quick", ROW, timeout=20)
        assert [key for key in server.client().keys("_kombu.binding.*") if b"mutirao" in key] == []


@pytest.fixture(scope="module")
def deadly(root):
    """A worker of two processes whose executions are counted; a prediction may take a second."""
    with (
        ExecutionLog() as book,
        RedisServer() as server,
        WorkerProcess(server.url, root, concurrency=2, env=book.env) as worker,
    ):
        yield book, server, worker


@pytest.mark.parametrize(
    ("does", "first", "error", "says", "reason", "message"),
    [
        (
            recorded_models.DIES,
            5000,
            WorkerLost,
            "gave up after 3 attempts",
            "process died",
            r"^signal 9 \(SIGKILL\); job [\w-]+: gave up after 3 attempts$",
        ),
        (
            recorded_models.HANGS,
            6000,
            TimeLimitExceeded,
            "ran past its time limit",
            "time limit",
            r"^ran past its time limit of \d+ s$",
        ),
    ],
    ids=["dies", "hangs"],
)
def test_deadly_request(deadly, does, first, error, says, reason, message):
    """A request that kills, or hangs, each process that runs it ends after three runs at most, told in words; those beside it all succeed."""
    book, server, worker = deadly
    rows = np.array([[0.0, first + place, 1.0] for place in range(31)])
    rows[15, 0] = does
    with Client(server.url) as client, EndAnnouncements(server.url) as commits:
        jobs = client.submit_many("quick", rows)
        with pytest.raises(error, match=says):
            jobs[15].result(60)
        for place, job in enumerate(jobs):
            if place != 15:
                assert job.result(30)["predict"].tolist() == [3.0 * (first + place) + 1]
        assert 1 <= len(book.by_row()[first + 15]) <= 3
        letter = _letters(server.client())[jobs[15].id.encode()]
        assert (letter["task_id"], letter["model"], letter["reason"]) == (jobs[15].id, "quick", reason)
        assert re.search(message, letter["message"])
        assert jobs[15].id in letter["envelope"]
        assert not commits.doubles()
        assert worker.process.poll() is None
        assert client.predict("quick", ROW, timeout=20)["predict"].tolist() == [5.0]
