"""The gateway when others fail: Redis away and back, workers killed, gateways killed, and clients that do not read."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from support import sample_models
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.waiting import until
from support.worker_process import WorkerProcess

IRIS = sample_models.get("iris")
ROW = {"rows": IRIS.data[:1].tolist()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return sample_models.repository(tmp_path_factory.mktemp("gateway") / "models", "iris", "slow").root


@pytest.fixture(scope="module")
def system(models):
    """A Redis and a worker of two processes, which outlive what these tests do to them."""
    with RedisServer() as server, WorkerProcess(server.url, models, concurrency=2) as _:
        yield server


def ready(client):
    """Wait until the worker is there again."""
    until(lambda: client.get("/v2/models/slow/ready").status_code == 200, timeout_s=60)


def slow(seconds):
    return {"rows": [[seconds, 0.0, 0.0]]}


def waits(client):
    """How many waits and streams the gateway holds open."""
    text = client.get("/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith("mutirao_open_waits ")).split()[1])


def test_redis_goes_and_comes_back(system):
    """Without Redis calls are 503 at once, readiness too; with it service goes on by itself, and no wait is left over."""
    with GatewayProcess(system.url) as gateway, gateway.client() as client, ThreadPoolExecutor(4) as pool:
        ready(client)
        waiting = [pool.submit(client.post, "/v2/models/slow/infer", json=slow(2.0)) for _ in range(2)]
        until(lambda: waits(client) == 2)
        system.stop()
        began = time.monotonic()
        for path in ("/v2/models/iris/infer", "/v1/models/iris/jobs"):
            answer = client.post(path, json=ROW)
            assert (answer.status_code, answer.json()["type"]) == (503, "BrokerUnavailable")
            assert answer.headers["retry-after"] == "1"
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        assert time.monotonic() - began < 20
        system.start()
        until(lambda: client.post("/v2/models/iris/infer", json=ROW).status_code == 200, timeout_s=60)
        until(lambda: client.get("/v2/health/ready").status_code == 200, timeout_s=60)
        assert [done.result(60).status_code for done in waiting] == [200, 200]
        until(lambda: waits(client) == 0)


def test_redis_that_hangs_holds_nobody_for_long(system):
    """A Redis that takes calls and says nothing costs each caller its timeout, not one after another's."""
    given = GatewayProcess(system.url, timeout_s=1)
    with given as gateway, gateway.client() as client, ThreadPoolExecutor(8) as pool:
        ready(client)
        system.pause()
        began = time.monotonic()
        found = list(pool.map(lambda _: client.post("/v2/models/iris/infer", json=ROW).status_code, range(8)))
        took = time.monotonic() - began
        system.resume()
        assert set(found) == {503}
        assert took < 6
        until(lambda: client.post("/v2/models/iris/infer", json=ROW).status_code == 200, timeout_s=60)


def test_a_worker_that_is_killed_costs_its_client_nothing_but_time(models, redis_server):
    """The request of a killed worker is adopted by another, and the client that waits for it gets its answer."""
    first = WorkerProcess(redis_server.url, models)
    given = GatewayProcess(redis_server.url, gateway_wait_s=60)
    with first, given as gateway, gateway.client() as client, ThreadPoolExecutor(1) as pool:
        ready(client)
        redis = redis_server.client()
        waiting = pool.submit(client.post, "/v2/models/slow/infer", json=slow(2.0), timeout=90)
        until(lambda: any(b"STARTED" in redis.get(key) for key in redis.keys("celery-task-meta-*")))
        first.kill()
        with WorkerProcess(redis_server.url, models):
            answer = waiting.result(90)
        assert answer.status_code == 200
        assert answer.json()["outputs"][0]["data"] == [2.0]


def test_jobs_survive_a_gateway_that_is_killed(system):
    """A gateway with 1,000 waiters is killed; another one knows all their jobs, and every one ends."""
    with GatewayProcess(system.url) as gateway, GatewayProcess(system.url) as other, other.client() as client:
        ready(client)
        held = [client.post("/v1/models/slow/jobs", json=slow(5.0)).json()["id"] for _ in range(2)]
        ids = client.post("/v1/models/slow/jobs:batch", json={"rows": [[0.0, 0.0, 0.0]] * 998}).json()["ids"]
        assert asyncio.run(_wait_for(gateway, [*held, *ids])) > 900  # the others had their answers
        left = {*held, *ids}
        while left:
            body = {"ids": sorted(left)[:500], "wait": 20}
            told = client.post("/v1/jobs:wait", json=body, timeout=60).json()
            assert told["missing"] == []
            assert {job["status"] for job in told["jobs"]} <= {"succeeded"}
            left -= {job["id"] for job in told["jobs"]}


async def _wait_for(gateway, ids):
    """Open a long poll for each id, kill the gateway once all are open, and count the polls that broke off."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60, limits=limits, trust_env=False) as client:

        async def poll(id):
            try:
                await client.get(f"/v1/jobs/{id}", params={"wait": 50})
            except httpx.TransportError:
                return 1
            return 0

        polls = [asyncio.ensure_future(poll(id)) for id in ids]
        process = psutil.Process(gateway.pid)
        async with asyncio.timeout(40):
            while sum(poll.done() for poll in polls) + process.num_fds() < len(ids):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        gateway.kill()
        return sum(await asyncio.gather(*polls))


def test_a_gateway_that_is_told_to_stop_answers_what_is_under_way(system):
    """SIGTERM: infer gets its answer, a long poll is told the state, new connections are refused, the exit code is 0."""
    with GatewayProcess(system.url) as gateway, gateway.client() as client, ThreadPoolExecutor(2) as pool:
        ready(client)
        id = client.post("/v1/models/slow/jobs", json=slow(4.0)).json()["id"]
        polling = pool.submit(client.get, f"/v1/jobs/{id}", params={"wait": 30})
        asking = pool.submit(client.post, "/v2/models/slow/infer", json=slow(2.0))
        until(lambda: waits(client) == 2)
        gateway.stop(wait=False)
        assert polling.result(5).json()["status"] in ("queued", "running")
        assert asking.result(20).json()["outputs"][0]["data"] == [2.0]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{gateway.url}/v2", trust_env=False)
        assert gateway.process.wait(20) == 0


def test_grace_that_ends_answers_with_the_job(system):
    """A wait that is longer than the grace ends with 504 and the job's address, before the process does."""
    given = GatewayProcess(system.url, grace_s=2)
    with given as gateway, gateway.client() as client, ThreadPoolExecutor(1) as pool:
        ready(client)
        asking = pool.submit(client.post, "/v2/models/slow/infer", json=slow(6.0))
        until(lambda: waits(client) == 1)
        gateway.stop(wait=False)
        answer = asking.result(20)
        assert (answer.status_code, answer.json()["type"]) == (504, "ResultTimeout")
        assert answer.json()["job"].startswith("/v1/jobs/")
        assert gateway.process.wait(20) == 0


def test_slow_bodies_and_slow_readers_disturb_nobody(system):
    """Clients that send a body byte by byte, or read no answer, hold no service up."""
    with GatewayProcess(system.url) as gateway, gateway.client() as client:
        address = ("127.0.0.1", gateway.port)
        slow_ones = [socket.create_connection(address) for _ in range(20)]
        for connection in slow_ones[:10]:
            connection.sendall(
                b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n["
            )
        for connection in slow_ones[10:]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
        ready(client)
        assert {client.post("/v2/models/iris/infer", json=ROW).status_code for _ in range(20)} == {200}
        assert psutil.Process(gateway.pid).memory_info().rss < 400_000_000
        for connection in slow_ones:
            connection.close()
