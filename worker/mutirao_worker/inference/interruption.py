"""How a process that runs a batch is interrupted: the pool that it belongs to says so here, once."""

from __future__ import annotations

from collections.abc import Callable


class _NoTimeLimit(Exception):
    """Stands for the time limit where there is no pool that has one."""


# What the pool raises in the midst of a batch whose soft time limit is reached. A model's own code must not swallow it.
TIME_LIMIT: type[Exception] = _NoTimeLimit
# Whether the pool is ending this process; never, where there is none.
is_terminating: Callable[[], bool] = bool
