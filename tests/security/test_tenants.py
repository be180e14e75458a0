"""Tenants of one gateway: each has its own jobs and ids, and finds nothing of another's."""

import hashlib
import json

import pytest

from mutirao import Client, errors, keyspace
from support import waiting
from support.stock_client import StockClient

ROW = [[5.1, 3.5, 1.4, 0.2]]


def test_jobs_are_their_tenants_alone(system, caller):
    """Another tenant finds no job where there is one: no record, no result, no event, no cancelling, no waiting; its own key does."""
    crm, colleague, other = caller("crm"), caller("crm"), caller("web", scopes=["*:*"])
    id = crm.post("/v1/models/iris/jobs", json={"rows": ROW}).json()["id"]
    assert colleague.get(f"/v1/jobs/{id}?wait=20").json()["status"] == "succeeded"
    absent = other.get("/v1/jobs/nobody-submitted-this")
    assert absent.status_code == 404
    for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", ""), ("GET", "?wait=1")):
        said = other.request(method, f"/v1/jobs/{id}{path}")
        assert (said.status_code, said.json()["error"]) == (
            404,
            absent.json()["error"].replace("nobody-submitted-this", id),
        )
    for client, found in ((other, []), (colleague, [id])):
        told = client.post("/v1/jobs:wait", json={"ids": [id], "wait": 0}).json()
        assert [job["id"] for job in told["jobs"]] == found
    assert crm.get(f"/v1/jobs/{id}/result").status_code == 200


def test_a_job_of_redis_itself_is_no_tenants(system, caller):
    """What was submitted without the gateway is not shown to any key's holder."""
    with Client(system.server.url) as client:
        job = client.submit("iris", ROW)
        job.result(20)
    assert caller("crm", scopes=["*:*"]).get(f"/v1/jobs/{job.id}").status_code == 404


def test_own_jobs_take_the_scope_of_their_model(caller):
    """A key without read, or with read of another model, is refused its tenant's job with 403; cancelling takes cancel."""
    crm = caller("crm")
    id = crm.post("/v1/models/iris/jobs", json={"rows": ROW}).json()["id"]
    assert crm.get(f"/v1/jobs/{id}?wait=20").json()["status"] == "succeeded"
    for scopes in (["predict:*"], ["read:houses"]):
        blind = caller("crm", scopes=scopes)
        for path in ("", "/result", "/events"):
            assert blind.get(f"/v1/jobs/{id}{path}").status_code == 403
        assert blind.post("/v1/jobs:wait", json={"ids": [id], "wait": 0}).status_code == 403
        assert blind.delete(f"/v1/jobs/{id}").status_code == 403
    reader = caller("crm", scopes=["read:iris"])
    assert reader.get(f"/v1/jobs/{id}").status_code == 200
    assert reader.get(f"/v1/jobs/{id}/result").status_code == 200
    assert reader.post("/v1/jobs:wait", json={"ids": [id], "wait": 0}).json()["jobs"]
    assert caller("crm", scopes=["cancel:iris"]).delete(f"/v1/jobs/{id}").status_code == 409  # it has ended


def test_the_same_idempotency_key_of_two_tenants_is_two_jobs(caller):
    """What one tenant calls a request says nothing about another's, and finds nothing of it."""
    named = {"json": {"rows": ROW}, "headers": {"idempotency-key": "order-1"}}
    crm, web = caller("crm"), caller("web")
    ids = [client.post("/v1/models/iris/jobs", **named).json()["id"] for client in (crm, web, crm)]
    assert ids[0] == ids[2] != ids[1]


def test_no_tenant_takes_or_probes_anothers_id(caller):
    """What one tenant names its job, also as another's Idempotency-Key would be named, is free for every other, and is not found."""
    crm, web, free = caller("crm"), caller("web"), keyspace.new_id()
    squatted = "key-" + hashlib.sha256(b"crm\0order-17").hexdigest()[:40]
    other = {"json": {"rows": [[6.7, 3.0, 5.2, 2.3]]}}
    assert web.post(f"/v1/models/iris/jobs?id={squatted}", **other).status_code == 202
    named = {"json": {"rows": ROW}, "headers": {"idempotency-key": "order-17"}}
    assert crm.post("/v1/models/iris/jobs", **named).status_code == 202
    for id in (free, "order-17"):
        for client, body in ((crm, {"json": {"rows": ROW}}), (web, other)):
            assert client.post(f"/v1/models/iris/jobs?id={id}", **body).status_code == 202
        answers = [client.get(f"/v1/jobs/{id}/result?wait=20").json()["outputs"][0]["data"] for client in (crm, web)]
        assert answers == [[0], [2]]
    assert crm.post("/v1/models/iris/jobs:batch", json={"requests": [{"rows": ROW}], "ids": ["only-mine"]}).is_success
    assert web.get("/v1/jobs/only-mine").status_code == 404
    assert web.post("/v1/models/iris/jobs:batch", json={"requests": [other["json"]], "ids": ["only-mine"]}).is_success


