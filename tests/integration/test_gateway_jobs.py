"""Jobs over HTTP: one and many, their records, results, waits, events and ends."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from mutirao import settings
from mutirao.errors import GatewayBusy
from mutirao.gateway.auth.authenticator import ANYBODY
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.streams import job_stream as steps
from support import brokers, sample_models
from support.gateway_process import GatewayProcess
from support.redis_monitor import Monitor
from support.waiting import until

IRIS = sample_models.get("iris")
ROWS = IRIS.data[:3].tolist()


def slow(seconds):
    return {"rows": [[seconds, 0.0, 0.0]]}


def submit(http, model="iris", body=None, **given):
    answer = http.post(f"/v1/models/{model}/jobs", json=body or {"rows": ROWS}, **given)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def ended(http, id):
    return http.get(f"/v1/jobs/{id}", params={"wait": 30}).json()


def problem(answer):
    return answer.status_code, answer.json()["type"]


def test_a_job_is_told_from_start_to_end(http):
    """The record has what a person asks for: state, version, rows, times, attempts, company and addresses."""
    id = submit(http)
    job = ended(http, id)
    assert {key: job[key] for key in ("id", "status", "model", "rows", "priority", "version", "attempts")} == {
        "id": id, "status": "succeeded", "model": "iris", "rows": 3, "priority": "normal", "version": "1", "attempts": 1,
    }  # fmt: skip
    assert job["queued_at"] <= job["reserved_at"] <= job["started_at"] <= job["finished_at"]
    assert job["batch"] >= job["place"] >= 1
    assert job["links"] == {name: f"/v1/jobs/{id}{rest}" for name, rest in
                            (("self", ""), ("result", "/result"), ("events", "/events"))}  # fmt: skip


def test_a_long_poll_ends_with_the_job(http):
    """?wait= answers when the job ends, not when the time is up."""
    id = submit(http, "slow", slow(0.7))
    began = time.monotonic()
    assert ended(http, id)["status"] == "succeeded"
    assert time.monotonic() - began < 10


def test_a_long_poll_ends_with_its_time(http):
    """?wait= that passes first tells the state as it is."""
    id = submit(http, "slow", slow(1.0))
    assert http.get(f"/v1/jobs/{id}", params={"wait": 0.1}).json()["status"] in ("queued", "running")
    ended(http, id)


@pytest.mark.parametrize("wait", ["-1", "soon", "nan", ""])
def test_a_wait_that_is_none_is_refused(http, wait):
    """What is no number of seconds is 400."""
    assert problem(http.get(f"/v1/jobs/{submit(http)}", params={"wait": wait})) == (400, "InvalidRequest")


def test_a_result_comes_once_there_is_one(http):
    """409 before the end, then the prediction; with ?wait= the answer waits for it."""
    id = submit(http, "slow", slow(0.6))
    early = http.get(f"/v1/jobs/{id}/result")
    assert problem(early) == (409, "JobNotFinished")
    assert early.headers["retry-after"] == "1"
    answer = http.get(f"/v1/jobs/{id}/result", params={"wait": 20})
    assert answer.json()["outputs"][0]["data"] == [0.6]


def test_a_failed_job_tells_its_error(http):
    """The record and the result both say what went wrong, with the status that infer would have."""
    id = submit(http, "raises", {"rows": [[-1.0, 0.0, 0.0]]})
    job = ended(http, id)
    assert (job["status"], job["error"]["type"], job["error"]["status"]) == ("failed", "ModelFailed", 500)
    answer = http.get(f"/v1/jobs/{id}/result")
    assert problem(answer) == (500, "ModelFailed")
    assert answer.json()["data"]["model"] == "raises"


def test_many_are_queued_in_one_round_trip(http, fleet):
    """A batch of rows makes one script call, whose jobs all end."""
    with Monitor(fleet.url) as monitor:
        answer = http.post("/v1/models/iris/jobs:batch", json={"rows": IRIS.data[:50].tolist()})
        assert answer.status_code == 202
    ids = answer.json()["ids"]
    calls = [command for _, command in monitor.commands if ids[0].upper() in command and "MUTIRAO:BELL:" in command]
    assert len(ids) == len(set(ids)) == 50
    assert len(calls) == 1
    found = [http.get(f"/v1/jobs/{id}/result", params={"wait": 20}).json()["outputs"][0]["data"][0] for id in ids[:5]]
    assert found == IRIS.expected()[:5].tolist()


def test_a_batch_takes_requests_of_their_own_shapes_and_ids(http):
    """Requests may differ in rows, have ids of the caller's own, and name the one that does not fit."""
    ids = [f"own-{time.time_ns()}-{at}" for at in range(2)]
    body = {"requests": [{"rows": ROWS[:1]}, {"rows": ROWS}], "ids": ids, "priority": "high"}
    assert http.post("/v1/models/iris/jobs:batch", json=body).json() == {"ids": ids, "known": []}
    assert [ended(http, id)["rows"] for id in ids] == [1, 3]
    assert http.post("/v1/models/iris/jobs:batch", json=body).json() == {"ids": ids, "known": [0, 1]}
    wrong = http.post("/v1/models/iris/jobs:batch", json={"requests": [{"rows": ROWS}, {"rows": [[1.0]]}]})
    assert problem(wrong) == (400, "SignatureMismatch")
    assert wrong.json()["error"].startswith("request 1: ")
    assert problem(http.post("/v1/models/iris/jobs:batch", json={**body, "ids": ids[:1]})) == (400, "InvalidRequest")


