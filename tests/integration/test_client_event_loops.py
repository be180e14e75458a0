"""One AsyncClient on several event loops: in turn, at the same time, after a fork, through Redis and through a gateway."""

import asyncio
import gc
import os
import threading
import warnings

import psutil
import pytest
import uvloop

from mutirao import AsyncClient

ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture(params=["redis", "gateway"])
def url(request, fleet):
    return fleet.url if request.param == "redis" else request.getfixturevalue("gateway").url


async def _predicted(client, rounds=1):
    for _ in range(rounds):
        job = await client.submit("iris", ROW)
        assert (await job.result(20))["predict"].tolist() == [0]
    return job


def _connections():
    return len([each for each in psutil.Process().net_connections("tcp") if each.status == "ESTABLISHED"])


def test_one_loop_after_another(url):
    """Each loop of several works, jobs of one are read on the next, and no loop leaves a socket or a word behind."""
    client, before = AsyncClient(url), _connections()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = asyncio.run(_predicted(client))
        for run in (asyncio.run, uvloop.run, asyncio.run):
            run(_predicted(client, 2))
            assert run(client.job(job.id).status()) == "succeeded"
        gc.collect()
        assert _connections() == before
        assert asyncio.run(job.result(5))["predict"].tolist() == [0]
        asyncio.run(client.close())
        gc.collect()
    assert _connections() == before


def test_a_loop_that_ends_while_others_wait(url):
    """A loop that ends in the middle of a wait closes what it has, and the next loop waits for the same job."""

    async def begun():
        job = await client.submit("slow", [[1.0, 0, 0]])
        waiting = asyncio.create_task(job.result(20))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        return job

    client, before = AsyncClient(url), _connections()
    job = asyncio.run(begun())
    assert _connections() == before
    assert asyncio.run(job.result(20))["predict"].shape == (1,)
    asyncio.run(client.close())


def test_loops_at_the_same_time(url):
    """Loops of several threads share a client, each hears of its own jobs, and one of them closes it for all."""
    client, before = AsyncClient(url), _connections()
    outcomes, barrier = [], threading.Barrier(3)

    async def main():
        barrier.wait()
        await _predicted(client, 5)
        outcomes.append("answered")

    threads = [threading.Thread(target=asyncio.run, args=[main()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["answered"] * 3
    assert _connections() == before


def test_closed_from_another_loop(url):
    """Closing from one loop closes what a loop that runs on in another thread has; its next call connects anew."""
    client, before = AsyncClient(url), _connections()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(_predicted(client), loop).result(30)
    assert _connections() > before
    asyncio.run(client.close())
    assert _connections() == before
    asyncio.run_coroutine_threadsafe(_predicted(client), loop).result(30)
    asyncio.run_coroutine_threadsafe(client.close(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert _connections() == before


def test_a_loop_of_a_fork(fleet):
    """A fork's loop has connections of its own, and closing there leaves the parent's as they are."""
    client = AsyncClient(fleet.url)

    async def parent():
        await _predicted(client)
        child = os.fork()
        if child == 0:
            os._exit(_child(client))
        assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
        await _predicted(client, 2)
        await client.close()

    asyncio.run(parent())


def _child(client):
    asyncio.events._set_running_loop(None)
    try:
        asyncio.run(_predicted(client, 2))
        asyncio.run(client.close())
    except BaseException:  # noqa: BLE001 - the parent asks for the code
        return 1
    return 0
