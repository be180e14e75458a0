"""Asking and waiting over HTTP: `infer`, what a client prefers, readiness, and what is refused before it queues."""

import time

import msgspec
import pytest

from mutirao import keyspace
from mutirao.registry import ModelInfo, WorkerInfo
from mutirao.wire.signature import InputSpec, OutputSpec, Signature
from support import brokers, sample_models
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.waiting import until

IRIS = sample_models.get("iris")
ROW = {"rows": IRIS.data[:1].tolist()}
EXPECTED = IRIS.expected()[:1].tolist()


def slow(seconds):
    """Rows that the model `slow` sleeps on."""
    return {"rows": [[seconds, 0.0, 0.0]]}


@pytest.fixture(scope="module")
def hurried(fleet):
    """A gateway that waits for no more than half a second."""
    with GatewayProcess(fleet.url, gateway_wait_s=0.5) as gateway, gateway.client() as client:
        yield client


TAKES = Signature(inputs=(InputSpec("X", "FP64", (-1, 4)),), outputs=(OutputSpec("predict", "FP64", (-1,), True),))


def announce(server, name="iris"):
    """Say what a worker that is no longer there has said: which model it serves."""
    info = ModelInfo(name=name, version="1", versions=("1",), runtime="sklearn", signature=TAKES)
    server.client().hset(keyspace.MODELS, name, msgspec.json.encode(info))


@pytest.fixture(scope="module")
def idle():
    """A gateway over a Redis where a model is announced, and no worker lives."""
    with RedisServer() as server:
        announce(server)
        with GatewayProcess(server.url, queue_limit=3) as gateway, gateway.client() as client:
            yield client


def error(answer, status, kind):
    """Check the form of a refusal, and return its text."""
    told = answer.json()
    assert (answer.status_code, told["type"]) == (status, kind), told
    assert set(told) >= {"error", "type", "data"}
    return told["error"]


def test_infer_answers_with_the_prediction(http):
    """A row goes in, the model's own answer comes out, with the request's id in front."""
    answer = http.post("/v2/models/iris/infer", json={**ROW, "id": 'a "name"'})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["id"], told["model_name"], told["model_version"]) == ('a "name"', "iris", "1")
    assert told["outputs"][0]["data"] == EXPECTED


def test_requests_that_arrive_together_are_all_answered(http, gateway):
    """Many at once, in one connection each, get their own answers."""
    from concurrent.futures import ThreadPoolExecutor

    rows = IRIS.data[:24].tolist()
    with gateway.client() as client, ThreadPoolExecutor(12) as pool:
        found = pool.map(lambda row: client.post("/v2/models/iris/infer", json={"rows": [row]}).json(), rows)
        assert [told["outputs"][0]["data"][0] for told in found] == IRIS.expected()[:24].tolist()


def test_only_the_outputs_that_were_asked_for_come(http):
    """`outputs` in the body or the query choose; the default ones come otherwise."""
    asked = http.post("/v2/models/iris/infer?outputs=predict", json=ROW).json()
    assert [output["name"] for output in asked["outputs"]] == ["predict"]
    body = {**ROW, "outputs": [{"name": "predict_proba"}]}
    assert [one["name"] for one in http.post("/v2/models/iris/infer", json=body).json()["outputs"]] == ["predict_proba"]
    assert "nope" in error(
        http.post("/v2/models/iris/infer", json={**ROW, "outputs": [{"name": "nope"}]}), 400, "InvalidRequest"
    )


def test_a_wait_that_is_too_long_names_the_job_which_goes_on(hurried):
    """After `gateway_wait_s` comes 504 with the job's address, where the result is found later."""
    answer = hurried.post("/v2/models/slow/infer", json=slow(1.2))
    assert "goes on" in error(answer, 504, "ResultTimeout")
    assert answer.headers["location"] == answer.json()["job"]
    job = hurried.get(answer.json()["job"], params={"wait": 20}).json()
    assert job["status"] == "succeeded"
    assert hurried.get(job["links"]["result"]).json()["outputs"][0]["data"] == [1.2]


