"""Descriptors that a forked process has of its parent and does not need: in the child they lead nowhere.

A model that writes to stray descriptors must not reach the parent's connections, nor other processes' pipes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from typing import Any

_OPEN = "/dev/fd"


def opened() -> frozenset[int]:
    """List the descriptors of this process."""
    return frozenset(map(int, os.listdir(_OPEN)))  # noqa: PTH208 - it is no folder of files


def own(worker: Any) -> set[int]:
    """List those over which a process of billiard's pool exchanges messages with its parent."""
    queues = (getattr(worker, name, None) for name in ("inq", "outq", "synq"))
    ends = (end for queue in queues if queue is not None for end in (queue._reader, queue._writer))  # noqa: SLF001 - the only way
    return {end.fileno() for end in ends if not end.closed}


def silence(numbers: Iterable[int]) -> None:
    """Redirect sockets, pipes and the kernel's own objects among these to the null device; files stay.

    They are not closed: the object that holds the number closes it one day, and must not close what has it by then.
    """
    for number in numbers:
        try:
            mode = os.fstat(number).st_mode
        except OSError:  # it has been closed
            continue
        if number > 2 and (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or not stat.S_IFMT(mode)):
            redirect_to_null(number)


def redirect_to_null(number: int) -> None:
    """Redirect a descriptor to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number, inheritable=False)
    os.close(null)


@contextlib.contextmanager
def withheld(number: int) -> Iterator[None]:
    """Redirect a descriptor to the null device meanwhile, with no other number for it: it is on its way through a socket."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        socket.send_fds(near, [b"-"], [number])
        redirect_to_null(number)
        yield
        far.setblocking(False)  # it is the first thing in there, whatever has been written since
        _, (original,), _, _ = socket.recv_fds(far, 1, 1)
        os.dup2(original, number, inheritable=False)
        os.close(original)