def test_waiting_for_many_tells_of_those_that_ended(http, fleet):
    """jobs:wait answers once one has ended, with those that have, and names ids of which there is no job."""
    with fleet.worker.still(), ThreadPoolExecutor() as pool:
        ids = [submit(http, "slow", slow(0.0)) for _ in range(2)]
        asked = pool.submit(http.post, "/v1/jobs:wait", json={"ids": ids, "wait": 20})
        until(lambda: "mutirao_open_waits 1.0" in http.get("/metrics").text)
        http.delete(f"/v1/jobs/{ids[1]}")
        assert [job["id"] for job in asked.result().json()["jobs"]] == ids[1:]
    missing = http.post("/v1/jobs:wait", json={"ids": ["nobody"], "wait": 5}).json()
    assert (missing["jobs"], missing["missing"]) == ([], ["nobody"])
    assert ended(http, ids[0])["status"] == "succeeded"


def test_waiting_for_no_job_is_over_at_once(http):
    """jobs:wait without ids answers at once: no end can come."""
    assert http.post("/v1/jobs:wait", json={"ids": [], "wait": 60}, timeout=20).json() == {"jobs": [], "missing": []}


def test_waiting_for_many_tells_of_all_that_ended_before(http, fleet):
    """jobs:wait leaves out no job whose end was polled, and tells of all in the order in which they were asked for."""
    ids = ["told-0", "told-1", "told-2"]
    with ThreadPoolExecutor() as pool:
        with fleet.worker.still():
            http.post("/v1/models/slow/jobs:batch", json={"requests": [slow(0.0)] * 3, "ids": ids}).raise_for_status()
            asked = [pool.submit(http.get, f"/v1/jobs/{id}?wait=20") for id in ids]
            until(lambda: "mutirao_open_waits 3.0" in http.get("/metrics").text)
        assert [each.result().json()["status"] for each in asked] == ["succeeded"] * 3
    told = http.post("/v1/jobs:wait", json={"ids": ["nobody", *ids], "wait": 5}).json()
    assert ([job["id"] for job in told["jobs"]], told["missing"]) == (ids, ["nobody"])


def test_a_job_that_waits_can_be_cancelled(http, fleet):
    """DELETE ends it; its result says so, and a second DELETE changes nothing."""
    with fleet.worker.still():
        id = submit(http, "slow", slow(0.0))
        assert http.delete(f"/v1/jobs/{id}").json()["status"] == "cancelled"
        assert http.delete(f"/v1/jobs/{id}").json()["status"] == "cancelled"
        assert problem(http.get(f"/v1/jobs/{id}/result")) == (409, "JobCancelled")


def test_a_job_that_ended_cannot_be_cancelled(http):
    """DELETE is 409 with the state where it is too late."""
    id = submit(http)
    ended(http, id)
    answer = http.delete(f"/v1/jobs/{id}")
    assert problem(answer) == (409, "NotCancellable")
    assert answer.json()["data"]["state"] == "succeeded"


