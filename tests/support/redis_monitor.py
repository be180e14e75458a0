"""What Redis was asked, by MONITOR: the commands that came over connections, and apart from them those inside scripts."""

from __future__ import annotations

import threading
import uuid
from typing import Any, Self

import redis


class Monitor:
    """Listens from the start of a `with` block to its end; then `commands` has (time, command), in order, `inside` those of scripts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = uuid.uuid4().hex
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.commands: list[tuple[float, str]] = []
        self.inside: list[tuple[float, str]] = []

    def names(self) -> list[str]:
        return [command.partition(" ")[0] for _, command in self.commands]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        with redis.Redis.from_url(self._url) as client:
            client.echo(self._end)
        self._thread.join(10)

    def _listen(self) -> None:
        with redis.Redis.from_url(self._url) as client, client.monitor() as monitor:
            self._ready.set()
            while self._end not in (said := monitor.next_command())["command"]:
                self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        command = said["command"].upper()
        if not command.startswith(("CLIENT ", "HELLO ")):
            (self.inside if said["client_type"] == "lua" else self.commands).append((said["time"], command))
