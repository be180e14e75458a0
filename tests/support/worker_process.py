"""Real worker processes, and a small fleet of one for whole test runs.

with RedisServer() as server, WorkerProcess(server.url, repository.root) as worker:
    ...                        # it has announced itself
    worker.log
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple, Self

import msgspec
import psutil
import redis

from mutirao import Client, keyspace, printable, settings
from mutirao.redisdb.connection import connect
from mutirao_worker.models.repository import Repository
from support import brokers, sample_models, waiting
from support.forked_processes import ForkedProcesses
from support.redis_servers import RedisServer

BIN = Path(sys.executable).parent
COMMANDS: dict[str, tuple[str, ...]] = {
    "mutirao": (str(BIN / "mutirao"), "worker"),
    "celery": (str(BIN / "celery"), "--quiet", "-A", "mutirao_worker.app", "worker", "--loglevel=info"),
}
READY_S = 60.0

_NUMBERS = itertools.count(1)


class WorkerProcess:
    """Starts in the constructor, and waits until the worker has announced itself; use it as a context manager.

    Args:
        url: the broker.
        models: the repository's folder.
        args: of the command line, beside --concurrency and --hostname.
        concurrency: how many predictions at once.
        command: mutirao, or celery for the plain `celery -A mutirao_worker.app worker`.
        env: over the test's own environment.
        wait: False returns at once, for workers that are not to start.
        name: of an earlier worker, which this one takes the place of; one of its own by default.
    """

    def __init__(
        self,
        url: str,
        models: Path,
        *,
        args: Sequence[str] = (),
        concurrency: int = 1,
        command: str = "mutirao",
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        name: str = "",
    ) -> None:
        self.url = url
        self.name = name or f"w{next(_NUMBERS)}-{os.getpid()}@{socket.gethostname()}"
        self.folder = Path(tempfile.mkdtemp(prefix="mutirao-worker-"))
        self._processes = ForkedProcesses(self.folder / "watchdog.log")
        named = ["-n", self.name, f"--concurrency={concurrency}"]
        own = {**brokers.environment(url), "MUTIRAO_MODELS": str(models), "PYTHONPATH": sample_models.PYTHONPATH}
        whole = {**os.environ, **own, **(env or {})}
        self._settings = settings.load(whole)
        self.process: Popen[bytes] = self._processes.start(
            [*COMMANDS[command], *named, *args],
            stage=0,
            grace_s=5,
            log=self.folder / "worker.log",
            env=whole,
        )
        if wait:
            self.wait_ready()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text(encoding="utf-8", errors="replace")

    @property
    def children(self) -> list[psutil.Process]:
        """The pool's processes."""
        return psutil.Process(self.pid).children()

    def wait_ready(self) -> None:
        """Wait until the worker is among the live ones."""
        given = self._settings
        with connect(given.result_url if given.uses_amqp else given.broker_url, given) as client:
            waiting.until(
                lambda: self._announced(client) or self.process.poll() is not None, timeout_s=READY_S, what=self._said
            )
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log}")

    def wait_logged(self, text: str) -> str:
        """Wait until the log has this text; return the log."""
        waiting.until(lambda: text in self.log, what=self._said)
        return self.log

    def wait_ended(self, timeout_s: float = READY_S) -> int:
        """Wait until the process has ended; return its exit code."""
        return self.process.wait(timeout=timeout_s)

    def stop(self, *, wait: bool = True) -> None:
        """Ask for the warm shutdown."""
        self.process.send_signal(signal.SIGTERM)
        if wait:
            self.wait_ended()

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Let the parent stand still, for less than its lease: what is submitted meanwhile waits for certain."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill -9, the pool's processes too, as when the machine goes."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait_ended()

    def close(self) -> None:
        """End it at once: a test that wants to see the warm shutdown calls stop()."""
        self._processes.kill(below=1)
        self.wait_ended()
        self._processes.end()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _announced(self, client: redis.Redis) -> bool:
        try:
            found: Any = client.hvals(keyspace.WORKERS)
        except redis.RedisError:
            return False
        return (printable.escaped(self.name), self.pid) in (
            (info["name"], info["pid"]) for info in map(msgspec.json.decode, found)
        )

    def _said(self) -> str:
        return self.log


class Fleet(NamedTuple):
    """A Redis, a repository and a worker that serves it."""

    server: RedisServer
    repository: Repository
    worker: WorkerProcess

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def broker_url(self) -> str:
        """Where requests wait; `url` names the system by its Redis, which may keep the results alone."""
        return brokers.broker_of(self.url)["broker_url"]

    def client(self, **given: Any) -> Client:
        return Client(self.url, **given)
