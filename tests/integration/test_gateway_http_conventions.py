"""What HTTP clients of all kinds expect: HEAD, OPTIONS, odd spellings, types of their own, a last event, a typed client."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest

BIN = Path(sys.executable).parent
ROWS = [[5.1, 3.5, 1.4, 0.2]]
HUGE = "9" * 400


def ended(http, model="iris"):
    """Queue a job and wait for its end; returns its address."""
    at = http.post(f"/v1/models/{model}/jobs", json={"rows": ROWS}).headers["location"]
    assert http.get(at, params={"wait": 20}).json()["status"] == "succeeded"
    return at


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2", "/", "/docs", "/openapi.json", "/v1/models"]
)
def test_head_is_get_without_its_body(http, path):
    """HEAD answers as GET does, with its length and without its body; the connection goes on."""
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/v1/models":  # which tells what changes meanwhile
        assert head.headers["content-length"] == get.headers["content-length"]


def test_options_names_every_method(http):
    """Allow lists all methods of an address."""
    allowed = http.options(ended(http)).headers["allow"]
    assert {"GET", "DELETE", "HEAD", "OPTIONS"} <= set(allowed.replace(" ", "").split(","))
    assert {"GET", "HEAD", "DELETE"} <= set(http.put("/v1/jobs/x").headers["allow"].replace(" ", "").split(","))


@pytest.mark.parametrize(
    "media", ["text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded", None]
)
def test_json_of_any_name_is_read(http, media):
    """A body that is JSON is read under the types that clients give it where nobody chose one, and without any."""
    headers = {} if media is None else {"Content-Type": media}
    content = json.dumps({"rows": ROWS}).encode()
    assert http.post("/v2/models/iris/infer", content=content, headers=headers).status_code == 200
    assert http.post("/v2/models/iris/infer", content=b"\xef\xbb\xbf" + content, headers=headers).status_code == 200
    assert http.post("/v2/models/iris/infer", content=b"\xef\xbb\xbf[[1,2,3,4]]", headers=headers).status_code == 200
    assert http.post("/v1/jobs:wait", content=b'\xef\xbb\xbf{"ids":["x"]}', headers=headers).status_code == 200


def test_an_event_source_stops_asking(http):
    """Of a job that has ended everything is told once; whoever comes back with the last event's id gets 204."""
    at = f"{ended(http)}/events"
    told = http.get(at).text
    last = [line.removeprefix("id: ") for line in told.splitlines() if line.startswith("id: ")][-1]
    again = http.get(at, headers={"Last-Event-ID": last})
    assert (again.status_code, again.content) == (204, b"")
    assert "content-length" not in again.headers
    assert http.get(at, headers={"Last-Event-ID": "0.0"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [f"[[{HUGE},1,1,1]]", f"[[{HUGE},1.5,1,1]]", f"[[{HUGE},1.5,null,1]]", f'{{"inputs":[{{"name":"X","datatype":"FP64","shape":[1,4],"data":[{HUGE},1,1,1]}}]}}',
     f'{{"inputs":[{{"name":"X","datatype":"FP64","shape":[1,{HUGE}],"data":[1,1,1,1]}}]}}', f'{{"inputs":[{{"name":"X","datatype":"FP64","shape":[{HUGE},0],"data":[]}}]}}', f'{{"rows":[[1,1,1,1]],"expires_s":{HUGE}}}',
     f'{{"rows":[[1,1,1,1]],"parameters":{{"timeout":{HUGE}}}}}'],
)  # fmt: skip
def test_a_number_of_many_digits_is_refused(http, body):
    """An integer that nothing holds is 400 wherever it stands, named by its place."""
    answer = http.post("/v2/models/iris/infer", content=body.encode())
    assert (answer.status_code, answer.json()["type"] != "InternalError") == (400, True), answer.text
    assert len(answer.text) < 3_000


@pytest.mark.parametrize("value", ["1_0", "٣", "0x10", "1e", "infinity", "9" * 400])
def test_a_number_is_written_as_numbers_are(http, value):
    """Header and query take digits, a point and an exponent: no spelling of Python's own."""
    sent = {"Mutirao-Expires": value.encode()}
    assert http.post("/v2/models/iris/infer", json={"rows": ROWS}, headers=sent).status_code == 400
    assert http.get(ended(http), params={"wait": value}).status_code == 400


@pytest.mark.parametrize("wait", [0, 0.5, 60, 61, 1e6])
def test_a_wait_that_the_document_allows_is_taken(http, wait):
    """?wait= beyond the longest wait counts as that, in the document as in the gateway; so does that of jobs:wait."""
    described = http.get("/openapi.json").json()["paths"]["/v1/jobs/{id}"]["get"]["parameters"]
    schema = next(one["schema"] for one in described if one["name"] == "wait")
    assert jsonschema_rs.validator_for(schema).is_valid(wait)
    assert http.get(ended(http), params={"wait": wait}).status_code == 200
    assert http.post("/v1/jobs:wait", json={"ids": ["none"], "wait": wait}).status_code == 200


def test_more_parameters_than_anybody_sends_are_refused(http):
    """A query without end is 400, and so is a name of a megabyte, which is not echoed whole."""
    assert http.get(f"{ended(http)}?{'a=&' * 200}wait=1").status_code == 400
    for datatype in ("FP64", "none"):  # the name is in the text of the first error, and in the data of the second
        named = {"inputs": [{"name": "x" * 1_000_000, "datatype": datatype, "shape": [1, 4], "data": [1, 1, 1, 1]}]}
        answer = http.post("/v2/models/iris/infer", json=named)
        assert answer.status_code == 400
        assert len(answer.content) < 20_000


def test_an_extension_that_is_not_spoken_is_not_left_out_silently(http):
    """V2's class_count asks for another answer than there would be: 400 names it."""
    outputs = [{"name": "predict_proba", "parameters": {"classification": 2}}]
    answer = http.post("/v2/models/iris/infer", json={"rows": ROWS, "outputs": outputs})
    assert answer.status_code == 400
    assert "classification" in answer.json()["error"]


def test_answers_end_their_line(http):
    """What a terminal shows ends with a newline: results, records and errors."""
    for answer in (http.post("/v2/models/iris/infer", json={"rows": ROWS}), http.get("/v2"), http.get("/v1/jobs/none")):
        assert answer.text.endswith("}\n")


def test_a_generated_client_works(http, gateway, tmp_path):
    """A typed Python client that is generated from the document queues, asks and reads, by its own classes."""
    document = tmp_path / "openapi.json"
    document.write_text(http.get("/openapi.json").text)
    command = [
        BIN / "openapi-python-client",
        "generate",
        "--path",
        document,
        "--output-path",
        tmp_path / "made",
        "--meta",
        "none",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "Unable to process schema" not in made.stdout + made.stderr
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", _ASKS, gateway.url], env=env, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {
        "data": [0],
        "takes": ["X"],
        "status": "succeeded",
        "again": [0],
        "error": "ModelNotFound",
    }


_ASKS = """
import json, sys
from made import Client
from made.api.jobs import get_v1_jobs_by_id, get_v1_jobs_by_id_result, post_v1_models_by_model_jobs
from made.api.open_inference_protocol import get_v2_models_by_model, post_v2_models_by_model_infer
from made.models import Body, JobView, PredictResult, Problem, RequestedOutput, Tensor

client = Client(sys.argv[1])
body = Body(
    inputs=[Tensor(name="X", datatype="FP64", shape=[1, 4], data=[5.1, 3.5, 1.4, 0.2])],
    outputs=[RequestedOutput(name="predict")],
)
answer = post_v2_models_by_model_infer.sync("iris", client=client, body=body)
assert isinstance(answer, PredictResult), answer
job = post_v1_models_by_model_jobs.sync("iris", client=client, body=Body(rows=[[5.1, 3.5, 1.4, 0.2]]))
assert isinstance(job, JobView), job
record = get_v1_jobs_by_id.sync(job.id, client=client, wait=20.0)
result = get_v1_jobs_by_id_result.sync(job.id, client=client)
refused = post_v2_models_by_model_infer.sync("none", client=client, body=Body(rows=[[1.0]]))
assert isinstance(refused, Problem), refused
example = get_v2_models_by_model.sync("iris", client=client).example.to_dict()
again = next(tensor.data for tensor in result.outputs if tensor.name == "predict")
print(json.dumps({"data": answer.outputs[0].data, "takes": list(example), "status": record.status, "again": again, "error": refused.type_}))
"""


@pytest.mark.parametrize(
    ("method", "asked", "says"),
    [
        ("PATCH", {}, "this address takes OPTIONS, POST: see /docs"),
        ("POST", {"content": b" "}, "the body is empty: send a request"),
        ("POST", {"files": {"file": ("a.joblib", b"x")}}, "the form's file 'a.joblib' is not"),
    ],
)
def test_each_refusal_says_what_is_taken(http, method, asked, says):
    """What came is named, and what is right; each document ends its line."""
    answer = http.request(method, "/v2/models/iris/infer", **asked)
    assert 400 <= answer.status_code < 500
    assert says in answer.json()["error"]
    assert answer.content.endswith(b"}\n")


def test_what_is_no_http_is_told_in_a_line(http):
    """The error that is sent before a request is read ends its line as others do."""
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=20) as raw:
        raw.sendall(b"what is this\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "this is not a request in HTTP/1.1"
    assert answer.endswith(b"}\n")
