"""What clients over HTTP meet that those over Redis do not: gateways that come and go, keys, balancers, answers that are cut."""

import base64
import concurrent.futures
import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mutirao import (
    BrokerUnavailable,
    Client,
    JobExpired,
    JobNotFound,
    errors,
    keyspace,
)
from mutirao.client.http_backend.http_call import error_from
from mutirao.embedded.redis_server import free_port
from mutirao.registry import ModelInfo
from mutirao.wire import binary_codec
from support import brokers, sample_models, waiting
from support.blocking_keys import BlockingKeys
from support.client_kinds import KINDS
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.tcp_proxy import TcpProxy

ROW = [5.1, 3.5, 1.4, 0.2]


MUTIRAO = str(Path(sys.executable).parent / "mutirao")


@pytest.fixture(scope="module")
def gateway(fleet):
    """A gateway of the fleet."""
    with GatewayProcess(fleet.url) as process:
        yield process


@pytest.fixture(params=KINDS)
def connect(request):
    """Make a client of either kind: connect(url, **settings)."""
    return KINDS[request.param]


@pytest.fixture
def client(connect, gateway):
    """A client of the fleet's gateway, of either kind."""
    with connect(gateway.url) as made:
        yield made


class Answers(http.server.BaseHTTPRequestHandler):
    """Whatever stands between: answers with the next of the statuses and a page, in the end with no models."""

    statuses: list[int]

    def do_GET(self):
        status = self.statuses.pop(0) if self.statuses else 200
        body = b'{"models": []}' if status == 200 else b"<html>nginx</html>"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def balancer(*statuses):
    handler = type("Handler", (Answers,), {"statuses": list(statuses)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_nobody_listens(connect):
    """Where nothing listens, a call fails within seconds, names the URL and says what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with (
        connect(url) as client,
        pytest.raises(BrokerUnavailable, match=rf"gateway at {url} is unavailable: .*running\?"),
    ):
        client.submit("iris", [ROW])
    assert time.monotonic() - began < 5


def test_a_gateway_that_never_answers(connect):
    """A server that accepts connections and never answers costs no more than the time allowed."""
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as hole,
        connect(f"http://127.0.0.1:{hole.getsockname()[1]}", timeout_s=0.5) as client,
        pytest.raises(BrokerUnavailable, match=r"is unavailable: (timed out|ReadTimeout)"),
    ):
        client.models()
    assert time.monotonic() - began < 5


def test_what_is_no_gateway(connect):
    """A server that is no gateway is said to be none."""
    with (
        balancer(404) as url,
        connect(url) as client,
        pytest.raises(BrokerUnavailable, match=r"status 404, .*does the URL name a gateway"),
    ):
        client.models()


def test_a_balancer_between_two_gateways(connect):
    """What a balancer says while it changes from one gateway to the next, 502 or 503, is tried again."""
    with balancer(502, 503) as url, connect(url) as client:
        assert client.models() == []


def test_a_gateway_goes_and_comes(fleet):
    """A gateway is killed while a result is waited for; the one that takes its place tells it."""
    port = free_port()
    with GatewayProcess(fleet.url, gateway_port=port) as first, Client(first.url) as client:
        job = client.submit("slow", [[2.0, 0, 0]])
        waited = []
        waiter = threading.Thread(target=lambda: waited.append(job.result(60)))
        waiter.start()
        waiting.until(lambda: "POST /v1/models/{model}/jobs:batch 202" in first.log)
        first.kill()
        with GatewayProcess(fleet.url, gateway_port=port):
            waiter.join()
    assert [found["predict"].tolist() for found in waited] == [[2.0]]


def test_an_answer_that_is_cut(connect, unserved):
    """A submit whose answer is lost on the way is sent again, and queued once."""
    server, process = unserved
    before = brokers.queued(server, "iris")
    with TcpProxy(process.port) as proxy, connect(f"http://127.0.0.1:{proxy.port}") as client:
        client.models()
        proxy.cut()
        jobs = client.submit_many("iris", np.ones((50, 4)))
        assert proxy.cuts == 1
    assert brokers.queued(server, "iris") - before == 50 == len({job.id for job in jobs})


def test_requests_of_many_shapes(client):
    """Requests of differing rows go in one call, and what JSON cannot carry goes bit for bit."""
    many = [np.array([[0.0, float("nan"), 1.0]]), np.array([[0.0, 5e-324, 0.0], [0.0, float("inf"), 2.0]])]
    for given, job in zip(many, client.submit_many("slow", many), strict=True):
        assert np.array_equal(job.result(20)["predict"], given.sum(axis=1), equal_nan=True)


def test_large_results_are_read_apart(client):
    """Results that are kept beside their records come over HTTP as they do over Redis."""
    data = np.random.default_rng(5).normal(size=(9_000, 4))
    jobs = [client.submit("iris", part, outputs=["predict_proba"]) for part in np.array_split(data, 3)]
    found = {job.id: job.result(0)["predict_proba"] for job in client.as_completed(jobs, timeout=30)}
    model = sample_models.get("iris").model
    assert np.concatenate([found[job.id] for job in jobs]).tobytes() == model.predict_proba(data).tobytes()


def test_text_comes_back(client):
    """Columns of text go, and labels that are text come back."""
    frame = sample_models.get("houses").data[:5]
    assert (
        client.predict("houses", frame, timeout=20)["predict"].tolist()
        == sample_models.get("houses").expected()[:5].tolist()
    )


@pytest.mark.skipif(brokers.AMQP, reason="RabbitMQ takes one message after another")
def test_a_call_that_redis_is_not_done_with_in_time(connect):
    """A call of many requests says which limit it met and what to do, through a gateway and without; again it is queued, once."""
    rows, ids = np.tile(ROW, (10_000, 1)), [f"many-{at}" for at in range(10_000)]
    says = "10,000 requests in one call were not queued within 2 s: submit fewer at once, or raise MUTIRAO_TIMEOUT_S"
    iris = ModelInfo(name="iris", version="1", signature=sample_models.IRIS_SIGNATURE)
    with RedisServer() as server, server.client() as redis:
        redis.hset(keyspace.MODELS, "iris", msgspec.json.encode(iris))
        with GatewayProcess(server.url, timeout_s=2) as gateway, gateway.client() as plain:
            redis.client_pause(60_000, all=False)  # reads go on
            answer = plain.post("/v1/models/iris/jobs:batch", json={"rows": rows.tolist(), "ids": ids})
            assert answer.status_code == 503
            with pytest.raises(errors.SlowCall, match=says):
                raise error_from(answer.status_code, answer.content, gateway.url)
            with connect(server.url, timeout_s=2) as client, pytest.raises(errors.SlowCall, match=says):
                client.submit_many("iris", rows, ids=ids)
            redis.client_unpause()
            for url in (gateway.url, server.url):
                with connect(url) as client:
                    client.submit_many("iris", rows, ids=ids)
            waiting.until(lambda: plain.get("/v1/models/iris").json()["requests"] == 10_000)


@brokers.redis_only
def test_parameters_are_handed_on(connect, unserved):
    """V2 parameters reach the worker, beside those that are the gateway's."""
    server, process = unserved
    with connect(process.url) as client:
        client.submit("iris", [ROW], parameters={"note": "kept"}, priority="low")
    raw = server.client().lindex(keyspace.queue_key("iris", keyspace.STEPS["low"]), 0)
    body = base64.b64decode(msgspec.json.decode(raw)["body"])
    assert binary_codec.decode_body(body)[0][1].parameters == {"note": "kept", "binary_data_output": True}


@pytest.fixture(scope="module")
def guarded():
    """A gateway that asks for keys, with the keys of two tenants."""
    with RedisServer() as server, BlockingKeys(server.url) as ring:
        for name in ("iris", "forest"):
            info = msgspec.json.encode(ModelInfo(name=name, version="1", signature=sample_models.IRIS_SIGNATURE))
            server.client().hset(keyspace.MODELS, name, info)
        scopes = {"crm": ("*:*",), "shop": ("*:*",), "crm's reader": ("read:iris",)}
        tokens = [ring.add(who.partition("'")[0], scopes=scopes[who]).token for who in scopes]
        with GatewayProcess(server.url) as process:
            yield process, *tokens


def test_keys(connect, guarded, monkeypatch):
    """A key opens the gateway, given as an argument or by the environment, and shows its tenant's jobs alone."""
    process, crm, shop, _ = guarded
    with connect(process.url) as stranger, pytest.raises(errors.Unauthorized, match="asks for an API key"):
        stranger.submit("iris", [ROW])
    with connect(process.url, api_key=crm) as client, connect(process.url, api_key=shop) as other:
        job = client.submit("iris", [ROW])
        assert job.status == "queued"
        with pytest.raises(JobNotFound, match="is not known"):
            other.job(job.id).record()
        with pytest.raises(JobNotFound):
            other.job(job.id).result(5)
        assert client.catalog().workers == ()
    monkeypatch.setenv("MUTIRAO_API_KEY", crm)
    monkeypatch.setenv("MUTIRAO_BROKER_URL", process.url)
    with connect() as client:
        assert client.job(job.id).cancel()


def test_a_wrong_key_ends_a_wait(connect, guarded):
    """Who waits with a key that is none is told so at once."""
    process, *_ = guarded
    with connect(process.url, api_key="mutirao_wrong") as client, pytest.raises(errors.Unauthorized):
        client.job("any").result(20)


def test_one_job_that_a_key_may_not_read_spoils_no_other(connect, guarded):
    """Jobs that are waited for together each get their own answer: where one is forbidden, the others are told all the same."""
    process, crm, _, reader = guarded
    with connect(process.url, api_key=crm) as client, connect(process.url, api_key=reader) as other:
        ids = [client.submit(model, [ROW], expires_s=0.5).id for model in ("iris", "forest", "iris")]
        jobs = [client.job(id) for id in ids]
        assert {job.id for job in client.as_completed(jobs, 20)} == set(ids)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            ends = [pool.submit(other.job(id).result, 20).exception for id in ids]
            assert [type(end()) for end in ends] == [JobExpired, errors.Forbidden, JobExpired]


def test_the_command_line_goes_through_a_gateway(gateway, tmp_path):
    """With a gateway's URL for a broker, submit, status, result, cancel and predict work as with Redis."""

    def says(*args, code=0):
        env = {**os.environ, "MUTIRAO_BROKER_URL": gateway.url}
        ran = subprocess.run(
            [MUTIRAO, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == code, ran.stderr
        return ran.stdout + ran.stderr

    id = says("submit", "iris", f"[{ROW}]").strip()
    assert "predict" in says("result", id, "--wait")
    assert "succeeded" in says("status", id)
    assert "only a job that waits can be cancelled" in says("cancel", id, code=1)
    assert "predict_proba" in says("predict", "iris", f"[{ROW}]")
    assert "only clients go through a gateway" in says("dead", "list", code=2)


def test_a_missing_package_is_named():
    """Without httpx, a URL that begins with http is refused with what to install."""
    code = "import sys; sys.modules['httpx'] = None; import mutirao; mutirao.Client('http://127.0.0.1')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "SettingsError" in ran.stderr
    assert "pip install '.[http]'" in ran.stderr
