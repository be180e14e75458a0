"""What stands around a body: headers, trailers, the frames of chunks, requests sent ahead; and early answers to large bodies."""

import json
import socket
import urllib.error
import urllib.request

import psutil
import pytest

from support import sample_models
from support.blocking_keys import BlockingKeys
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.waiting import until

ROW = json.dumps({"rows": sample_models.get("iris").data[:1].tolist()}).encode()
INFER = b"POST /v2/models/iris/infer HTTP/1.1\r\n"
LOCAL = b"Host: 127.0.0.1\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MB = 1024 * 1024


def connected(gateway):
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=20)


def answer(connection):
    """Read one answer and no byte more: its status, its headers and its body."""
    found = b""
    while not found.endswith(b"\r\n\r\n") and (part := connection.recv(1)):
        found += part
    lines = found.strip().split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
    length = int(headers.get(b"content-length", 0))
    return int(lines[0].split(b" ")[1]), headers, connection.recv(length, socket.MSG_WAITALL)


def chunked(body, *trailers):
    return b"%x\r\n%b\r\n0\r\n" % (len(body), body) + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"


def waiting_for(http):
    """Write a request that waits for its answer for some seconds."""
    job = http.post("/v1/models/slow/jobs", json={"rows": [[1.5, 0.0, 0.0]]}).json()["id"]
    return b"GET /v1/jobs/%b?wait=20 HTTP/1.1\r\n" % job.encode() + LOCAL + b"\r\n"


def flood(gateway, first, again, most=40 * MB):
    """Send without end; return how much was taken before the connection was cut, and by how much memory grew meanwhile."""
    process, sent = psutil.Process(gateway.pid), 0
    before = process.memory_info().rss
    with connected(gateway) as connection:
        try:
            connection.sendall(first)
            while sent < most:
                connection.sendall(again)
                sent += len(again)
        except OSError:
            pass
        return sent, process.memory_info().rss - before


@pytest.fixture(scope="module")
def keyed():
    """A gateway that asks for keys, and one of its keys."""
    with RedisServer() as server, GatewayProcess(server.url) as gateway, BlockingKeys(server.url) as ring:
        _, token = ring.add("crm")
        with gateway.client() as client:
            until(lambda: client.get("/v2").status_code == 401)  # it has heard of its first key
        yield gateway, token


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no HTTP\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (INFER + LOCAL + b"Content-Length: 99999999\r\n\r\n", 413),
    ],
    ids=["no HTTP", "large headers", "large body"],
)
def test_nobody_keeps_a_refusal(gateway, sent, status):
    """What is refused before any handler sees it is for nobody to keep either."""
    with connected(gateway) as connection:
        connection.sendall(sent)
        found, headers, _ = answer(connection)
    assert (found, headers[b"cache-control"]) == (status, b"no-store")


def test_a_key_in_a_trailer_lets_nobody_in(keyed):
    """What comes behind a chunked body is no header, whatever it is called."""
    gateway, token = keyed
    with connected(gateway) as connection:
        bearer = b"Authorization: Bearer " + token.encode()
        connection.sendall(INFER + LOCAL + CHUNKED + chunked(ROW, bearer))
        assert answer(connection)[0] == 401


@pytest.mark.parametrize(
    "trailer", [b"Host: evil.example", b"Origin: http://evil.example", b"Content-Type: text/csv", b"Accept: image/png",
                b"Content-Encoding: gzip", b"Mutirao-Expires: soon"],
)  # fmt: skip
def test_trailers_change_nothing(gateway, trailer):
    """A trailer of a trusted name neither refuses a request nor has it read otherwise; the connection goes on."""
    with connected(gateway) as connection:
        for _ in range(2):
            head = INFER + LOCAL + b"Content-Type: application/json\r\n" + CHUNKED
            connection.sendall(head + chunked(ROW, trailer))
            assert answer(connection)[0] == 200


