"""A private, real redis-server for tests: on a free port, in a folder of its own, gone when the test is, however it ends.

with RedisServer() as server:
    client = server.client()
    server.restart()          # the same port, the data from its log
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen
from typing import Self

import redis

from mutirao.embedded import redis_binary, redis_server
from mutirao.embedded.process_group import ProcessGroup

_HAD: set[int] = set()


class RedisServer:
    """Starts in the constructor; use it as a context manager.

    Args:
        password: "" for none.
        options: redis.conf options over those of the embedded server (AOF everysec, no RDB, noeviction).
        folder: where the data lies; a temporary folder, removed at the end, by default.
        program: the server to run; the one that `mutirao up` would choose by default.
    """

    def __init__(
        self,
        *,
        password: str = "",
        options: Mapping[str, str] | None = None,
        folder: Path | None = None,
        program: redis_binary.Binary | None = None,
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="mutirao-redis-"))
        self._remove = folder is None
        self._options = dict(options or {})
        self.program = program or redis_binary.find()
        self._processes = ProcessGroup(self.folder / "watchdog.log")
        self._server = redis_server.RedisEndpoint(self.folder, 0, password)
        self._clients: list[redis.Redis] = []
        self.start()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "redis.log").read_text(encoding="utf-8", errors="replace")

    def client(self, **options: object) -> redis.Redis:
        """Make a client that is closed with the server."""
        client = redis.Redis.from_url(self.url, **options)
        self._clients.append(client)
        return client

    def start(self) -> None:
        """Start, or start again: the port of the first time, unless another process took it when we had never listened yet."""
        fixed = self._server.port
        for _ in range(5):
            self._server = redis_server.RedisEndpoint(self.folder, fixed or _port(), self._server.password)
            self.process = self._run()
            if redis_server.wait_ready(self._server, ended=lambda: self.process.poll() is not None):
                return
            self.kill()
            if fixed:
                break
        raise AssertionError(f"redis-server did not start:\n{self.log}")

    def stop(self) -> None:
        """Stop as an operator would; the data is in its log."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop answering without closing a connection, as a machine that hangs does."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) and start on the same port with the same data."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self._remove:
            self._processes.kill(below=1)  # nobody will read what it would write at its end
        self._processes.end()
        if self._remove:
            shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> Popen[bytes]:
        command = redis_server.command(self.program, self._server, self._options)
        return self._processes.start(command, stage=0, grace_s=10, log=self.folder / "redis.log")

    def _end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(timeout=20)
        self._processes.forget(self.process)


def _port() -> int:
    """Find a free port that no server of this run has had: where RabbitMQ is the broker, a URL names a virtual host for good."""
    while (port := redis_server.free_port()) in _HAD:
        pass
    _HAD.add(port)
    return port