def test_a_tenant_sees_its_ids_as_it_wrote_them(system, caller):
    """Jobs, links, headers, batches, waits, events and errors show no tenant; what they show is taken back on every route."""
    crm, shown = caller("crm"), []

    def ask(method, path, **given):
        shown.append(crm.request(method, path, **given))
        return shown[-1]

    made = ask("POST", "/v1/models/iris/jobs?id=as-i-wrote-it", json={"rows": ROW})
    assert (made.json()["id"], made.headers["location"]) == ("as-i-wrote-it", "/v1/jobs/as-i-wrote-it")
    assert made.json()["links"]["events"] == "/v1/jobs/as-i-wrote-it/events"
    anonymous = ask("POST", "/v1/models/iris/jobs", json={"rows": ROW}).json()["id"]
    assert keyspace.created_at(anonymous)
    batch = ask("POST", "/v1/models/iris/jobs:batch", json={"requests": [{"rows": ROW}], "ids": ["two"]}).json()["ids"]
    assert batch == ["two"]
    ids = ["as-i-wrote-it", anonymous, *batch]
    for id in ids:
        assert ask("GET", f"/v1/jobs/{id}?wait=20").json()["id"] == id
        assert ask("GET", f"/v1/jobs/{id}/result").is_success
        assert f'"id":"{id}"' in ask("GET", f"/v1/jobs/{id}/events").text
        assert ask("DELETE", f"/v1/jobs/{id}").status_code == 409
        assert shown[-1].json()["data"]["id"] == id
    told = ask("POST", "/v1/jobs:wait", json={"ids": [*ids, "nobodys"], "wait": 5}).json()
    assert [[job["id"] for job in told["jobs"]], told["missing"]] == [ids, ["nobodys"]]
    assert ask("GET", "/v1/jobs/nobodys").json()["data"] == {"id": "nobodys"}
    assert ask("POST", "/v1/models/iris/jobs?id=two", json={"rows": [[0.0] * 4]}).json()["data"]["id"] == "two"
    late = ask("POST", "/v2/models/slow/infer?id=late", json={"rows": [[2.0, 0.0, 0.0]]}, headers={"prefer": "wait=0"})
    assert (late.status_code, late.headers["location"], late.json()["job"]) == (504, *["/v1/jobs/late"] * 2)
    assert ask("DELETE", "/v1/jobs/late").status_code in {200, 409}
    for said in shown:
        assert "crm" not in f"{said.headers} {said.text}", said.url
    with Client(system.server.url) as operator:
        assert operator.job("crm~as-i-wrote-it").record().job.owner == "crm"


def test_no_caller_names_a_tenant_in_an_id(system, caller):
    """The sign between a tenant and its id is refused over HTTP, from Python and from the command line; a stock client's is no job."""
    web = caller("web")
    said = [
        web.post("/v1/models/iris/jobs?id=crm~x", json={"rows": ROW}),
        web.get("/v1/jobs/crm~x"),
        web.delete("/v1/jobs/crm~x"),
    ]
    said.append(web.post("/v1/models/iris/jobs:batch", json={"requests": [{"rows": ROW}], "ids": ["crm~x"]}))
    said.append(web.post("/v1/jobs:wait", json={"ids": ["crm~x"]}))
    assert [(each.status_code, "id 'crm~x' is not allowed" in each.text) for each in said] == [(400, True)] * 5
    with Client(system.server.url) as client, pytest.raises(errors.InvalidRequest, match="id 'crm~x' is not allowed"):
        client.submit("iris", ROW, id="crm~x")
    redis, sent = (
        system.server.client(),
        "app.send_task('mutirao.predict', args=['iris', [[6.7, 3.0, 5.2, 2.3]]], queue='mutirao.iris', task_id='crm~x')",
    )
    with StockClient(system.server.url) as stock:
        stock.run(sent)
    letters = waiting.until(lambda: redis.hgetall(keyspace.DEAD))
    assert [json.loads(letter)["reason"] for letter in letters.values()] == ["id not allowed"]
    redis.delete(keyspace.DEAD, keyspace.DEAD_INDEX)
    crm = caller("crm")
    assert crm.get("/v1/jobs/x").status_code == 404
    assert crm.post("/v1/models/iris/jobs?id=x", json={"rows": ROW}).status_code == 202
    assert crm.get("/v1/jobs/x/result?wait=20").json()["outputs"][0]["data"] == [0]
