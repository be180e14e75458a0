"""A TCP proxy that fails as networks do: it keeps data back, slows it down, resets connections, and cuts a reply in half.

with TcpProxy(server.port) as proxy:
    worker = WorkerProcess(proxy.url, ...)
    proxy.blackhole()
    proxy.heal()
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Self

from support.event_loop_thread import EventLoopThread

HOST = "127.0.0.1"
DELAY_S = 0.05
TIMEOUT_S = 10.0


class TcpProxy:
    """Listens from the constructor on; use it as a context manager.

    Args:
        target: the port of the server, on this machine.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = EventLoopThread()
        self._open: set[asyncio.StreamWriter] = set()
        self._flows: set[asyncio.Task[None]] = set()
        self._delay_s = 0.0
        self._sinks: dict[str, set[asyncio.StreamWriter]] = {"requests": set(), "replies": set()}
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._to_cut = 0
        self.cuts = 0
        self._server, self._flowing = self._loop.run(self._start(), TIMEOUT_S)
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def blackhole(self) -> None:
        """Accept everything and pass nothing on, in neither direction, until heal()."""
        self._loop.call(self._flowing.clear)

    def delay(self) -> None:
        """Pass everything on 50 ms late, until heal()."""
        self._delay_s = DELAY_S

    def heal(self) -> None:
        """Pass on again, what was kept back first."""
        self._delay_s = 0.0
        self._loop.call(self._flowing.set)

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._loop.call(self._reset_all)

    def forget(self, *what: str) -> None:
        """Pass nothing on any more for those who are connected now, and tell them nothing, as a router does that has lost its table.

        Args:
            what: "requests", "replies", or both.
        """
        self._loop.call(lambda: self._forget(what))

    def lead_to(self, target: int) -> None:
        """Lead those who connect from now on to another server, as a name does after a failover."""
        self._target = target

    def cut(self, replies: int = 1) -> None:
        """Of the next replies, pass on the first half, and then reset their connection."""
        self._to_cut = replies

    def close(self) -> None:
        self._loop.run(self._end(), TIMEOUT_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _start(self) -> tuple[asyncio.Server, asyncio.Event]:
        flowing = asyncio.Event()
        flowing.set()
        return await asyncio.start_server(self._connected, HOST, 0), flowing

    async def _end(self) -> None:
        self._server.close()
        for flow in self._flows:
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)
        for writer in tuple(self._open):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            there, away = await asyncio.open_connection(HOST, self._target)
        except OSError:
            _reset(writer)
            self._open.discard(writer)
            return
        self._open.add(away)
        for source, sink, replies in ((reader, away, False), (there, writer, True)):
            flow = asyncio.create_task(self._pass_on(source, sink, replies=replies))
            self._flows.add(flow)
            flow.add_done_callback(self._flows.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        sinks = self._sinks["replies" if replies else "requests"]
        sinks.add(sink)
        with contextlib.suppress(OSError, RuntimeError):
            while data := await source.read(65536):
                await self._flowing.wait()
                if sink in self._forgotten:
                    continue
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if replies and self._to_cut and len(data) > 1:
                    self._to_cut -= 1
                    self.cuts += 1
                    sink.write(data[: len(data) // 2])
                    await sink.drain()
                    break
                sink.write(data)
                await sink.drain()
        sink.close()
        self._open.discard(sink)
        self._forgotten.discard(sink)
        sinks.discard(sink)

    def _forget(self, what: Sequence[str]) -> None:
        for each in what:
            self._forgotten |= self._sinks[each]

    def _reset_all(self) -> None:
        for writer in tuple(self._open):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
