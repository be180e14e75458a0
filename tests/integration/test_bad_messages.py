"""Messages whose bodies or headers are not what they say, through a real worker: refused with a reason, opened by nobody."""

import bz2
import functools
import gzip
import itertools
import lzma
import os
from pathlib import Path

import pytest
from kombu import Connection

from mutirao.wire import binary_codec
from support.message_bodies import binary, body, raw_tensor
from support.stock_client import Raised

pytestmark = pytest.mark.usefixtures("serves_the_next")

ROW = [5.1, 3.5, 1.4, 0.2]
NUMBERS = itertools.count()


@pytest.fixture
def publish(fleet, stock):
    """Put a raw message into iris's queue; return what its get() raised."""

    def send(body, content_type, **headers):
        id = f"raw-{os.getpid()}-{next(NUMBERS)}"
        sent = {"task": "mutirao.predict", "id": id, "lang": "py"} | headers
        with Connection(fleet.broker_url) as connection, connection.Producer() as producer:
            producer.publish(
                body,
                routing_key="mutirao.iris",
                content_type=content_type,
                content_encoding="binary",
                headers=sent,
                correlation_id=id,
            )
        with pytest.raises(Raised) as caught:
            stock.run(f"AsyncResult({id!r}, app=app).get(timeout=20)")
        return caught.value

    return send


def test_pickle_is_never_opened(stock, refused, tmp_path):
    """A pickled body is refused by its content type; what it would have run was not run."""
    canary = tmp_path / "canary"
    stock.run("import kombu.serialization; kombu.serialization.enable_insecure_serializers()")
    bomb = f"type('Bomb', (), {{'__reduce__': lambda self: (open, ({str(canary)!r}, 'w'))}})()"
    raised = refused(f"Bomb = {bomb}\nask(Bomb, serializer='pickle')")
    assert raised.name == "InvalidRequest"
    assert "application/x-python-serialize" in raised.text
    assert "send application/json or application/x-mutirao" in raised.text
    assert not canary.exists()


@pytest.mark.parametrize("content_type", ["application/x-yaml", "application/x-msgpack", "text/plain", ""])
def test_other_content_is_refused(publish, content_type):
    """Any content but JSON and our own binary form is refused by name, whatever it says."""
    raised = publish(b"!!python/object/apply:os.system ['true']", content_type)
    assert raised.name == "InvalidRequest"
    named = content_type or "application/data"  # kombu's word for none
    assert raised.text.startswith(f"the body ({named}) cannot be read: ContentDisallowed; send application/json")


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_compressed_bodies_are_refused(refused, compression):
    """kombu's compression is refused, however small the body: nothing is unpacked to see."""
    raised = refused(f"ask([{ROW}], compression={compression!r})")
    assert (raised.name, raised.text) == ("InvalidRequest", "compressed bodies are not accepted: send it plain")


@pytest.mark.parametrize(
    ("content_type", "pack"),
    [("application/x-gzip", gzip.compress), ("application/x-bz2", bz2.compress), ("application/x-lzma", functools.partial(lzma.compress, preset=0)), ("application/zstd", bytes), ("zstd", bytes), ("rot13", bytes)],
)  # fmt: skip
def test_bombs_are_not_unpacked(fleet, publish, content_type, pack):
    """A body that would unpack to 128 MB is refused, unpacked by nobody; nor does an unknown compression leave its sender waiting."""
    pids = [fleet.worker.pid, *(child.pid for child in fleet.worker.children)]
    before = [_peak_bytes(pid) for pid in pids]
    raised = publish(pack(bytes(2**27 if pack is not bytes else 64)), "application/json", compression=content_type)
    assert (raised.name, raised.text) == ("InvalidRequest", "compressed bodies are not accepted: send it plain")
    assert all(_peak_bytes(pid) - peak < 2**25 for pid, peak in zip(pids, before, strict=True))


