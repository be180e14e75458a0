"""Many calls at once through one client: each is answered, whatever the pools of the libraries below hold by default."""

import asyncio
import collections
import threading

import pytest

from mutirao import AsyncClient, BrokerUnavailable, Client
from mutirao.client import backend
from support.redis_monitor import Monitor

ROW = [[5.1, 3.5, 1.4, 0.2]]
COUNT = 300


def _tally(outcomes):
    return dict(collections.Counter(repr(one) if isinstance(one, Exception) else "answered" for one in outcomes))


async def _at_once(verb):
    return _tally(await asyncio.gather(*(verb() for _ in range(COUNT)), return_exceptions=True))


def _from_threads(verb):
    outcomes, barrier = [], threading.Barrier(COUNT)

    def call():
        barrier.wait()
        try:
            outcomes.append(verb())
        except Exception as exc:  # noqa: BLE001 - counted
            outcomes.append(exc)

    threads = [threading.Thread(target=call) for _ in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _tally(outcomes)


def test_tasks_that_call_at_once(fleet):
    """Hundreds of tasks of one loop submit, read, wait and cancel at once."""

    async def main():
        async with AsyncClient(fleet.url) as client:
            job = await client.submit("iris", ROW)
            await job.result(20)
            return [
                await _at_once(lambda: client.job(job.id).status()),
                await _at_once(lambda: client.predict("iris", ROW, timeout=30)),
                await _at_once(lambda: client.job(job.id).result(30)),
                await _at_once(lambda: client.job(job.id).cancel()),
            ]

    assert asyncio.run(main()) == [{"answered": COUNT}] * 4


def test_threads_that_call_at_once(fleet):
    """Hundreds of threads of one client submit, read and wait at once."""
    with Client(fleet.url) as client:
        job = client.submit("iris", ROW)
        assert _from_threads(lambda: client.predict("iris", ROW, timeout=30)) == {"answered": COUNT}
        assert _from_threads(lambda: client.job(job.id).record()) == {"answered": COUNT}


@pytest.mark.parametrize("how", ["tasks", "threads"])
def test_one_reads_the_catalogue_for_all(fleet, monkeypatch, how):
    """Where the copy of the catalogue is old, hundreds who come at once have it read once, or twice for who came in between."""
    monkeypatch.setattr(backend, "REGISTRY_AGE_S", 0.5)

    async def main():
        async with AsyncClient(fleet.url) as client:
            return await _at_once(lambda: client.submit("iris", ROW))

    with Client(fleet.url) as client, Monitor(fleet.url) as monitor:
        if how == "tasks":
            assert asyncio.run(main()) == {"answered": COUNT}
        else:
            assert _from_threads(lambda: client.submit("iris", ROW)) == {"answered": COUNT}
    reads = [name for name in monitor.names() if name == "HGETALL"]
    assert 2 <= len(reads) <= 20, "two hashes a reading"


def test_a_server_that_is_silent_is_told_as_that(redis_server):
    """Where Redis hangs, calls beyond those that have a turn are told so in the same words, and not that they are too many."""

    async def main():
        async with AsyncClient(redis_server.url, check=False, timeout_s=0.5) as client:
            await client.submit("iris", ROW, id="known")
            redis_server.pause()
            try:
                return await asyncio.gather(
                    *(client.job("known").status() for _ in range(COUNT)), return_exceptions=True
                )
            finally:
                redis_server.resume()

    outcomes = asyncio.run(main())
    assert {type(one) for one in outcomes} == {BrokerUnavailable}
    assert all("within" in str(one) or "Timeout" in str(one) for one in outcomes), _tally(outcomes)


def test_a_limit_that_the_url_sets_is_told_as_that(redis_server):
    """A pool that the URL itself makes too small says so, and not that Redis is away."""

    async def main():
        async with AsyncClient(f"{redis_server.url}?max_connections=2", check=False) as client:
            await client.submit("iris", ROW, id="known")
            return await asyncio.gather(*(client.job("known").status() for _ in range(20)), return_exceptions=True)

    refused = [one for one in asyncio.run(main()) if isinstance(one, BrokerUnavailable)]
    assert refused
    assert {one.reason for one in refused} == {"too many calls"}
    assert "max_connections in the URL" in str(refused[0])
