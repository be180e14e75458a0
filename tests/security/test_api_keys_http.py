"""API keys as callers of the gateway meet them: what is closed, what limits count, and that nothing tells a secret."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from mutirao import Client, api_keys, errors
from mutirao.api_keys import KeyLimits
from mutirao.gateway import app
from support import waiting
from support.gateway_process import GatewayProcess

ROW = [[5.1, 3.5, 1.4, 0.2]]


V2 = {"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 4], "data": ROW}]}


OPEN = {
    "/", "/console/{name:str}", "/docs", "/docs/{name:str}", "/favicon.ico", "/openapi.json", "/v2/health/live",
    "/v2/health/ready",
}  # fmt: skip


SLOW = 0.001  # requests a second: none comes back while a test runs


def routes():
    """Every method and path of the gateway, with something in the place of its parameters."""
    return sorted({(method, path) for route in app.handlers() for path in route.paths for method in route.http_methods})


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_address_asks_for_a_key_unless_it_is_open_by_name(system, method, path):
    """Whatever is not in the list of open addresses answers 401 and WWW-Authenticate to whoever has no key."""
    with system.gateway.client() as nobody:
        said = nobody.request(method, re.sub(r"\{\w+:str\}", "x", path))
    if path in OPEN:
        assert said.status_code not in {401, 403}
        return
    assert said.status_code == 401
    assert said.headers["www-authenticate"] == "Bearer"
    assert (said.json()["type"], said.json()["error"][:32]) == ("Unauthorized", "this gateway asks for an API key")


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models", "/v1/models/", "/v1//models", "/v1/models?x=/docs/", "/v1/models#/docs/", "/docs/../v1/models",
        "/docs/%2e%2e/v1/models", "/console/..%2fv1/models", "/console/%2e%2e%2fv1%2fmodels", "/docs/../metrics",
        "/console/../v2/models/iris", "/%761/models", "/v1/models;/docs/", "/docs/..;/v1/models", "/./v1/models",
        "/v2/health/live/../../models/iris", "/v2/health/live/", "http://127.0.0.1/docs/../v1/models",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_around_the_door(system, path):
    """A closed address that is spelled to look like an open one gives nothing without a key."""
    status, body = system.plain("GET", path)
    assert status in {400, 401, 403, 404, 405}
    assert b"iris" not in body


@pytest.mark.parametrize(
    ("scopes", "method", "path", "status"),
    [
        (["predict:iris"], "POST", "/v2/models/iris/infer", 200),
        (["predict:iris"], "POST", "/v2/models/iris/versions/1/infer", 200),
        (["predict:iris"], "POST", "/v2/models/houses/infer", 403),
        (["predict:iris"], "POST", "/v1/models/houses/jobs", 403),
        (["predict:iris"], "POST", "/v1/models/houses/jobs:batch", 403),
        (["predict:iris"], "POST", "/v2/models/nobody/infer", 403),
        (["predict:iris"], "GET", "/v2/models/iris", 403),
        (["predict:iris"], "GET", "/v2/models/iris/ready", 403),
        (["predict:iris"], "GET", "/v1/models/iris", 403),
        (["predict:iris"], "GET", "/v2", 200),
        (["predict:iris"], "GET", "/v1/fleet", 403),
        (["read:iris"], "GET", "/v2/models/iris", 200),
        (["read:iris"], "GET", "/v2/models/houses", 403),
        (["read:iris"], "GET", "/v2/models/houses/ready", 403),
        (["read:iris"], "GET", "/v1/models/houses", 403),
        (["read:iris"], "POST", "/v2/models/iris/infer", 403),
        (["read:*"], "GET", "/metrics", 403),
        (["read:*"], "GET", "/v1/fleet", 200),
        (["operate:*"], "GET", "/metrics", 200),
        (["operate:*"], "POST", "/v2/repository/models/iris/load", 501),
        (api_keys.SCOPES, "POST", "/v2/repository/models/iris/load", 403),
        (["*:*"], "GET", "/metrics", 200),
    ],
)
def test_a_key_does_what_its_scopes_say(caller, scopes, method, path, status):
    """Verb and model of the key's scopes decide, before anything else is said of the model."""
    said = caller(scopes=scopes).request(method, path, json=V2 if method == "POST" else None)
    assert said.status_code == status, said.text
    if status == 403:
        assert said.json()["type"] == "Forbidden"
        assert "mutirao keys add crm --scope" in said.json()["error"]


