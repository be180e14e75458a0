"""A contestant with a private Redis and worker processes, all of which end with the process that started them."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import Popen
from typing import TypeVar

from contestant import Contestant

from mutirao.embedded import redis_binary, redis_server
from mutirao.embedded.process_group import ProcessGroup

HERE = Path(__file__).parent
Answer = TypeVar("Answer")


class Fleet(Contestant):
    """Starts Redis, then the workers, then connects the client."""

    def start(self) -> None:
        self.open()
        self.serve()

    def open(self) -> None:
        """Start Redis, and do what the workers need before they start."""
        self._processes = ProcessGroup(self.place.folder / "watchdog.log")
        self._server = redis_server.RedisEndpoint(self.place.folder / "redis", redis_server.free_port())
        command = redis_server.command(redis_binary.find(), self._server, self.place.redis)
        self._redis = self.run("redis", command, {}, stage=1)
        if not redis_server.wait_ready(self._server, ended=lambda: self._redis.poll() is not None):
            raise RuntimeError(f"redis-server did not start: {self._tail('redis')}")
        self.prepare()

    def serve(self) -> None:
        """Start the workers, and wait until they answer."""
        commands = self.commands()
        self._workers = [self.run(f"worker{n}", command, self.env()) for n, command in enumerate(commands)]
        self.connect()

    def stop(self) -> None:
        self._processes.end()

    def workers(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def redis(self) -> list[int]:
        return [self._redis.pid]

    @property
    def url(self) -> str:
        return self._server.url

    def prepare(self) -> None:
        """Do what the workers need before they start."""

    @abstractmethod
    def commands(self) -> list[list[str]]:
        """Return the command of each worker to start."""

    @abstractmethod
    def connect(self) -> None:
        """Make the client, and wait until the workers answer."""

    def env(self) -> Mapping[str, str]:
        """Return the workers' environment variables."""
        return {}

    def until(self, ready: Callable[[], Answer], timeout_s: float = 60.0) -> Answer:
        """Ask until the answer is true; raise when a worker ends or time is up, with the worker's last words."""
        deadline = time.monotonic() + timeout_s
        while not (answer := ready()):
            if (ended := self._ended()) or time.monotonic() > deadline:
                name = ended or "worker0"
                raise RuntimeError(f"{name} {'ended' if ended else 'was not ready in time'}: {self._tail(name)}")
            time.sleep(0.05)
        return answer

    def _ended(self) -> str | None:
        return next((f"worker{n}" for n, worker in enumerate(self._workers) if worker.poll() is not None), None)

    def run(self, name: str, command: list[str], env: Mapping[str, str], *, stage: int = 0) -> Popen[bytes]:
        """Start a process; it is ended with the others."""
        whole = {**os.environ, "PYTHONPATH": str(HERE), **env}
        log = self.place.folder / f"{name}.log"
        return self._processes.start(command, stage=stage, grace_s=10, log=log, env=whole)

    def _tail(self, name: str) -> str:
        return (self.place.folder / f"{name}.log").read_text(errors="replace")[-2000:]
