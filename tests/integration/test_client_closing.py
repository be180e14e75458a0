"""Closing a client at any moment."""

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from mutirao import AsyncClient, Client

ROW = [[5.1, 3.5, 1.4, 0.2]]
CALLERS, CLOSES, TURNS = 12, 25, 40
ROUNDS = 80
STEP_S = 0.0001


def test_a_client_can_be_closed_while_it_begins_to_wait(redis_server, capfd):
    """However soon after the begin of a wait a client is closed, closing ends, and leaves no noise behind: Ctrl-C does that."""
    with Client(redis_server.url, check=False) as other:
        id = other.submit("iris", [[1.0]]).id
    for at in range(ROUNDS):
        client = Client(redis_server.url, check=False)
        begun = client._waiting([client.job(id)])
        begun.__enter__()
        time.sleep(at * STEP_S)  # the moment is what is tested
        closing = threading.Thread(target=client.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive(), f"closed {at * STEP_S * 1000:.1f} ms after it began to wait"
    assert capfd.readouterr().err == ""


@pytest.fixture(params=["redis", "gateway"])
def url(request, fleet):
    return fleet.url if request.param == "redis" else request.getfixturevalue("gateway").url


def test_a_client_can_be_closed_while_threads_call(url):
    """However often one thread closes a client, the calls of others are answered, over connections that end with them."""

    def call():
        barrier.wait()
        while not over.is_set():
            assert client.record(job.id).task_id == job.id
            client.catalog()

    before = _connections()
    client, over, barrier = Client(url, timeout_s=5), threading.Event(), threading.Barrier(CALLERS + 1)
    job = client.submit("iris", ROW)
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call) for _ in range(CALLERS)]
        barrier.wait()
        for _ in range(ROUNDS):
            time.sleep(0.01)  # the moment is what is tested
            client.close()
        over.set()
        for each in calls:
            each.result(30)
    client.close()
    gc.collect()
    assert _connections() == before


def test_an_asyncio_client_can_be_closed_while_it_calls(url):
    """At whatever turn of the loop it is closed, those who call are answered or told so, and no connection stays."""

    async def main(turns):
        client = AsyncClient(url)
        calls = [asyncio.create_task(client.predict("iris", ROW, timeout=20)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        for said in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(said, dict) or str(said).startswith("the client was closed"), said
        await client.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for turns in range(0, TURNS, 2):
        asyncio.run(main(turns))


def _connections():
    return len([each for each in psutil.Process().net_connections("tcp") if each.status == "ESTABLISHED"])
