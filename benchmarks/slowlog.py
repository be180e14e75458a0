"""How long Redis spent in each of this system's scripts, from its own slow log."""

from __future__ import annotations

from typing import Any

import redis

from mutirao.redisdb.scripts import DIGESTS

# More entries than scripts run between two looks.
ENTRIES = 50_000


class SlowLog:
    """Logs every command of a Redis from now on."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._names = {digest: name for name, digest in DIGESTS.items()}
        client.config_set("slowlog-max-len", ENTRIES)
        client.config_set("slowlog-log-slower-than", 0)
        client.slowlog_reset()

    def taken(self) -> dict[str, list[int]]:
        """Take what was logged since the last look: the microseconds of each call, by the script's name."""
        entries: Any = self._client.slowlog_get(ENTRIES)
        self._client.slowlog_reset()
        found: dict[str, list[int]] = {}
        for entry in entries:
            command, _, rest = entry["command"].partition(b" ")
            if command == b"EVALSHA":
                name = self._names.get(rest[:40].decode(), "another script")
                found.setdefault(name, []).append(entry["duration"])
        return found