@pytest.mark.parametrize("of", ["many", "one", "chunk extension", "empty line"])
def test_trailers_without_end_are_cut_off(gateway, of):
    """Neither trailers nor what else stands between chunks is taken without bound, and it takes no memory."""
    head = INFER + LOCAL + CHUNKED + b"%x\r\n%b\r\n" % (len(ROW), ROW)
    first = {"chunk extension": b"1;a=", "empty line": b"0\r\n"}.get(of, b"0\r\na: ")
    again = {"many": b"a:b\r\n" * 10_000, "empty line": b"a:\r\n" * 10_000}.get(of, b"b" * 50_000)
    sent, grown = flood(gateway, head + first, again)
    assert sent < 20 * MB
    assert grown < 30 * MB


@pytest.mark.parametrize("of", ["one", "many"])
def test_a_head_behind_a_waiting_request_is_bounded(gateway, http, of):
    """While a request waits for its answer, the head of the next one is not taken without bound either."""
    first = waiting_for(http) + b"GET /v2 HTTP/1.1\r\nA: "
    sent, grown = flood(gateway, first, b"b" * 50_000 if of == "one" else b"b\r\na:b" * 10_000)
    assert sent < 20 * MB
    assert grown < 30 * MB


def test_requests_sent_ahead_are_not_gathered_without_bound(gateway, http):
    """Whole requests behind one that waits are left in the socket: they take no memory of the gateway."""
    process = psutil.Process(gateway.pid)
    before = process.memory_info().rss
    with connected(gateway) as connection:
        connection.settimeout(3)
        connection.sendall(waiting_for(http))
        try:
            for _ in range(400):
                connection.sendall((b"GET /v2 HTTP/1.1\r\n" + LOCAL + b"\r\n") * 2_000)
        except OSError:
            pass
        assert process.memory_info().rss - before < 60 * MB


def test_requests_sent_ahead_are_answered_in_their_order(gateway):
    """Pipelining works: each request has its own answer, also where a trailer stands between two."""
    ahead = INFER + LOCAL + CHUNKED + chunked(ROW, b"A: b") + b"GET /v2 HTTP/1.1\r\n" + LOCAL + b"\r\n"
    with connected(gateway) as connection:
        connection.sendall(ahead)
        assert b"model_name" in answer(connection)[2]
        assert b"extensions" in answer(connection)[2]


def test_a_head_that_comes_in_one_piece_is_counted(gateway):
    """Headers of more than 64 KiB are 431 also where their end came with them."""
    with connected(gateway) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n" + LOCAL + b"A: " + b"b" * 70_000 + b"\r\n\r\n")
        assert answer(connection)[0] == 431


def test_a_slow_head_behind_an_answered_request_is_ended(gateway):
    """A second request that is begun and never ended has its ten seconds, like the first."""
    with connected(gateway) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n" + LOCAL + b"\r\nGET /v2 HT")
        assert answer(connection)[0] == 200
        assert answer(connection)[0] == 408


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/v2/models/iris/infer", 413), ("/v2/models/none/infer", 404)]
)
def test_an_early_answer_to_a_large_body_arrives(gateway, path, status):
    """A client that sends all of its body before it reads gets the answer, not a reset."""
    request = urllib.request.Request(gateway.url + path, data=bytes(30 * MB), method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == status
    assert json.loads(caught.value.read())["error"]


def test_after_an_early_answer_the_connection_goes_on(gateway):
    """The rest of a refused body is thrown away, and the next request of the connection is answered."""
    with connected(gateway) as connection:
        head = b"POST /nowhere HTTP/1.1\r\n" + LOCAL + b"Content-Length: 1000000\r\n\r\n"
        connection.sendall(head + bytes(500_000))
        assert answer(connection)[0] == 404
        connection.sendall(bytes(500_000) + b"GET /v2 HTTP/1.1\r\n" + LOCAL + b"\r\n")
        assert answer(connection)[0] == 200
