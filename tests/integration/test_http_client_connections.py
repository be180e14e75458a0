"""Many calls and waits of clients over HTTP, on few connections: each has its turn, and none waits for another's end."""

import asyncio
import concurrent.futures
import threading
import time
from typing import Any

import numpy as np
import psutil
import pytest

from mutirao import (
    AsyncClient,
    Client,
    JobCancelled,
    JobExpired,
    ResultTimeout,
)
from mutirao.client.http_backend import long_poll, transport
from support import waiting
from support.client_kinds import KINDS
from support.gateway_process import GatewayProcess

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(scope="module")
def gateway(fleet):
    """A gateway of the fleet."""
    with GatewayProcess(fleet.url) as process:
        yield process


@pytest.fixture(params=KINDS)
def connect(request):
    """Make a client of either kind: connect(url, **settings)."""
    return KINDS[request.param]


def connections(port: int) -> int:
    """How many connections this process has to a port."""
    found = psutil.Process().net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.port == port and each.status == "ESTABLISHED" for each in found)


def test_a_crowd_on_few_connections(gateway):
    """Hundreds of calls at once, of tasks and of threads, take turns on some connections: their cost grows as they do, no faster."""

    def peak(run):
        found, over = [], threading.Event()

        def look():
            while not over.is_set():
                found.append(connections(gateway.port))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            run()
        finally:
            over.set()
            looking.join()
        return max(found)

    async def tasks():
        async with AsyncClient(gateway.url) as client:
            await asyncio.gather(*(client.predict("iris", [ROW], timeout=60) for _ in range(300)))

    def threads():
        with Client(gateway.url) as client, concurrent.futures.ThreadPoolExecutor(300) as pool:
            list(pool.map(lambda _: client.predict("iris", [ROW], timeout=60), range(300)))

    most = transport.CALLS_MAX + long_poll.POLLS_MAX + 8  # rounds that are dropped end while others begin
    assert peak(lambda: asyncio.run(tasks())) <= most
    assert peak(threads) <= most


def test_calls_behind_long_ones(connect, gateway, monkeypatch):
    """While as many calls wait in a gateway for others' ends as may be under way, other calls have their turns."""
    monkeypatch.setattr(transport, "CALLS_MAX", 1)
    with connect(gateway.url) as client:
        slow = client.submit("slow", [[2.0, 0, 0]])
        waited = threading.Thread(target=slow.result, args=[30])
        waited.start()
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
        assert client.job(slow.id).status in ("queued", "running")
        waited.join()


def test_who_waits_for_a_place_takes_that_of_few(unserved, monkeypatch):
    """Where as many long polls are open as may be, small ones are merged, so that nobody waits for one of them to end."""
    monkeypatch.setattr(long_poll, "POLLS_MAX", 2)
    _, process = unserved

    async def main():
        async with AsyncClient(process.url) as client:
            jobs = await client.submit_many("iris", np.ones((5, 4)))
            waits = []
            for job in jobs:
                waits.append(asyncio.ensure_future(job.result(60)))
                await client.models()
            await jobs[-1].cancel()
            began = time.monotonic()
            ended: Any = (await asyncio.gather(waits[-1], return_exceptions=True))[0]
            for wait in waits:
                wait.cancel()
            return type(ended), time.monotonic() - began

    kind, took_s = asyncio.run(main())
    assert kind is JobCancelled
    assert took_s < long_poll.CROWDED_S + 3


def test_a_crowd_of_threads(unserved):
    """Threads that wait, one after another, for a job each share a few connections; each hears the end of its own."""
    _, process = unserved
    ended = []

    def wait(job):
        try:
            job.result(60)
        except JobExpired as exc:
            ended.append((job.id, exc.id))

    with Client(process.url, timeout_s=30) as client:
        jobs = client.submit_many("iris", np.ones((300, 4)), expires_s=4)
        threads = [threading.Thread(target=wait, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        assert connections(process.port) <= long_poll.POLLS_MAX + 2
        for thread in threads:
            thread.join()
    assert sorted(ended) == sorted((job.id, job.id) for job in jobs)


def test_a_crowd_of_tasks(unserved):
    """Tasks that wait together for a job each do so on a connection for five hundred of them."""
    _, process = unserved

    async def main():
        async with AsyncClient(process.url, timeout_s=30) as client:
            jobs = await client.submit_many("iris", np.ones((2000, 4)), expires_s=4)
            waits = [asyncio.ensure_future(job.result(60)) for job in jobs]
            await asyncio.sleep(0)
            await client.models()
            open = connections(process.port)
            ends: list[Any] = await asyncio.gather(*waits, return_exceptions=True)
            return open, [(job.id, type(end), end.id) for job, end in zip(jobs, ends, strict=True)]

    open, ends = asyncio.run(main())
    assert open <= 6
    assert all(kind is JobExpired and of == id for id, kind, of in ends)


def test_polling_opens_no_wait_each_time(unserved):
    """Whoever asks again and again with a short timeout shares one long poll; nobody's is dropped soon."""
    _, process = unserved
    with Client(process.url) as client:
        job = client.submit("iris", [ROW])
        for _ in range(20):
            with pytest.raises(ResultTimeout, match=r"still queued after 0\.01 s since no live worker serves 'iris'"):
                job.result(0.01)
        waits: Any = client._listening()._waiters
        assert len(waits._polls) == 1
        waiting.until(lambda: not waits._polls, timeout_s=5)
