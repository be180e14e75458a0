"""Clients as their processes see them: forks, what close() leaves, and a Redis that is away, silent or locked."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from mutirao import BrokerUnavailable
from mutirao.embedded.redis_server import free_port
from support import brokers
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer

ROW = [5.1, 3.5, 1.4, 0.2]

# Predicts, forks; the child predicts with the same client and closes it; the parent goes on.
FORKS = """
import os, sys
from mutirao import Client
client = Client(sys.argv[1])
job = client.submit("iris", [[5.1, 3.5, 1.4, 0.2]])
assert job.result(20)["predict"].tolist() == [0]
child = os.fork()
if not child:
    try:
        assert job.result(20)["predict"].tolist() == [0]
        assert client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)["predict"].tolist() == [0]
        client.close()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
child = os.fork()
if not child:
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)["predict"].tolist() == [0]
client.close()
"""

# Forks again and again in the midst of many threads' calls: whatever they are about at that moment, each child predicts and closes.
FORKS_AMID_CALLS = """
import os, sys, threading, time
from mutirao import Client
client = Client(sys.argv[1])
client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)
over = threading.Event()
def calls():
    while not over.is_set():
        client.models()
        client.close()
threads = [threading.Thread(target=calls) for _ in range(30)]
for thread in threads:
    thread.start()
ends = []
for _ in range(20):
    child = os.fork()
    if not child:
        try:
            client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)
            client.close()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + 20
    while not (end := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.01)
    if not end[0]:
        os.kill(child, 9)
        end = os.waitpid(child, 0)
    ends.append(end[1])
    if any(ends):
        break
over.set()
for thread in threads:
    thread.join()
assert not any(ends), ends
client.close()
"""

BLOCKING = """
import gc, sys, threading
from mutirao import Client
with Client(sys.argv[1]) as client:
    client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)
    waited = client.submit("slow", [[0.0, 0, 0]])
    next(client.as_completed([waited], timeout=20))
client.close()
del client
gc.collect()
assert threading.enumerate() == [threading.main_thread()]
"""

ASYNC = """
import asyncio, gc, sys
from mutirao import AsyncClient
async def main():
    async with AsyncClient(sys.argv[1]) as client:
        await client.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)
        waited = await client.submit("slow", [[0.0, 0, 0]])
        async for _ in client.as_completed([waited], timeout=20):
            pass
    await client.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
asyncio.run(main())
gc.collect()
"""

# Ends while a result is waited for, without close().
CARELESS = """
import sys
from mutirao import Client, ResultTimeout
client = Client(sys.argv[1], check=False)
try:
    client.submit("slow", [[1.0, 0, 0]]).result(0.1)
except ResultTimeout:
    pass
"""


@pytest.fixture(params=["Redis", "HTTP"])
def address(request, fleet):
    """The URL by which a client reaches the fleet."""
    if request.param == "Redis":
        return fleet.broker_url
    return request.getfixturevalue("gateway").url


@pytest.fixture(scope="module")
def gateway(fleet):
    """A gateway of the fleet."""
    with GatewayProcess(fleet.url) as process:
        yield process


@pytest.mark.parametrize(
    "program",
    [FORKS, FORKS_AMID_CALLS, BLOCKING, ASYNC, CARELESS],
    ids=["forks", "forks amid calls", "blocking", "asyncio", "careless"],
)
def test_leaves_nothing(fleet, address, program):
    """Forked, closed or just left, a client ends with its process: no hang, no thread, no open socket, no warning."""
    command = [sys.executable, "-W", "error", "-c", program, address]
    env = os.environ | brokers.environment(fleet.url)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_broker_refuses(connect):
    """Where nothing listens, a call fails within seconds, names the server and says what to do."""
    port = free_port()
    with connect(f"redis://:s3cret@127.0.0.1:{port}/0") as client:
        began = time.monotonic()
        with pytest.raises(
            BrokerUnavailable, match=rf"Redis at redis://:\*\*\*@127.0.0.1:{port}/0 is unavailable: "
        ) as caught:
            client.submit("iris", [ROW])
        assert time.monotonic() - began < 5
    assert "is it running? try mutirao doctor" in str(caught.value)
    assert "s3cret" not in repr(caught.value) + str(caught.value)


def test_broker_accepts_and_never_answers(connect):
    """A server that accepts connections and never answers costs no more than the time allowed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as hole,
        connect(f"redis://127.0.0.1:{hole.getsockname()[1]}/0", timeout_s=0.5) as client,
    ):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            client.submit("iris", [ROW])
        with pytest.raises(BrokerUnavailable):
            client.models()
        assert time.monotonic() - began < 5


def test_broker_hangs_while_waiting(connect, redis_server):
    """A server that stops answering while a result is waited for: the wait ends when its time is over, with an error that says so."""
    with connect(redis_server.url, check=False, timeout_s=0.5) as client:
        job = client.submit("iris", [ROW])
        threading.Timer(0.3, redis_server.pause).start()
        began = time.monotonic()
        try:
            with pytest.raises(BrokerUnavailable):
                job.result(1.0)
            assert time.monotonic() - began < 8
        finally:
            redis_server.resume()


def test_wrong_password(connect):
    """A wrong password is told within seconds, with where to mend it; no password is quoted."""
    with RedisServer(password="right-s3cret") as server, connect(server.url.replace("right", "wrong")) as client:
        with pytest.raises(BrokerUnavailable, match="check the user and password in MUTIRAO_BROKER_URL") as caught:
            client.submit("iris", [ROW])
        assert "s3cret" not in str(caught.value) + repr(caught.value)
