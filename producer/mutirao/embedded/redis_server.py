"""The private Redis server: its configuration, its address, and when it is ready."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec
import redis

from mutirao import errors
from mutirao.embedded.redis_binary import Binary, Release

HOST = "127.0.0.1"
NOTE = "written-by.json"

# Loopback only, a log of every change synced each second, and no eviction: a full Redis must refuse, not forget.
BASE = {
    "bind": HOST,
    "protected-mode": "yes",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "tcp-backlog": "128",
    "daemonize": "no",
}


class RedisEndpoint(msgspec.Struct, frozen=True):
    """Where a server runs: the folder of its data, its port and its password."""

    folder: Path
    port: int
    password: str = ""

    @property
    def url(self) -> str:
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}{HOST}:{self.port}/0"

    @property
    def config_path(self) -> Path:
        return self.folder / "redis.conf"


def command(binary: Binary, server: RedisEndpoint, options: Mapping[str, str] | None = None) -> list[str]:
    """Write the configuration and return the command that runs it.

    The password stands in the file, never on the command line, where every user of the machine could read it.

    The server's release is noted in the folder of its data, for `written_by`.
    """
    server.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (server.folder / NOTE).write_bytes(msgspec.json.encode(Release(binary.product, binary.version)))
    server.config_path.touch(mode=0o600)
    server.config_path.write_text(configuration(server, options or {}), encoding="utf-8")
    return [binary.path, str(server.config_path)]


def written_by(folder: Path) -> Release | None:
    """Return the release that wrote the data in a server's folder; None where there is no data, or every server can read it."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / NOTE).read_bytes(), type=Release)
    # Written before there were notes: Redis 6 would ignore it, and start empty.
    return Release("Redis", (7, 0, 0)) if (folder / "appendonlydir").exists() else None


def configuration(server: RedisEndpoint, options: Mapping[str, str]) -> str:
    """Write redis.conf: one option per line, each value quoted."""
    values = (
        BASE
        | {"port": str(server.port), "dir": str(server.folder)}
        | ({"requirepass": server.password} if server.password else {})
    )
    return "".join(f"{option} {_quoted(value)}\n" for option, value in (values | dict(options)).items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def free_port(preferred: int = 0, host: str = HOST) -> int:
    """Return the preferred port if nothing listens on it, else any that is free.

    Raises:
        EmbeddedError: none is free, or the address is not one of this machine.
    """
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As the servers themselves do: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as exc:
                reason = exc.strerror
                continue
            return int(probe.getsockname()[1])
    raise errors.EmbeddedError(f"no port of {host} can be used: {reason}")


def chosen_port(named: int | None, usual: int, option: str, host: str = HOST) -> int:
    """Return the port that was named; where none was, the usual one, or any that is free.

    Raises:
        EmbeddedError: the port that was named is in use.
    """
    port = free_port(usual if named is None else named, host)
    if named not in {None, 0, port}:
        raise errors.EmbeddedError(
            f"port {named} of {host} is in use: name another with {option}, or none, for any that is free"
        )
    return port


def wait_ready(server: RedisEndpoint, *, ended: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Wait until the server answers with its data loaded; False when it ended or did not answer in time."""
    deadline = time.monotonic() + timeout_s
    while not ended() and time.monotonic() < deadline:
        if answers(server):
            return True
        time.sleep(0.02)
    return False


def answers(server: RedisEndpoint) -> bool:
    """Whether a server with this password answers at this port, and has loaded its data."""
    try:
        with redis.Redis.from_url(server.url, socket_timeout=2, retry=None) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def stop_leftover(server: RedisEndpoint) -> bool:
    """Stop a server that a crash of an earlier run left behind, since two on one data folder would ruin it. Return whether there was one."""
    if not answers(server):
        return False
    try:
        with redis.Redis.from_url(server.url, socket_timeout=10, retry=None) as client:
            client.shutdown()
    except redis.RedisError as exc:
        text = (
            f"the Redis that the last run has left behind at port {server.port} does not end: {exc} ({server.folder})"
        )
        raise errors.EmbeddedError(text, home=str(server.folder)) from exc
    return True
