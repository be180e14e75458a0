"""Many long polls held open by one gateway process: what they take of its memory, and whether each is answered."""

from __future__ import annotations

import re
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import accounting
import psutil
from workload import Workload

from fronts.gateway import Gateway
from fronts.load import HOST, PATIENCE_S, Connection
from fronts.rounds import spent
from mutirao import Client

LIMIT_MB = 300.0
_WAIT_S = 60
# How long the gateway may take until it holds them all.
_HELD_S = 50.0
_OPEN = re.compile(rb"^mutirao_open_waits ([\d.e+]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Polls:
    """One gateway process that holds polls; its memory is its PSS.

    Attributes:
        idle_mb: before.
        held_mb: while all are open.
        after_mb: when all are answered.
        answered: how many came back with a job that had succeeded.
        told_s: from the workers' going on until the last answer.
        held_cpu: cores that it keeps busy while it only holds them.
    """

    count: int
    idle_mb: float
    held_mb: float
    after_mb: float
    answered: int
    told_s: float
    held_cpu: float

    @property
    def met(self) -> bool:
        return self.held_mb < LIMIT_MB and self.answered == self.count


def held(workload: Workload, folder: Path, count: int) -> Polls:
    """Queue jobs while the workers stand still, poll each of them, then let the workers go on."""
    folder.mkdir()
    gateway = Gateway(workload, folder)
    try:
        gateway.start()
        return _held(gateway, count)
    finally:
        gateway.stop()


def _held(gateway: Gateway, count: int) -> Polls:
    workload, idle_mb = gateway.workload, _memory(gateway)
    with Client(gateway.broker_url) as client, ExitStack() as stack:
        with _still(gateway.processes()["workers"]):
            jobs = client.submit_many(workload.name, workload.rows[:count])
            polls = [stack.enter_context(_polled(gateway.port, job.id)) for job in jobs]
            _until_open(gateway.port, count)
            before = spent(gateway)["server"]
            time.sleep(1.0)
            held_mb, held_cpu = _memory(gateway), spent(gateway)["server"] - before
        began = time.perf_counter()
        answered = _answered(polls)
        told_s = time.perf_counter() - began
        return Polls(count, idle_mb, held_mb, _memory(gateway), answered, told_s, held_cpu)


@contextmanager
def _still(workers: Sequence[int]) -> Iterator[None]:
    """Stop the workers' processes for some seconds; no other worker is there to take their work."""
    processes = [psutil.Process(number) for number in workers]
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextmanager
def _polled(port: int, id: str) -> Iterator[Connection]:
    connection = Connection(port)
    with connection.socket:
        request = f"GET /v1/jobs/{id}?wait={_WAIT_S} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n"
        connection.ask(0, request.encode(), 0.0)
        yield connection


def _until_open(port: int, count: int) -> None:
    """Wait until the gateway says that it holds them all."""
    deadline = time.monotonic() + _HELD_S
    while (seen := _open(port)) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the gateway holds {seen} of {count} long polls open")
        time.sleep(0.2)


def _open(port: int) -> int:
    with urlopen(f"http://{HOST}:{port}/metrics", timeout=_HELD_S) as page:
        found = _OPEN.search(page.read())
    return int(float(found[1])) if found else 0


def _answered(polls: Sequence[Connection]) -> int:
    """Read all answers, and count the jobs that succeeded."""
    poll, by_number = select.poll(), {connection.socket.fileno(): connection for connection in polls}
    for number in by_number:
        poll.register(number, select.POLLIN)
    succeeded, waiting = 0, len(polls)
    while waiting and (events := poll.poll(1000 * PATIENCE_S)):
        for number, _ in events:
            if (answer := by_number[number].answer()) is not None:
                poll.unregister(number)
                waiting -= 1
                succeeded += answer[0] == 200 and b'"status":"succeeded"' in answer[1]
    return succeeded


def _memory(gateway: Gateway) -> float:
    return sum(process.pss_mb for process in accounting.memory(gateway.processes()["server"]))
