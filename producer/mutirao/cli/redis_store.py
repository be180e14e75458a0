"""A connection to Redis for one command, and what is kept there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from mutirao.redisdb.drivers import RedisDriver
from mutirao.settings import Settings

T = TypeVar("T")


@contextlib.contextmanager
def connected(settings: Settings, store: Callable[[Settings], T]) -> Iterator[tuple[RedisDriver, T]]:
    """Open a connection, and a store whose operations it runs; close the connection at the end."""
    with contextlib.closing(RedisDriver(settings)) as redis:
        yield redis, store(settings)
