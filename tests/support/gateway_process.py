"""Real gateway processes.

with RedisServer() as server, GatewayProcess(server.url) as gateway:
    gateway.url                # it answers
    gateway.log
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any, ClassVar, Self

import httpx

from support import brokers, waiting
from support.forked_processes import ForkedProcesses

READY_S = 30.0


class GatewayProcess:
    """Starts in the constructor, and waits until the gateway answers; use it as a context manager.

    Args:
        url: the broker.
        args: further options of the command.
        wait: False returns at once, for gateways that are not to start.
        env: over the test's own environment.
        settings: of the settings, by name: gateway_wait_s=1, ...
    """

    command: ClassVar[Sequence[str]] = (str(Path(sys.executable).parent / "mutirao"),)

    def __init__(
        self, url: str, *args: str, wait: bool = True, env: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutirao-gateway-"))
        self._processes = ForkedProcesses(self.folder / "watchdog.log")
        self.port = settings.pop("gateway_port", 0) or _free_port()
        given = {f"MUTIRAO_{name.upper()}": str(value) for name, value in settings.items()}
        own = {**brokers.environment(url), "MUTIRAO_GATEWAY_PORT": str(self.port)}
        self.process: Popen[bytes] = self._processes.start(
            [*self.command, "gateway", "--log-level", "debug", *args],
            stage=0,
            grace_s=5,
            log=self.folder / "gateway.log",
            env={**os.environ, **own, **given, **(env or {})},
        )
        self.url = f"http://127.0.0.1:{self.port}"
        if wait:
            self.wait_ready()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")

    def client(self, **given: Any) -> httpx.Client:
        """Make an HTTP client of it."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **given)

    def wait_ready(self) -> None:
        """Wait until it answers."""
        waiting.until(lambda: self._live() or self.process.poll() is not None, timeout_s=READY_S, what=lambda: self.log)
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log}")

    def stop(self, *, wait: bool = True) -> None:
        """Ask for the end."""
        self.process.send_signal(signal.SIGTERM)
        if wait:
            self.process.wait(timeout=READY_S)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait(timeout=READY_S)

    def close(self) -> None:
        self._processes.kill(below=1)
        self.process.wait(timeout=READY_S)
        self._processes.end()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _live(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/live", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
