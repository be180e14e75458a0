"""A master, its replica and three sentinels that watch them.

with Sentinel() as sentinel:
    sentinel.url              # sentinel://...;sentinel://.../0
    sentinel.kill_master()
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, Self

import redis
from redis.sentinel import Sentinel as Sentinels

from mutirao.embedded import redis_server
from mutirao.embedded.process_group import ProcessGroup
from support import waiting
from support.redis_servers import RedisServer

MASTER = "fleet"
DOWN_AFTER_MS = 1000


class Sentinel:
    """Starts in the constructor, and waits until the sentinels know each other and the replica is in step."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.master = self._stack.enter_context(RedisServer(options={"repl-diskless-sync-delay": "0"}))
        self.replica = self._stack.enter_context(RedisServer())
        self.replica.client().replicaof(redis_server.HOST, self.master.port)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mutirao-sentinel-")))
        self._processes = ProcessGroup(self._folder / "watchdog.log")
        self._stack.callback(self._processes.end)
        self._ports = [self._watch(number) for number in range(3)]
        self._client = Sentinels([(redis_server.HOST, port) for port in self._ports], socket_timeout=2)
        try:
            waiting.until(self._agreed)
        except BaseException:
            self._stack.close()
            raise

    @property
    def url(self) -> str:
        return f"{';'.join(f'sentinel://{redis_server.HOST}:{port}' for port in self._ports)}/0"

    @property
    def env(self) -> dict[str, str]:
        return {"MUTIRAO_SENTINEL_MASTER": MASTER}

    def address(self) -> tuple[str, int]:
        """Where the master is, as the sentinels say."""
        found: tuple[str, int] = self._client.discover_master(MASTER)
        return found

    def client(self) -> redis.Redis:
        """A client of whoever is the master."""
        client: redis.Redis = self._client.master_for(MASTER)
        self._stack.callback(client.close)
        return client

    def kill_master(self) -> None:
        """Kill -9 the master, and wait until the replica has been made one."""
        self.master.kill()
        waiting.until(self._moved)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _watch(self, number: int) -> int:
        port = redis_server.free_port()
        config = self._folder / f"sentinel-{number}.conf"
        lines = (
            f"port {port}",
            f"bind {redis_server.HOST}",
            f"dir {self._folder}",
            f"sentinel monitor {MASTER} {redis_server.HOST} {self.master.port} 2",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 5000",
        )
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._processes.start(
            [self.master.program.path, str(config), "--sentinel"],
            stage=0,
            grace_s=5,
            log=self._folder / f"sentinel-{number}.log",
        )
        return port

    def _moved(self) -> bool:
        try:
            return self.address()[1] == self.replica.port
        except redis.RedisError:  # they have not chosen yet
            return False

    def _agreed(self) -> bool:
        """Each sentinel sees the two others and the replica, and the replica has all that the master has."""
        for each in self._client.sentinels:
            try:
                state: Any = each.sentinel_master(MASTER)
            except redis.RedisError:
                return False
            if (state["num-other-sentinels"], state["num-slaves"]) != (2, 1):
                return False
        return bool(self.replica.client().info("replication")["master_link_status"] == "up")