@brokers.redis_only
def test_a_waiting_job_knows_its_place(http, fleet):
    """While it waits the record says how many are before it."""
    with fleet.worker.still():
        ids = [submit(http, "slow", slow(0.0), params={"priority": "low"}) for _ in range(3)]
        assert [http.get(f"/v1/jobs/{id}").json().get("before") for id in ids] == [0, 1, 2]
    for id in ids:
        ended(http, id)


def events(http, id, **headers):
    """Read a job's events: (id, name, step) each, and what stands beside."""
    found, one = [], {}
    with http.stream("GET", f"/v1/jobs/{id}/events", headers=headers) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                one[name] = value
            elif "id" in one:
                found.append(one)
                one = {}
    return found


def test_events_tell_each_step_once_and_end(http):
    """The stream of a job that runs meanwhile has every step in order, and ends by itself."""
    found = events(http, submit(http, "slow", slow(0.8)))
    names = [one["event"] for one in found]
    assert sorted(names) == ["batched", "committed", "reserved", "run", "submitted"]
    assert (names[0], names[-1]) == ("submitted", "committed")
    assert '"status":"succeeded"' in found[-1]["data"]


def test_events_go_on_after_the_last_that_was_seen(http):
    """Last-Event-ID has only later ones sent; after the last, 204, which a browser's EventSource takes for the end."""
    id = submit(http)
    ended(http, id)
    found = events(http, id)
    assert [one["event"] for one in events(http, id, **{"Last-Event-ID": found[1]["id"]})] == [
        "batched",
        "run",
        "committed",
    ]
    assert http.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": found[-1]["id"]}).status_code == 204
    assert len(events(http, id, **{"Last-Event-ID": "rubbish"})) == len(found)


def test_an_unknown_job_is_not_found(http):
    """404 wherever an id is named that was never submitted; 410 where its own time says that it has expired."""
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result"), ("GET", "/events")):
        assert problem(http.request(method, f"/v1/jobs/nobody{path}")) == (404, "JobNotFound")
        assert problem(http.request(method, f"/v1/jobs/01890000-0000-7000-8000-000000000000{path}")) == (
            410,
            "ResultExpired",
        )


def test_an_idempotency_key_is_one_job(http):
    """The same key with the same request is the same job, also once it has ended; with another request it is 422."""
    key = {"Idempotency-Key": f"key {time.time_ns()}"}
    first = http.post("/v1/models/iris/jobs", json={"rows": ROWS}, headers=key)
    assert first.status_code == 202
    ended(http, first.json()["id"])
    again = http.post("/v1/models/iris/jobs", json={"rows": ROWS}, headers=key)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, first.json()["id"], "succeeded")
    assert http.post("/v2/models/iris/infer", json={"rows": ROWS}, headers=key).status_code == 422
    other = http.post("/v1/models/iris/jobs", json={"rows": ROWS[:1]}, headers=key)
    assert problem(other) == (422, "KeyReused")
    for wrong in ("", "x" * 300):
        refused = http.post("/v1/models/iris/jobs", json={"rows": ROWS}, headers={"Idempotency-Key": wrong})
        assert problem(refused) == (400, "InvalidRequest")


def test_any_gateway_answers_for_any_job(http, fleet):
    """A job that one process queued is waited for, followed and read at another."""
    with GatewayProcess(fleet.url) as other, other.client() as elsewhere:
        id = submit(http, "slow", slow(0.5))
        assert ended(elsewhere, id)["status"] == "succeeded"
        assert events(elsewhere, id)[-1]["event"] == "committed"


def test_a_client_that_goes_leaves_no_wait_behind(http, gateway):
    """Waits of clients that have gone end within seconds, though their jobs go on."""
    id = submit(http, "slow", slow(6.0))

    def leave():
        with pytest.raises(httpx.ReadTimeout), gateway.client() as client:
            client.get(f"/v1/jobs/{id}", params={"wait": 50}, timeout=0.5)

    threads = [threading.Thread(target=leave) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: "mutirao_open_waits 0.0" in http.get("/metrics").text, timeout_s=5)


