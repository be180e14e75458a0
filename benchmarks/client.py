"""A contestant in a client process of its own: what one imports or leaves running costs no other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import contestants
import measures
from contestant import Place
from workload import Workload

MEASURES = {
    function.__name__: function
    for function in (measures.warm_up, measures.burst, measures.submission, measures.alone, measures.footprint)
}


class ContestantFailed(RuntimeError):
    """A contestant did not start, or raised while it was measured."""


@dataclass(frozen=True)
class Client:
    """The benchmark's end of the pipe."""

    name: str
    pipe: Connection

    def measure(self, measure: str, *args: Any, **options: Any) -> Any:
        """Take a measure there; raise ContestantFailed with its traceback."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; `answer` says so
            self.pipe.send((measure, args, options))
        return self.answer()

    def answer(self) -> Any:
        try:
            failure, answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            failure, answer = "its client process ended", None
        if failure:
            raise ContestantFailed(f"{self.name}: {failure}")
        return answer


@contextlib.contextmanager
def running(name: str, workload: Workload, place: Place) -> Iterator[Client]:
    """Start a contestant and its client process, whose first `answer` says that it stands; end both."""
    place.folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, name, workload, place))
    process.start()
    theirs.close()
    client = Client(name, ours)
    try:
        yield client
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection, name: str, workload: Workload, place: Place) -> None:
    # Both may reach the whole process group; the end of the pipe tells this process to stop its workers. A handler, since
    # the workers would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    os.environ.update(place.env)
    contestant = contestants.find(name)(workload, place)
    try:
        contestant.start()
        pipe.send((None, None))
        with contextlib.suppress(EOFError):
            while True:
                measure, args, options = pipe.recv()
                pipe.send((None, MEASURES[measure](contestant, *args, **options)))
    except Exception:  # noqa: BLE001 - whatever it is, the run's report names it
        with contextlib.suppress(OSError):
            pipe.send((traceback.format_exc(), None))
    finally:
        with contextlib.suppress(AttributeError):  # it failed before it had anything to stop
            contestant.stop()