def test_lists_show_the_models_that_a_key_may_read(caller):
    """/v1/models, the repository's index and the fleet name those alone, and no workers to who does not operate."""
    one, all_ = caller(scopes=["read:iris"]), caller(scopes=["read:*", "operate:*"])
    for client, names in ((one, ["iris"]), (all_, ["houses", "iris", "slow"])):
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == names
        assert [model["name"] for model in client.post("/v2/repository/index").json()] == names
        assert [model["name"] for model in client.get("/v1/fleet").json()["models"]] == names
    assert one.get("/v1/fleet").json()["workers"] is None
    assert all_.get("/v1/fleet").json()["workers"]


def test_a_revoked_key_is_refused_within_about_a_second(system, caller):
    """401, and the reason for whoever has the whole key."""
    crm = caller(fresh=True)
    assert crm.get("/v1/models").status_code == 200
    system.ring.revoke(crm.key_id)
    began = time.monotonic()
    waiting.until(lambda: crm.get("/v1/models").status_code == 401, timeout_s=10)
    assert time.monotonic() - began < 4
    assert f"API key '{crm.key_id}' was revoked" in crm.get("/v1/models").json()["error"]
    assert crm.post("/v2/models/iris/infer", json=V2).status_code == 401


def test_what_a_revoked_key_has_open_ends_with_it(system, caller):
    """A poll, a wait for a result, infer, a wait for many, a job's events and the fleet's end when their key is refused, without a result."""
    crm, colleague = caller(fresh=True), caller("crm", scopes=["*:*"])
    id = crm.post("/v1/models/slow/jobs", json={"rows": [[8.0, 0.0, 0.0]]}).json()["id"]
    calls = [
        ("GET", f"/v1/jobs/{id}?wait=20", None),
        ("GET", f"/v1/jobs/{id}/result?wait=20", None),
        ("POST", "/v2/models/slow/infer?id=held", {"rows": [[8.0, 0.0, 0.0]]}),
        ("POST", "/v1/jobs:wait", {"ids": [id], "wait": 20, "results": True}),
        ("GET", f"/v1/jobs/{id}/events", None),
        ("GET", "/v1/fleet/events", None),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        ended = [pool.submit(crm.request, method, path, json=body) for method, path, body in calls]
        opened = f"mutirao_open_waits {float(len(calls))}"
        waiting.until(lambda: opened in colleague.get("/metrics").text, what=lambda: colleague.get("/metrics").text)
        system.ring.revoke(crm.key_id)
        answers = [each.result(20) for each in ended]
    assert [each.status_code for each in answers] == [401] * 4 + [200] * 2
    assert [f"API key '{crm.key_id}' was revoked" in each.text for each in answers[:4]] == [True] * 4
    assert not any("committed" in each.text or "outputs" in each.text for each in answers)
    assert colleague.get(f"/v1/jobs/{id}").json()["status"] in {
        "queued",
        "running",
    }  # it was not its end that ended them
    assert crm.get("/v2").status_code == 401
    assert "mutirao_open_waits 0.0" in colleague.get("/metrics").text
    assert colleague.get("/v1/jobs/held").json()["status"] in {"queued", "running"}


def test_the_rate_of_a_key_holds_on_every_way_in(caller):
    """infer, one job and a batch draw on the same burst; the next is told when to come again; another key is not touched."""
    crm, other = caller(limits=KeyLimits(rate_per_s=SLOW, burst=4)), caller("crm")
    assert crm.post("/v2/models/iris/infer", json=V2).status_code == 200
    assert crm.post("/v1/models/iris/jobs", json={"rows": ROW}).status_code == 202
    assert crm.post("/v1/models/iris/jobs:batch", json={"requests": [{"rows": ROW}] * 2}).status_code == 202
    for path, body in (("/v2/models/iris/infer", V2), ("/v1/models/iris/jobs", {"rows": ROW})):
        said = crm.post(path, json=body)
        assert (said.status_code, said.json()["type"]) == (429, "TooManyRequests")
        assert 0 < int(said.headers["retry-after"]) <= 1000
        assert said.json()["data"]["key"] == crm.key_id
    assert crm.get("/v1/models").status_code == 200  # reading is not what the limit is about
    assert other.post("/v2/models/iris/infer", json=V2).status_code == 200


def test_jobs_in_flight_are_counted_until_they_end(system, caller):
    """Two slow jobs fill a limit of two over two gateways; when one has ended, one more is taken."""
    crm = caller(limits=KeyLimits(in_flight=2))
    slow = {"rows": [[3.0, 0.0, 0.0]]}
    with GatewayProcess(system.server.url) as another, another.client(headers=crm.headers) as elsewhere:
        first = crm.post("/v1/models/slow/jobs", json=slow)
        assert first.status_code == 202, first.text
        assert elsewhere.post("/v1/models/slow/jobs", json=slow).status_code == 202
        for client in (crm, elsewhere):
            said = client.post("/v1/models/iris/jobs", json={"rows": ROW})
            assert (said.status_code, said.json()["data"]["limit"]) == (429, "in flight")
        waiting.until(lambda: elsewhere.post("/v1/models/iris/jobs", json={"rows": ROW}).status_code == 202)


def test_a_key_with_one_job_at_a_time_gets_one_after_another(caller):
    """An answer makes room for the next request at once."""
    crm = caller(limits=KeyLimits(in_flight=1))
    assert [crm.post("/v2/models/iris/infer", json=V2).status_code for _ in range(20)] == [200] * 20


def test_what_is_refused_takes_nothing_of_the_limits(caller):
    """A request whose id is taken leaves the burst and the jobs in flight as they were."""
    crm = caller(limits=KeyLimits(rate_per_s=SLOW, burst=2, in_flight=2))
    named = {"headers": {"idempotency-key": "taken"}}
    assert crm.post("/v1/models/iris/jobs", json={"rows": ROW}, **named).status_code == 202
    for _ in range(3):
        assert crm.post("/v1/models/iris/jobs", json={"rows": [[1.0, 2.0, 3.0, 4.0]]}, **named).status_code == 422
    assert crm.post("/v2/models/iris/infer", json=V2).status_code == 200
    assert crm.post("/v2/models/iris/infer", json=V2).status_code == 429


@pytest.mark.parametrize("path", ["/v2/models/iris/infer", "/v1/models/iris/jobs", "/v1/models/iris/jobs:batch"])
def test_a_body_is_charged_before_it_is_read(caller, path):
    """Bodies that cannot be read count against the rate, so nobody has them read without end; they take no place in flight."""
    crm = caller(limits=KeyLimits(rate_per_s=SLOW, burst=2, in_flight=1))
    for content in (b'{"rows": [[1.0]]}', b"[[1,"):
        assert crm.post(path, content=content).status_code == 400
    said = crm.post(path, content=b"[[1,")
    assert (said.status_code, said.json()["data"]["limit"]) == (429, "rate")
    other = caller(limits=KeyLimits(in_flight=1))
    for _ in range(3):
        assert other.post(path, content=b"[[1,").status_code == 400
    assert other.post(path, json={"rows": ROW}).is_success


def test_no_secret_is_told_to_a_log_or_an_answer(system, caller):
    """Neither good, wrong, revoked nor misplaced keys stand in the gateway's log at debug, or in any answer."""
    crm = caller(limits=KeyLimits(rate_per_s=SLOW, burst=1))
    gone, secret = caller(fresh=True), "s" * 43
    said = [crm.post("/v2/models/iris/infer", json=V2), crm.post("/v2/models/iris/infer", json=V2)]
    system.ring.revoke(gone.key_id)
    waiting.until(lambda: gone.get("/v2").status_code == 401)
    said += [gone.get("/v2"), crm.get(f"/v1/jobs/{crm.token}"), crm.get(f"/v1/models?api_key={crm.token}")]
    with system.gateway.client() as nobody:
        for authorization in (f"Bearer mutirao_{crm.key_id}_{secret}", f"Basic {secret}", secret, f"Bearer {secret}"):
            said.append(nobody.get("/v1/models", headers={"authorization": authorization}))
            assert said[-1].status_code == 401
    told = "".join(f"{each.headers} {each.text}" for each in said if crm.token not in str(each.url))
    assert "mutirao_..." in told
    for hidden in (*system.secrets, secret):
        assert hidden not in system.gateway.log
        assert hidden not in told


def test_an_unknown_id_and_a_wrong_secret_get_the_same_answer(system, caller):
    """Nobody learns which ids there are."""
    id, answers = caller().key_id, []
    with system.gateway.client() as nobody:
        for token in (f"mutirao_{id}_{'x' * 43}", f"mutirao_{'0' * 12}_{'x' * 43}", "mutirao", "x"):
            said = nobody.get("/v1/models", headers={"authorization": f"Bearer {token}"})
            answers.append((said.status_code, said.text, sorted(said.headers)))
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 401


def test_the_client_of_python_brings_its_key(system, caller):
    """Client(url, api_key=...) is let in; without a key, or with too small a scope, the same errors are raised as here."""
    token = caller(scopes=["predict:iris", "read:*"]).token
    with Client(system.gateway.url, api_key=token) as client:
        assert client.predict("iris", ROW, timeout=20)
        with pytest.raises(errors.Forbidden, match="predict:slow"):
            client.predict("slow", [[0.0, 0.0, 0.0]], timeout=20)
    with Client(system.gateway.url) as nobody, pytest.raises(errors.Unauthorized, match="asks for an API key"):
        nobody.predict("iris", ROW, timeout=20)


def test_without_keys_pages_of_elsewhere_are_refused(redis_server):
    """An open gateway answers a browser's call from another site's page, or to another name, with 403, before it reads it."""
    with GatewayProcess(redis_server.url) as gateway, gateway.client() as client:
        assert client.get("/v1/models").status_code == 200
        for headers in ({"host": "rebound.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            said = client.post("/v1/models/iris/jobs", json={"rows": ROW}, headers=headers)
            assert (said.status_code, said.json()["type"]) == (403, "Forbidden")
            assert json.dumps(ROW) not in said.text
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: rebound.example\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("headers", [{"host": "rebound.example"}, {"origin": "https://evil.example"}])
def test_an_open_gateway_is_closed_to_other_names_at_every_address(gateway, headers):
    """Whatever is asked, the document, the pages, the console and health included, is 403 under another name than this machine's."""
    paths = {(path, method) for route in app.handlers() for path in route.paths for method in route.http_methods}
    with gateway.client(headers=headers) as client:
        for path, method in sorted(paths):
            said = client.request(method, re.sub(r"\{\w+:str\}", "x", path))
            assert (said.status_code, said.json()["type"]) == (403, "Forbidden"), path


def test_a_gateway_with_keys_answers_under_any_name(system):
    """Behind a balancer the name is the balancer's: what needs no key answers under it, at once after a start too."""
    with (
        GatewayProcess(system.server.url, wait=False) as fresh,
        fresh.client(headers={"host": "api.example"}) as client,
    ):
        assert waiting.until(lambda: _status(client, "/v2/health/live")) == 200
        assert client.get("/openapi.json").status_code == 200


def _status(client, path):
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return None