def test_more_waits_than_may_be_open_are_refused(fleet, http):
    """Over `gateway_waits` a wait is 503 with Retry-After; asking without waiting still works."""
    with GatewayProcess(fleet.url, gateway_waits=1) as gateway, gateway.client() as client:
        id = submit(client, "slow", slow(1.5))
        waiting = threading.Thread(target=ended, args=(client, id))
        waiting.start()
        until(lambda: "mutirao_open_waits 1.0" in client.get("/metrics").text)
        refused = client.get(f"/v1/jobs/{id}", params={"wait": 5})
        assert problem(refused) == (503, "GatewayBusy")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get(f"/v1/jobs/{id}").status_code == 200
        waiting.join()


@pytest.mark.parametrize("path", ["/v1/jobs/{id}/events", "/v1/fleet/events"])
def test_more_streams_than_may_be_open_are_refused(path, fleet, http):
    """Over `gateway_waits` a stream is 503 with Retry-After, however many ask at once; one that has begun is not cut short."""
    with GatewayProcess(fleet.url, gateway_waits=1) as gateway, gateway.client() as client:
        path = path.format(id=submit(client, "slow", slow(5)))
        at_once, over = threading.Barrier(8), threading.Event()

        def follow():
            at_once.wait()
            with client.stream("GET", path) as stream:
                if stream.status_code == 200:
                    pieces = stream.iter_text()
                    begun = next(pieces, "")
                    over.wait(20)
                    return "event: " in begun
                stream.read()
                return (*problem(stream), stream.headers["retry-after"])

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(follow) for _ in range(8)]
            try:
                until(lambda: sum(one.done() for one in asked) == 7)
            finally:
                over.set()
        said = [one.result() for one in asked]
        assert said.count((503, "GatewayBusy", "1")) == 7, said
        assert said.count(True) == 1, said


def test_a_stream_has_its_place_before_its_headers(fleet, http):
    """Of two streams that were let in at the same moment, the one that finds no place sends nothing, not even its status."""
    id = submit(http, "slow", slow(0.5))

    async def follow(answer):
        sent = []

        async def send(message):
            sent.append(message["type"])

        try:
            await answer({}, asyncio.Event().wait, send)
        except GatewayBusy:
            sent.append("busy")
        return sent[0]

    async def both():
        served = Gateway(settings.load({}, **brokers.broker_of(fleet.url), gateway_waits=1))
        async with served.running():
            record = await served.record(id, "")
            return await asyncio.gather(*(follow(steps.answer(served, ANYBODY, record, "")) for _ in range(2)))

    assert asyncio.run(both()) == ["http.response.start", "busy"]


def test_large_results_come_whole(http):
    """A result that is kept beside its record is read in both forms."""
    rows = np.tile(IRIS.data[:1], (5000, 1))
    id = submit(http, "iris", {"rows": rows.tolist(), "outputs": [{"name": "predict_proba"}]})
    ended(http, id)
    told = http.get(f"/v1/jobs/{id}/result").json()
    assert np.array_equal(told["outputs"][0]["data"], np.tile(IRIS.expected("predict_proba")[:1], (5000, 1)))
    raw = http.get(f"/v1/jobs/{id}/result", headers={"Accept": "application/octet-stream"})
    head = int(raw.headers["inference-header-content-length"])
    assert len(raw.content) - head == 5000 * 3 * 8


@brokers.redis_only
def test_a_client_that_has_gone_is_not_served(fleet, http):
    """An infer that has not begun when its client goes is cancelled; one that can be asked for again by its key is not."""
    records, redis = "celery-task-meta-*", fleet.server.client()
    with fleet.worker.still():
        before = set(redis.keys(records))
        for headers in ({}, {"Idempotency-Key": "come-again"}):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v2/models/iris/infer", json={"rows": ROWS}, headers=headers, timeout=1.5)
        ids = [key.decode().removeprefix(records[:-1]) for key in set(redis.keys(records)) - before]
        kept = next(id for id in ids if "key-" in id)
        (gone,) = set(ids) - {kept}
        until(lambda: http.get(f"/v1/jobs/{gone}").json()["status"] == "cancelled", timeout_s=3)
        assert http.get(f"/v1/jobs/{kept}").json()["status"] == "queued"
    assert ended(http, kept)["status"] == "succeeded"