def test_respond_async_answers_with_the_job_at_once(http):
    """`Prefer: respond-async` gives 202, the job, its address, and says what was applied."""
    answer = http.post("/v2/models/slow/infer", json=slow(0.3), headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == answer.json()["links"]["self"]
    assert http.get(answer.headers["location"], params={"wait": 20}).json()["status"] == "succeeded"


def test_respond_async_with_wait_waits_first(http):
    """With both, an answer that comes in time is given, else 202."""
    headers = {"Prefer": "respond-async, wait=10"}
    answer = http.post("/v2/models/iris/infer", json=ROW, headers=headers)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "respond-async, wait=10")
    began = time.monotonic()
    answer = http.post("/v2/models/slow/infer", json=slow(6.0), headers={"Prefer": "respond-async, wait=1"})
    assert answer.status_code == 202
    assert 0.9 < time.monotonic() - began < 5


def test_wait_alone_shortens_the_wait(http):
    """`Prefer: wait=1` has 504 after a second."""
    answer = http.post("/v2/models/slow/infer", json=slow(2.5), headers={"Prefer": "wait=1"})
    error(answer, 504, "ResultTimeout")


@pytest.mark.parametrize("prefer", ["handling=lenient", "", ",,;=", "wait=soon", "return=minimal; x=y", "WAIT=20"])
def test_what_is_not_known_of_prefer_is_ignored(http, prefer):
    """Prefer is a hint: no form of it is an error."""
    assert http.post("/v2/models/iris/infer", json=ROW, headers={"Prefer": prefer}).status_code == 200


def test_the_first_of_a_repeated_preference_counts(http):
    """Of two wait= the first is applied, over several header lines too."""
    headers = [("Prefer", "wait=11"), ("Prefer", "wait=12")]
    assert http.post("/v2/models/iris/infer", json=ROW, headers=headers).headers["preference-applied"] == "wait=11"


def test_with_no_worker_infer_says_so_at_once(idle):
    """A model that nobody serves is not ready, nor is the server; infer is 503 with Retry-After unless it is to queue anyway."""
    assert error(idle.post("/v2/models/iris/infer", json=ROW), 503, "NoWorker")
    assert int(idle.post("/v2/models/iris/infer", json=ROW).headers["retry-after"]) > 0
    assert idle.get("/v2/models/iris/ready").status_code == 503
    told = idle.get("/v2/health/ready")
    assert (told.status_code, told.json()["ready"]) == (503, False)
    assert idle.get("/v2/health/live").status_code == 200


@brokers.redis_only
def test_who_wants_to_queue_anyway_may_until_the_queue_is_full(idle):
    """respond-async and ?queue=1 queue without a worker; over the limit is 429 with Retry-After, and what waits is told."""
    idle.post("/v2/models/iris/infer?queue=1", json=ROW, headers={"Prefer": "wait=1"})
    job = idle.post("/v2/models/iris/infer", json=ROW, headers={"Prefer": "respond-async"}).json()
    view = idle.get(job["links"]["self"]).json()
    assert (view["status"], view["before"]) == ("queued", 1)
    assert idle.post("/v1/models/iris/jobs", json=ROW).status_code == 202
    full = idle.post("/v1/models/iris/jobs", json=ROW)
    assert "full" in error(full, 429, "QueueFull")
    assert int(full.headers["retry-after"]) > 0
    (model,) = idle.get("/v1/models").json()["models"]
    assert (model["ready"], model["requests"], model["waiting_rows"]) == (False, 3, 3)
    assert model["oldest_s"] >= 0
    text = idle.get("/metrics").text
    assert 'mutirao_queue_rows{model="iris",tenant=""} 3.0' in text
    assert 'mutirao_workers{model="iris"} 0.0' in text


