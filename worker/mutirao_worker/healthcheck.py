"""The container's health check, `python -m mutirao_worker.healthcheck`: 0 if a worker of this host is alive and holds its lease."""

from __future__ import annotations

import socket
import sys

from mutirao import errors, settings
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver


def main() -> int:
    """Check the workers of this host; return the exit code."""
    loaded = settings.load()
    here = socket.gethostname()
    try:
        registry = RedisDriver(loaded).run(RedisBackend(loaded, check=False).catalog())
    except errors.BrokerUnavailable as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    alive = [worker.name for worker in registry.workers if worker.name.partition("@")[2] == here]
    unleased = [name for name in (*registry.unleased, *registry.silent) if name.partition("@")[2] == here]
    if alive:
        report = f"{', '.join(alive)} alive"
    elif unleased:
        report = f"{', '.join(unleased)} announced itself in the last 15 s, but its lease is over: it is gone, stands still, or does not hear Redis"
    else:
        report = f"no worker of {here} announced itself in the last 15 s"
    sys.stdout.write(f"{report}\n")
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
