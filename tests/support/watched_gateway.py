"""A gateway whose event loop is looked at: how much CPU time its longest callback took, and how long another call waited.

Run as a command it is the gateway; it says what it saw when it is sent SIGUSR1, and begins anew.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import psutil

from support import gateway_process, waiting  # little, for this is the gateway's own program: its memory is measured

SAID = "longest callback: "


class WatchedGateway(gateway_process.GatewayProcess):
    """Its loop is asyncio's own, whose callbacks can be timed; everything else is as ever."""

    command = (sys.executable, "-m", "support.watched_gateway")

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, env={"PYTHONPATH": str(Path(__file__).parents[1])}, **settings)

    def longest_s(self) -> float:
        """Tell how much CPU time the longest callback took since this was asked before."""
        before = self.log.count(SAID)
        self.process.send_signal(signal.SIGUSR1)
        waiting.until(lambda: self.log.count(SAID) > before)
        return float(self.log.rpartition(SAID)[2].split()[0])


class Peak:
    """The most memory that a process and those below it have at once, in MB, while this is open."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._process, self._over = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            total = 0
            for process in (self._process, *self._process.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.mb = max(self.mb, total / 1e6)


def main() -> None:
    """Serve, and time every callback of the loop."""
    from mutirao.cli import main as mutirao
    from mutirao.gateway import server

    longest = 0.0
    run = asyncio.events.Handle._run

    def timed(handle: Any) -> None:
        nonlocal longest
        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        if took > longest:
            longest = took
            if took > 0.1:
                sys.stderr.write(f"{took:.3f} s in {handle!r:.300}\n")

    def tell(*_: object) -> None:
        nonlocal longest
        sys.stderr.write(f"{SAID}{longest:.6f} s\n")
        longest = 0.0

    asyncio.events.Handle._run = timed  # type: ignore[method-assign,assignment]
    signal.signal(signal.SIGUSR1, tell)
    config = server.uvicorn.Config
    server.uvicorn.Config = functools.partial(_config, config)  # type: ignore[misc,assignment]
    mutirao()


def _config(config: Any, app: Any, **given: Any) -> Any:
    return config(app, **{**given, "loop": "asyncio"})


if __name__ == "__main__":
    main()
