"""A closed load: so many connections, each of which asks again as soon as it is answered.

It shares the cores with what it measures, so it does little: one thread, one epoll, requests encoded beforehand, and answers
only cut out of the stream. What is in them is looked at afterwards.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

HOST = "127.0.0.1"
# What is still unanswered so long after the last request was sent is lost.
PATIENCE_S = 30.0

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Answer(NamedTuple):
    """One answer: to which row, with which status (0 where the connection ended), when it was there, how long it took."""

    row: int
    status: int
    at_s: float
    took_s: float
    body: bytes


@dataclass(frozen=True)
class Load:
    """What came of it: the answers in their order, how many were sent, and what sending and reading took of the CPU."""

    answers: list[Answer]
    sent: int
    cpu_s: float


class Connection:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("began", "held", "row", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.row, self.began, self.held = -1, 0.0, b""

    def ask(self, row: int, request: bytes, now: float) -> None:
        self.row, self.began = row, now
        self.socket.sendall(request)

    def answer(self) -> tuple[int, bytes] | None:
        """Read what is there: status and body once they are complete, status 0 where the connection has ended."""
        part = self.socket.recv(65536)
        if not part:
            return 0, b""
        data = self.held + part if self.held else part
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
        if head >= 0 and length is None:
            raise RuntimeError(f"an answer without Content-Length cannot be measured: {data[:head]!r}")
        if length is None or len(data) < head + 4 + int(length[1]):
            self.held = data
            return None
        self.held = b""
        return int(data[9:12]), data[head + 4 :]


def drive(port: int, requests: Sequence[bytes], *, connections: int, seconds: float, start: int = 0) -> Load:
    """Ask for so many seconds, then wait for what is under way.

    Args:
        requests: whole HTTP requests, one for each row; the first one sent is that of row `start`.
    """
    opened = [Connection(port) for _ in range(connections)]
    try:
        with _uncollected():
            return _drive(opened, requests, seconds, start)
    finally:
        for connection in opened:
            connection.socket.close()


def _drive(opened: list[Connection], requests: Sequence[bytes], seconds: float, start: int) -> Load:
    answers: list[Answer] = []
    poll, by_number = select.epoll(), {connection.socket.fileno(): connection for connection in opened}
    sent, rows, cpu, clock = start, len(requests), time.process_time(), time.perf_counter
    began = clock()
    for number, connection in by_number.items():
        poll.register(number, select.EPOLLIN)
        connection.ask(sent % rows, requests[sent % rows], clock())
        sent += 1
    ends, waiting = began + seconds, len(opened)
    while waiting and (events := poll.poll(PATIENCE_S)):
        for number, _ in events:
            connection = by_number[number]
            if (answer := connection.answer()) is None:
                continue
            now = clock()
            answers.append(Answer(connection.row, answer[0], now - began, now - connection.began, answer[1]))
            if now < ends and answer[0]:
                connection.ask(sent % rows, requests[sent % rows], now)
                sent += 1
            else:
                poll.unregister(number)
                waiting -= 1
    return Load(answers, sent - start, time.process_time() - cpu)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking through the answers meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
