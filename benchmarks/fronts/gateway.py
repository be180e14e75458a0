"""This system as a user has it: Redis, `mutirao worker` with two processes, `mutirao gateway` with one."""

from __future__ import annotations

import sys
from typing import ClassVar

import accounting
from contestant import Place
from contestants.this_system import ThisSystem

from fronts.front import Front, answers
from fronts.load import HOST
from mutirao.embedded.redis_server import free_port


class Gateway(Front):
    """One gateway process; everything as it comes."""

    name: ClassVar[str] = "mutirao"

    def start(self) -> None:
        self.port = free_port()
        self._fleet = ThisSystem(self.workload, Place(self.folder))
        self._fleet.start()
        self._gateway = self._fleet.run("gateway", self.command(), self.env())
        self._fleet.until(self._ready, timeout_s=180)

    def stop(self) -> None:
        self._fleet.stop()

    def processes(self) -> dict[str, list[int]]:
        workers = [process.pid for process in accounting.tree(self._fleet.workers())]
        return {"server": [self._gateway.pid], "workers": workers, "redis": self._fleet.redis()}

    @property
    def broker_url(self) -> str:
        return self._fleet.url

    def command(self) -> list[str]:
        """Return the gateway's command."""
        return [sys.executable, "-m", "mutirao", "gateway", "--host", HOST, "--port", str(self.port)]

    def env(self) -> dict[str, str]:
        """Return the gateway's environment variables."""
        return dict(self._fleet.env())

    def _ready(self) -> bool:
        if self._gateway.poll() is not None:
            said = (self.folder / "gateway.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"mutirao gateway ended with {self._gateway.returncode}: {said}")
        return answers(f"http://{HOST}:{self.port}/v2/models/{self.workload.name}/ready")
