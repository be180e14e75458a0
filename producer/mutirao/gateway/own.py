"""The jobs that this process has queued: it hears of their ends without asking Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mutirao.gateway.intake import Queued
from mutirao.job import Handle, Origin

# The latest ones; of others Redis is asked.
OWN_MAX = 100_000


class _Call(NamedTuple):
    """What the jobs of one call have in common."""

    tenant: str
    origin: Origin


class Own:
    """Remembers them by their ids, until somebody has been told how they ended."""

    def __init__(self) -> None:
        """Know none."""
        self._calls: dict[str, _Call] = {}

    def keep(self, queued: Sequence[Queued], tenant: str) -> None:
        """Remember the jobs of one call."""
        call: _Call | None = None
        for job, known in queued:
            if known or job.origin is None:
                continue
            call = call or _Call(tenant, job.origin)
            self._calls[job.id] = call
        for id in list(self._calls)[: max(0, len(self._calls) - OWN_MAX)]:
            del self._calls[id]

    def handles(self, ids: Iterable[str], tenant: str) -> dict[str, Handle]:
        """Find those of the jobs that are remembered and the tenant's."""
        calls = ((id, self._calls.get(id)) for id in ids)
        return {id: Handle(id, call.origin) for id, call in calls if call is not None and call.tenant == tenant}

    def forget(self, ids: Iterable[str]) -> None:
        """Forget jobs whose ends were told."""
        for id in ids:
            self._calls.pop(id, None)
