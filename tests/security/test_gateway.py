"""What the gateway refuses: lies about lengths, bombs, slow clients, tricks with paths and headers; and what it lets nobody see."""

import gzip
import json
import socket
import time
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import sample_models
from support.gateway_process import GatewayProcess
from support.waiting import until

IRIS = sample_models.get("iris")
ROW = {"rows": IRIS.data[:1].tolist()}
LIMIT = 2_000_000  # of the shared gateway


def raw(gateway, request, *, timeout_s=20.0):
    """Send bytes over a connection of its own, and return what comes until it is closed or has nothing to say."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=timeout_s) as connection:
        connection.sendall(request)
        return _read(connection)


def _read(connection):
    found = b""
    while part := connection.recv(65536):
        found += part
        head, _, body = found.partition(b"\r\n\r\n")
        if b"content-length: %d" % len(body) in head:
            break
    return found


DATATYPES = ["FP64", "FP32", "FP16", "BF16", "BOOL", "INT8", "INT64", "UINT64", "BYTES", "FP128", "", "fp64", "\x00"]
SIZES = st.one_of(
    st.integers(-(2**70), 2**70), st.integers(-4, 200), st.sampled_from([32, 2**31, 2**63]), st.floats(), st.text(max_size=3), st.none(), st.booleans()
)  # fmt: skip
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["X", "X", "X", "Y", ""]),
        "datatype": st.sampled_from(DATATYPES),
        "shape": st.lists(st.one_of(st.integers(-2, 5), st.integers(-(2**64), 2**64)), max_size=4),
    },
    optional={"parameters": st.fixed_dictionaries({}, optional={"binary_data_size": SIZES}), "data": st.just([1, 2])},
)


@given(
    inputs=st.lists(TENSORS, max_size=3),
    length=st.one_of(
        st.none(), st.integers(-(2**70), 2**70), st.integers(0, 300), st.text("0123456789-+.x", max_size=6)
    ),
    body=st.binary(max_size=100),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_lies_of_the_binary_form_are_refused(http, inputs, length, body):
    """Lengths that lie, overlap, are huge or negative, odd datatypes and shapes: 4xx with a sentence, or a true answer."""
    head = json.dumps({"inputs": inputs}, allow_nan=True).encode()
    shown = str(len(head) if length is None else length)
    answer = http.post("/v2/models/iris/infer", content=head + body, headers={"Inference-Header-Content-Length": shown})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]


@pytest.mark.parametrize("size", [31, 33, 0, -32, 2**63, 32.0, True, "32"])
def test_a_size_that_is_not_the_tensors_is_refused(http, size):
    """binary_data_size must be the tensor's own, and the bytes must be there, no more and no fewer."""
    tensor = {"name": "X", "datatype": "FP64", "shape": [1, 4], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = http.post("/v2/models/iris/infer", content=head + IRIS.data[:1].tobytes(), headers=headers)
    assert answer.status_code == 400, answer.text


def test_bytes_that_belong_to_no_tensor_are_refused(http):
    """What is left over after the last tensor is 400, and so is a tensor with its data twice."""
    tensor = {"name": "X", "datatype": "FP64", "shape": [1, 4], "parameters": {"binary_data_size": 32}}
    for one, body in ((tensor, bytes(40)), ({**tensor, "data": [1, 2, 3, 4]}, bytes(32))):
        head = json.dumps({"inputs": [one]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        assert http.post("/v2/models/iris/infer", content=head + body, headers=headers).status_code == 400


def test_a_body_over_the_limit_is_refused_before_it_is_read(gateway):
    """413 comes on the header alone, and the connection ends: nobody waits for 10 GB."""
    head = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000000\r\n\r\n"
    answer = raw(gateway, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"type":"PayloadTooLarge"' in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    "path", ["/v2/models/iris/infer", "/v1/models/iris/jobs", "/v1/jobs:wait", "/v2/repository/index"]
)
def test_a_body_without_a_length_is_read_to_the_limit_only(gateway, path):
    """Chunks without end are refused at the limit, and soon cut off."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        sent = 0
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            while sent < 100 * LIMIT:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    assert sent < 50 * LIMIT


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_unpacked(http, gateway, encoding):
    """A small body that is a large one is 413, and costs the gateway no memory to speak of."""
    import psutil

    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(b" " * 300_000_000)
    assert len(bomb) < LIMIT
    before = psutil.Process(gateway.pid).memory_info().rss
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    answer = http.post("/v2/models/iris/infer", content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "PayloadTooLarge")
    assert psutil.Process(gateway.pid).memory_info().rss - before < 50_000_000


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"[]", mtime=0)[:-4], 400),
    ],
)
def test_encodings_that_are_none_are_refused(http, encoding, body, status):
    """Other encodings are 415; a stream that is damaged or cut short is 400."""
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    assert http.post("/v2/models/iris/infer", content=body, headers=headers).status_code == status


def test_an_array_that_says_it_is_huge_takes_no_memory(http):
    """A header of npy that names a trillion elements is refused by what there is."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    answer = http.post("/v2/models/iris/infer", content=body, headers={"Content-Type": "application/x-npy"})
    assert answer.status_code == 400


def test_more_rows_than_the_model_takes_are_refused(http):
    """The signature's limit holds in each form."""
    rows = np.zeros((10_001, 4))
    assert http.post("/v1/models/iris/jobs", json={"rows": rows.tolist()}).status_code == 413
    text = "0,0,0,0\n" * 10_001
    assert http.post("/v1/models/iris/jobs", content=text, headers={"Content-Type": "text/csv"}).status_code == 413


PATHS = [
    "/v2/models/..%2f..%2fetc/infer",
    "/v2/models/%2e%2e/infer",
    "/v2/models/iris%00/infer",
    "/v2/models/iris%0d%0aSet-Cookie:x/infer",
    "/v2/models/IRIS/infer",
    "/v2/models/" + "a" * 65 + "/infer",
    "/v2/models/iris/versions/..%2f1/infer",
    "/v1/models/../jobs",
    "/v1/models/iris*/jobs",
]


@pytest.mark.parametrize("path", PATHS)
def test_tricks_with_paths_are_refused(gateway, path):
    """A name that is no model's is 400 or 404, whatever it holds; nothing of it comes back as a header."""
    body = json.dumps(ROW).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = raw(gateway, head.encode() + body)
    assert answer.split(b" ")[1] in (b"400", b"404", b"405"), answer
    assert b"set-cookie" not in answer.lower().partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("id", ["..%2f..%2fmutirao:keys", "a%00b", "%2a", "x" * 200, "a%0d%0ab"])
@pytest.mark.parametrize("rest", ["", "/result", "/events"])
def test_tricks_with_ids_are_refused(http, id, rest):
    """An id that is none is 400 or 404: it never becomes a key of Redis."""
    assert http.get(f"/v1/jobs/{id}{rest}").status_code in (400, 404)


def test_headers_cannot_be_injected(http, gateway):
    """What a client sends comes back in no header, but in JSON, which holds it safely."""
    answer = http.post("/v2/models/iris/infer", json={**ROW, "id": "a\r\nSet-Cookie: x\u2028"})
    assert answer.json()["id"] == "a\r\nSet-Cookie: x\u2028"
    assert "set-cookie" not in answer.headers
    preferred = b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=5\rSet-Cookie: y\r\n\r\n"
    assert b"set-cookie" not in raw(gateway, preferred).lower()


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n",
     b"POST /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(gateway, request_):
    """TLS on a plain port, broken heads and two lengths at once are 400 in the form of every error."""
    answer = raw(gateway, request_)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"]


def test_headers_without_end_are_refused(gateway):
    """More than 64 KiB of headers are 431."""
    answer = raw(gateway, b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: " + b"b" * 70_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_every_answer_guards_its_reader(http):
    """No sniffing, no frames, no referrer and nothing of other hosts, on pages, data and errors alike."""
    for path in ("/", "/docs", "/v2", "/nowhere", "/v1/models", "/openapi.json"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_nobody_keeps_what_is_somebodys_own(http):
    """Results, jobs, models, the fleet and errors are no-store; only the pages' own files may be kept."""
    job = http.post("/v1/models/iris/jobs", json=ROW)
    at = job.headers["location"]
    asked = [job, http.get(at, params={"wait": 20}), http.post("/v2/models/iris/infer", json=ROW), http.delete(at)]
    asked += [http.post("/v1/jobs:wait", json={"ids": [job.json()["id"]], "wait": 1, "results": True})]
    asked += [
        http.get(path)
        for path in (f"{at}/result", f"{at}/events", "/v1/jobs/none", "/v1/models", "/v1/fleet", "/metrics")
    ]
    assert {(answer.request.url.path, answer.headers["cache-control"]) for answer in asked} == {
        (answer.request.url.path, "no-store") for answer in asked
    }
    for path, kept in (("/docs/start.js", "public, max-age=3600"), ("/console/console.js", "no-cache")):
        assert http.get(path).headers.get_list("cache-control") == [kept]


def test_slow_clients_are_ended(gateway, http):
    """Who dribbles headers, says nothing, sends no body or half of one is told so and cut off, while others are served."""
    head = b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
    said = (b"GET /v2 HTTP/1.1\r\nHost: 127", b"", head, head + b"[[1,", head.replace(b"infer", b"nowhere"))
    began = time.monotonic()
    connections = [socket.create_connection(("127.0.0.1", gateway.port), timeout=30) for _ in said]
    for connection, words in zip(connections, said, strict=True):
        connection.sendall(words)
    assert http.get("/v2").status_code == 200
    answers = [_read(connection) for connection in connections]
    assert [answer.split(b" ")[1] for answer in answers] == [b"408", b"408", b"408", b"408", b"404"]
    assert time.monotonic() - began < 20
    for connection in connections:
        connection.close()


def test_what_went_wrong_inside_is_not_told(fleet):
    """A gateway that cannot reach Redis says so without its address; the log names it without a password."""
    with GatewayProcess("redis://:secretword@127.0.0.1:1/0") as gateway, gateway.client() as client:
        answer = until(lambda: client.get("/v1/jobs/some"))
        assert (answer.status_code, answer.json()["type"]) == (503, "BrokerUnavailable")
        assert "127.0.0.1" not in answer.text
        assert "secretword" not in answer.text + gateway.log
