"""Bodies within the limits that cost more than they look: others are answered meanwhile, and memory stays bounded."""

import gzip
import io
import json

import numpy as np
import psutil
import pytest

from mutirao import errors
from mutirao.gateway.requests import body_limits
from support.waiting import until
from support.watched_gateway import Peak, WatchedGateway

MB = 1_000_000
SIZE = 60 * MB  # of a body; the limit is 64 MiB
CALLBACK_S = 0.25  # CPU time of one callback of the loop; without a process apart these take 0.4 to 40 s
PEAK_MB = 800.0
JSON, CSV, NPY = (
    {"Content-Type": "application/json"},
    {"Content-Type": "text/csv"},
    {"Content-Type": "application/x-npy"},
)
INFER, BATCH, WAIT = "/v2/models/iris/infer", "/v1/models/iris/jobs:batch", "/v1/jobs:wait"
ROW = [[5.1, 3.5, 1.4, 0.2]]


def binary(raw, **tensor):
    """V2's binary form of one tensor."""
    head = json.dumps({"inputs": [{"name": "X", "parameters": {"binary_data_size": len(raw)}, **tensor}]}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue(), NPY


def form(raw):
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f.csv"\r\n\r\n'
    return head + raw + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


# By name: the address, the body with its headers, and the statuses that may answer it.
BODIES = {
    "rows without values": (INFER, lambda: (b'{"rows":[' + b"[]," * (SIZE // 3) + b"[]]}", JSON), {413}),
    "as many of them as are read": (INFER, lambda: (b'{"rows":[' + b"[]," * 900_000 + b"[]]}", JSON), {400, 413}),
    "one row of short values": (INFER, lambda: (b"[[" + b"1," * (SIZE // 2) + b"1]]", JSON), {413}),
    "one row of long values": (INFER, lambda: (b"[[" + b"0.1234567890123456," * 1_900_000 + b"1]]", JSON), {400}),
    "nested without end": (INFER, lambda: (b"[" * SIZE, JSON), {413}),
    "all rows that the model takes": (INFER, lambda: (json.dumps({"rows": ROW * 10_000}).encode(), JSON), {200}),
    "a long name": (INFER, lambda: (json.dumps({"inputs": [{"name": "x" * SIZE, "shape": [1]}]}).encode(), JSON), {400}),
    "many outputs": (INFER, lambda: (b'{"rows":[[1,1,1,1]],"outputs":[' + b'{"name":"a"},' * 900_000 + b"]}", JSON), {400}),
    "many parameters": (INFER, lambda: (json.dumps({"rows": ROW, "parameters": dict.fromkeys(map(str, range(900_000)), 1)}).encode(), JSON), {400}),
    "many requests": (BATCH, lambda: (json.dumps({"requests": [{"rows": ROW}] * 30_000}).encode(), JSON), {202, 503}),
    "many rows": (BATCH, lambda: (json.dumps({"rows": ROW * 60_000}).encode(), JSON), {202, 503}),
    "many ids": (WAIT, lambda: (json.dumps({"ids": ["a"] * 5_000_000}).encode(), JSON), {413}),
    "CSV that is small on its way": (INFER, lambda: (gzip.compress(b"1,1,1,1\n" * (SIZE // 8), 1), {**CSV, "Content-Encoding": "gzip"}), {413}),
    "JSON that is small on its way": (INFER, lambda: (gzip.compress(b'{"rows":[' + b"[]," * (SIZE // 3) + b"[]]}", 1), {**JSON, "Content-Encoding": "gzip"}), {413}),
    "wide CSV": (INFER, lambda: ((b"0.123456789012345678," * 199 + b"1\n") * 9_900, CSV), {400}),
    "CSV in a form": (INFER, lambda: form(b"1,1,1,1\n" * (SIZE // 8)), {413}),
    "raw numbers": (INFER, lambda: binary(bytes(SIZE), datatype="FP64", shape=[SIZE // 32, 4]), {413}),
    "raw empty texts": (INFER, lambda: binary(bytes(SIZE), datatype="BYTES", shape=[SIZE // 4]), {413}),
    "texts of npy": (INFER, lambda: npy(np.full((1_900_000, 1), "ab")), {400}),
}  # fmt: skip


@pytest.fixture(scope="module")
def watched(fleet):
    """A gateway with the default limits, and a process apart that has been started."""
    with WatchedGateway(fleet.url) as gateway, gateway.client() as client:
        assert client.post(INFER, json={"rows": ROW * 9_000}).status_code == 200
        client.timeout = 120
        yield gateway, client


@pytest.mark.parametrize("name", BODIES)
def test_a_body_holds_nobody_up(watched, name):
    """Whatever a body holds, no callback of the loop takes long, and gateway and readers together stay under 800 MB."""
    gateway, client = watched
    path, make, statuses = BODIES[name]
    content, headers = make()
    gateway.longest_s()
    with Peak(gateway.pid) as peak:
        answer = client.post(path, content=content, headers=headers)
    assert answer.status_code in statuses, answer.text[:300]
    assert len(answer.content) < 4 * MB
    assert gateway.longest_s() < CALLBACK_S
    assert peak.mb < PEAK_MB


def test_a_reader_that_dies_is_replaced(watched):
    """The one whose body was being read is told to ask again; the next body is read."""
    gateway, client = watched
    for child in psutil.Process(gateway.pid).children(recursive=True):
        child.kill()
    content = json.dumps({"rows": ROW * 9_000}).encode()
    answers = (client.post(INFER, content=content, headers=JSON).status_code for _ in range(3))
    assert until(lambda: next(answers) == 200)


def test_readers_end_with_their_gateway(fleet):
    """A gateway that is killed leaves no process behind."""
    with WatchedGateway(fleet.url) as gateway, gateway.client() as client:
        assert client.post(INFER, json={"rows": ROW * 9_000}).status_code == 200
        children = psutil.Process(gateway.pid).children(recursive=True)
        assert children
        gateway.kill()
        until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def test_signs_within_text_are_not_counted():
    """A text model's commas and brackets are text; those of the structure count, also behind quotes within text."""
    text = json.dumps({"rows": [[', [ { \\" ' * 1_000_000]]}).encode()
    body_limits.check_json(text)
    with pytest.raises(errors.PayloadTooLarge, match="2,000,000 values"):
        body_limits.check_json(text + b"," * 2_000_001)


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"'])
def test_text_without_an_end_is_counted_in_one_pass(end):
    """Quotes within text that never ends do not have it looked at again for each of them."""
    with pytest.raises(errors.PayloadTooLarge):
        body_limits.check_json(b"[" * 1_000_001 + b'"' + b'\\"' * 1_000_000 + end)