def _peak_bytes(pid):
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body must be Celery's triple"),
        (b"\x01\x02", "2 bytes long"),
        (binary(body(raw_tensor(32)), bytes(32), length=2**31), "names a head of 2147483648 bytes"),
        (binary(body(raw_tensor(32)), bytes(32), length=0), "names a head of 0 bytes"),
        (binary(b"{not json"), "head is not a request"),
        (binary(b"[" * 100_000), "head is not a request"),
        (binary({"a": 1}), "head is not a request"),
        (binary([["iris", 5], {}, {}]), "head is not a request"),
        (binary(body(raw_tensor(64)), bytes(32)), "names 64 raw bytes, but 32 are left"),
        (binary(body(raw_tensor(-8)), bytes(32)), "names -8 raw bytes"),
        (binary(body(raw_tensor(2**70)), bytes(32)), "raw bytes, but 32 are left"),
        (binary(body(raw_tensor("32")), bytes(32)), "names '32' raw bytes"),
        (binary(body(raw_tensor(32)), bytes(40)), "8 raw bytes belong to no tensor"),
        (binary(body(raw_tensor(32, (2, 4))), bytes(32)), "is 64 bytes, got 32"),
        (binary(body(raw_tensor(32, (2**62, 4))), bytes(32)), "more than an array can have"),
        (binary(body(raw_tensor(32, (1, 4), "BYTES")), b"\xfe\xff\xff\xff" + bytes(28)), "names 4294967294 bytes, but 28 are left"),
        (binary(body(raw_tensor(4, (1, 4), "BOOL")), b"\x02\x00\x00\x00"), "a BOOL byte must be 0 or 1"),
    ],
)  # fmt: skip
def test_binary_bodies_that_lie(publish, body, says):
    """A binary body whose lengths, shapes or bytes do not agree is refused with what disagrees."""
    raised = publish(body, binary_codec.BINARY)
    assert raised.name in ("InvalidRequest", "InvalidTensor")
    assert says in raised.text


@pytest.mark.parametrize(
    "body",
    [b"{not json", b"[" * 100_000, b"[]", b"{}", b"7", b'"text"', b"null", b"[1,2,3]", b'["iris",{},{}]', b"[[],[],{}]", b'[[],{},"x"]', b"\xff\xfe",
     b'[["iris",[[' + b"1" * 5000 + b"]]],{},{}]", b'{"task":"mutirao.predict","id":"x","args":["iris",[[1]]],"kwargs":{}}'],
)  # fmt: skip
def test_json_bodies_that_are_none(publish, body):
    """A JSON body that is not Celery's triple, or is not JSON, is refused."""
    assert publish(body, binary_codec.JSON).name == "InvalidRequest"


@pytest.mark.parametrize(
    "headers",
    [
        {"expires": "yesterday"},
        {"eta": "soon"},
        {"expires": {}},
        {"timelimit": "long"},
        {"timelimit": [[], {}]},
        {"retries": "many"},
    ],
)
def test_odd_headers(fleet, publish, headers):
    """Headers that Celery cannot use end the request with a reason, or are passed over, and do not end the worker."""
    assert publish(binary(body(raw_tensor(31)), bytes(32)), binary_codec.BINARY, **headers).name in (
        "InvalidRequest",
        "InvalidTensor",
    )


def test_message_protocol_1(fleet, stock):
    """A message of Celery's protocol 1, which has its id in the body, is answered with what to send."""
    with pytest.raises(Raised, match="message protocol 2"):
        stock.run("""
app.conf.task_protocol = 1
try:
    asked = app.amqp.__class__(app).task_protocols[1]
    message = asked("old-one", "mutirao.predict", ["iris", [[1, 2, 3, 4]]], {})
    with app.producer_pool.acquire() as producer:
        producer.publish(message.body, routing_key="mutirao.iris", serializer="json", headers=message.headers, **message.properties)
finally:
    app.conf.task_protocol = 2
app.AsyncResult("old-one").get(timeout=20)
""")