@brokers.redis_only
def test_what_would_come_too_late_is_refused_early():
    """By the live workers' speed a queue of 3 rows at 1 a second is no place for a request that expires in 1 s: 429 at once,
    unless it is more urgent than they are.
    """
    worker = WorkerInfo(
        name="w", pid=1, processes=1, models={"iris": "1"}, speeds={"iris": 1.0}, seen_at=time.time() + 1000.0
    )
    with RedisServer() as server:
        announce(server)
        server.client().hset(keyspace.WORKERS, "w", msgspec.json.encode(worker))
        with GatewayProcess(server.url) as gateway, gateway.client() as client:
            body = {"rows": (IRIS.data[:3]).tolist()}
            assert client.post("/v1/models/iris/jobs:batch", json=body).status_code == 202
            until(lambda: client.get("/v1/models/iris").json()["waiting_rows"] == 3)
            answer = client.post("/v1/models/iris/jobs", json=ROW, headers={"Mutirao-Expires": "1"})
            assert "about 3 s" in error(answer, 429, "TooLate")
            assert answer.headers["retry-after"] == "2"
            urgent = {"Mutirao-Expires": "1", "Prefer": "respond-async"}
            assert client.post("/v1/models/iris/jobs?priority=high", json=ROW, headers=urgent).status_code == 202
            answer = client.post("/v1/models/iris/jobs?priority=low", json=ROW, headers={"Mutirao-Expires": "1"})
            assert error(answer, 429, "TooLate")
            assert client.post("/v1/models/iris/jobs?expires_s=60", json=ROW).status_code == 202
            told = 'mutirao_queue_drain_seconds{model="iris",tenant=""} 5.0'
            until(lambda: told in client.get("/metrics").text)


def test_a_model_is_known_as_soon_as_it_is_announced():
    """A model that the gateway has just looked for in vain is found by the next request after its worker has announced it."""
    with RedisServer() as server, GatewayProcess(server.url) as gateway, gateway.client() as client:
        for name in ("iris", "forest", "rose"):
            assert client.post(f"/v1/models/{name}/jobs", json=ROW).status_code == 404
            announce(server, name)
            assert client.post(f"/v1/models/{name}/jobs", json=ROW).status_code == 202


def test_readiness_follows_the_worker(fleet, http):
    """The models that a live worker serves are ready."""
    assert until(lambda: http.get("/v2/models/iris/ready").json()) == {"ready": True, "name": "iris"}
    assert http.get("/v2/health/ready").status_code == 200


def test_a_deadline_travels_and_expires_the_job(http):
    """Mutirao-Expires ends what has not started by then: 504 JobExpired."""
    busy = [http.post("/v1/models/slow/jobs", json=slow(0.8)).json()["links"]["self"] for _ in range(4)]
    answer = http.post("/v2/models/slow/infer", json=slow(0.0), headers={"Mutirao-Expires": "0.05"})
    assert answer.status_code in (504, 429), answer.text
    assert answer.json()["type"] in ("JobExpired", "TooLate")
    for address in busy:
        http.get(address, params={"wait": 20})


@pytest.mark.parametrize("expires", ["0", "-1", "soon", "nan", "inf", "1e300"])
def test_a_deadline_that_is_none_is_refused(http, expires):
    """What is not a number of seconds is 400."""
    error(http.post("/v2/models/iris/infer", json=ROW, headers={"Mutirao-Expires": expires}), 400, "InvalidRequest")


def test_requests_are_counted_by_route_and_never_by_path(http, gateway):
    """The metrics name routes, statuses and rows; the log has no path, no query and no content."""
    http.post("/v2/models/iris/infer?secretquery=1", json={"rows": [[5.125, 1.0, 1.0, 1.0]]})
    http.get("/v1/jobs/secretjob")
    text = http.get("/metrics").text
    assert 'mutirao_http_requests_total{method="POST",route="/v2/models/{model}/infer",status="200"}' in text
    assert 'mutirao_http_requests_total{method="GET",route="/v1/jobs/{id}",status="404"}' in text
    assert 'mutirao_job_queue_seconds_count{model="iris"}' in text
    assert "secret" not in text + gateway.log
    assert "5.125" not in gateway.log
    assert "/v2/models/{model}/infer 200" in gateway.log
