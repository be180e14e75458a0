"""Celery's registers of requests, in which its remote control (`inspect active`, `revoke` and the like) finds them."""

from __future__ import annotations

from collections.abc import Container, Iterable

from celery.worker import state

from mutirao import keyspace
from mutirao_worker.engine.request import Request


class CeleryRequestRegistry:
    """Writes the registers of this process's worker."""

    @property
    def revoked(self) -> Container[str]:
        """The ids of the requests that the worker has been told to drop."""
        revoked: Container[str] = state.revoked
        return revoked

    def add(self, requests: Iterable[Request]) -> None:
        state.requests.update((request.id, request) for request in requests)

    def mark_scheduled(self, request: Request) -> None:
        state.task_scheduled(request)

    def unmark_scheduled(self, request: Request) -> None:
        state.scheduled_requests.discard(request)

    def mark_waiting(self, request: Request) -> None:
        state.reserved_requests.add(request)

    def mark_running(self, requests: Iterable[Request]) -> None:
        state.active_requests.update(requests)

    def unmark_running(self, request: Request) -> None:
        state.active_requests.discard(request)

    def remove(self, request: Request) -> None:
        state.requests.pop(request.id, None)
        state.reserved_requests.discard(request)
        state.active_requests.discard(request)
        if request.headers.eta is not None:
            state.scheduled_requests.discard(request)

    def count_succeeded(self, count: int) -> None:
        state.total_count[keyspace.TASK] += count
        state.all_total_count[0] += count


def scheduled() -> list[Request]:
    """Return the requests whose time has not come."""
    return list(state.scheduled_requests)
