"""Run operations: generators that yield commands and are sent the replies, so that each is written once for both kinds of client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from mutirao.errors import MutiraoError
from mutirao.single_flight import AsyncSingleFlight, SharedCall, SingleFlight

T = TypeVar("T")
C = TypeVar("C")


def run(operation: Generator[C | SharedCall, Any, T], reply: Callable[[C], Any], flights: SingleFlight) -> T:
    """Run an operation to its end.

    Args:
        operation: gets each reply, or the error in its place: it may take back what it has done.
        reply: sends a command and returns the reply to it.
        flights: where steps are shared that several operations take at the same time.
    """
    try:
        step = next(operation)
        while True:
            try:
                if isinstance(step, SharedCall):
                    start = step.start
                    answer = flights.join(step.name, lambda: run(start(), reply, flights))  # noqa: B023 - joined here
                else:
                    answer = reply(step)
            except MutiraoError as exc:
                step = operation.throw(exc)
            else:
                step = operation.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def run_async(
    operation: Generator[C | SharedCall, Any, T], reply: Callable[[C], Awaitable[Any]], flights: AsyncSingleFlight
) -> T:
    """Run an operation to its end on the running event loop, as `run` does."""
    try:
        step = next(operation)
        while True:
            try:
                if isinstance(step, SharedCall):
                    start = step.start
                    answer = await flights.join(step.name, lambda: run_async(start(), reply, flights))  # noqa: B023 - awaited here
                else:
                    answer = await reply(step)
            except MutiraoError as exc:
                step = operation.throw(exc)
            else:
                step = operation.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
