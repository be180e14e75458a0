"""Bad input through a real worker: each requester gets a terminal state with its reason, and the worker serves the next one."""

import bz2
import functools
import gzip
import itertools
import json
import lzma
import os
import struct
from pathlib import Path

import brokers
import numpy as np
import pytest
import samples
from kombu import Connection
from stock import Raised

from mutirao import (
    Client,
    IdTaken,
    InvalidRequest,
    JobError,
    ModelFailed,
    ModelNotFound,
    SignatureMismatch,
    TimeLimitExceeded,
    WorkerLost,
    codec,
    errors,
    queues,
)

ROW = [5.1, 3.5, 1.4, 0.2]
EMBED: dict[str, None] = {}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def own(fleet):
    """A client of ours that checks nothing before it queues, so that the worker has to."""
    with Client(fleet.url, check=False) as client:
        yield client


@pytest.fixture(autouse=True)
def _serves_the_next(fleet, own):
    """After each of these tests the same worker still serves."""
    yield
    assert own.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
    assert fleet.worker.process.poll() is None


@pytest.fixture
def refused(stock):
    """Send what a stock client can send, with ask(...); return what its get() raised."""

    def send(asking):
        with pytest.raises(Raised) as caught:
            stock.run(f"{asking}.get(timeout=20)")
        return caught.value

    return send


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
    assert content_type in raised.text


def test_unknown_task(refused):
    """A task that is not ours fails with Celery's own NotRegistered."""
    raised = refused("app.send_task('mutirao.train', args=['secret-7'], queue='mutirao.iris')")
    assert (raised.name, raised.text) == ("NotRegistered", "'mutirao.train'")


def test_unknown_task_to_our_client(fleet, stock, own):
    """To a client of ours an unknown task is an invalid request, with the name of the only task there is."""
    id = stock.run(
        "r = app.send_task('mutirao.train', queue='mutirao.iris'); r.get(timeout=20, propagate=False); answer = r.id"
    )
    with pytest.raises(InvalidRequest, match=r"its task is not known: mutirao.train; the only one is mutirao.predict"):
        own.job(id).result(5)


def test_unknown_model(refused):
    """A model that this worker does not serve is named, with those that it does."""
    raised = refused("app.send_task('mutirao.predict', args=['rose', [[1]]], queue='mutirao.iris')")
    assert raised.name == "ModelNotFound"
    assert raised.text.startswith("model 'rose' is not served: models served: aborts, changesinput")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "iris/../iris",
        "",
        "Iris",
        "iris\n",
        "iris\x00",
        "%2e%2e",
        "a" * 65,
        "íris",
        None,
        5,
        [],
        {},
    ],
)
def test_odd_model_names_are_refused(refused, name):
    """A model's name that is not one is refused, and never becomes part of a path."""
    raised = refused(f"app.send_task('mutirao.predict', args=[{name!r}, [[1]]], queue='mutirao.iris')")
    assert raised.name == "InvalidRequest"
    assert f"model name {name!r} is not allowed" in raised.text


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        ([[1.0, 2.0, 3.0]], "SignatureMismatch", "model 'iris' takes X FP64[-1, 4], got shape [1, 3]"),
        (ROW, "SignatureMismatch", "one row is written [[...]]"),
        ([[ROW]], "SignatureMismatch", "got shape [1, 1, 4]"),
        ([ROW, [1.0, 2.0]], "InvalidTensor", "row 1 has 2 values, row 0 has 4 values"),
        ([], "SignatureMismatch", "takes at least one row, got none"),
        ([[]], "SignatureMismatch", "got shape [1, 0]"),
        ([["a", "b", "c", "d"]], "SignatureMismatch", "must be FP64, got text"),
        ([[1, 2, 3, "d"]], "SignatureMismatch", "must be FP64, got text"),
        ([[1, 2, 3, None]], "InvalidTensor", "mixes int, null"),
        ([[1, 2, 3, {"a": 1}]], "InvalidTensor", "mixes dict, int"),
        ([[1, 2, 3, float("nan")]], "InvalidTensor", "has NaN at [0, 3]: JSON cannot carry it"),
        ([[1, 2, 3, float("-inf")]], "InvalidTensor", "has infinity at [0, 3]"),
        ("text", "InvalidRequest", "neither a V2 inference request nor a nested list"),
        (7, "InvalidRequest", "neither a V2 inference request nor a nested list"),
        (None, "InvalidRequest", "neither a V2 inference request nor a nested list"),
        ({}, "InvalidRequest", "missing required field `inputs`"),
        ({"inputs": []}, "SignatureMismatch", "got inputs without 'X'"),
        ({"inputs": 3}, "InvalidRequest", "$.inputs"),
        ({"inputs": [{"name": "Z", "datatype": "FP64", "shape": [1, 4], "data": ROW}]}, "SignatureMismatch", "with 'Z'"),
        ({"inputs": [{"name": "X", "datatype": "FP12", "shape": [1, 4], "data": ROW}]}, "InvalidTensor", "'FP12' is not one of"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [2, 4], "data": ROW}]}, "InvalidTensor", "holds 8 elements, got 4"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [-1, -4], "data": ROW}]}, "InvalidTensor", "negative size"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [1] * 80 + [4], "data": ROW}]}, "InvalidTensor", "shape of 81 dimensions"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [10**30, 0], "data": []}]}, "InvalidTensor", "more than an array can have"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 4]}]}, "InvalidTensor", "data is NoneType, not a list"),
        ({"inputs": [{"name": "X", "datatype": "UINT8", "shape": [1, 4], "data": [1, 2, 3, 300]}]}, "InvalidTensor", "out of the range of UINT8"),
        ({"inputs": [{"name": "X", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 2**70]}]}, "InvalidTensor", "tensor 'X'"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 4], "data": ROW}] * 2}, "InvalidRequest", "two inputs have the same name"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 4], "data": ROW}], "outputs": [{"name": "fit"}]}, "InvalidRequest", "output 'fit' is not one of predict, predict_proba"),
        ({"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 4], "parameters": {"binary_data_size": 32}}], "parameters": {"binary_data_beside": True}}, "InvalidRequest", "its payload key does not exist"),
    ],
)  # fmt: skip
def test_bad_requests_in_json(refused, data, kind, says):
    """A request that does not fit is refused by the worker with what was expected and what came."""
    raised = refused(f"nan, inf = float('nan'), float('inf')\nask({data!r})")
    assert raised.name == kind
    assert says in raised.text


def test_too_many_rows(refused):
    """More rows than the model takes at once are refused with the limit and the remedy."""
    raised = refused(f"ask([{ROW}] * 10_001)")
    assert raised.name == "PayloadTooLarge"
    assert "takes at most 10000 rows in one request, got 10001: split it, see submit_many" in raised.text


@pytest.mark.parametrize(
    ("sending", "says"),
    [
        ("args=[]", "takes (model, request), got 0 arguments"),
        ("args=['iris']", "takes (model, request), got 1 arguments"),
        ("args=['iris', [[1]], 3]", "takes (model, request), got 3 arguments"),
        ("kwargs={'model': 'iris'}", "options ['model']"),
        ("args=['iris', [[1]]], kwargs={'fast': True}", "options ['fast']"),
    ],
)
def test_wrong_arguments(refused, sending, says):
    """Another number of arguments, or options that are not there, are named."""
    raised = refused(f"app.send_task('mutirao.predict', {sending}, queue='mutirao.iris')")
    assert raised.name == "InvalidRequest"
    assert says in raised.text


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
    before = _peak_bytes(fleet.worker.pid)
    raised = publish(pack(bytes(2**27 if pack is not bytes else 64)), "application/json", compression=content_type)
    assert (raised.name, raised.text) == ("InvalidRequest", "compressed bodies are not accepted: send it plain")
    assert _peak_bytes(fleet.worker.pid) - before < 2**25


def _peak_bytes(pid):
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _binary(head, raw=b"", length=None):
    encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<I", len(encoded) if length is None else length) + encoded + raw


def _tensor(size, shape=(1, 4)):
    return {"name": "X", "datatype": "FP64", "shape": shape, "parameters": {"binary_data_size": size}}


def _body(*tensors):
    return [["iris", {"inputs": list(tensors)}], {}, EMBED]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body must be Celery's triple"),
        (b"\x01\x02", "2 bytes long"),
        (_binary(_body(_tensor(32)), bytes(32), length=2**31), "names a head of 2147483648 bytes"),
        (_binary(_body(_tensor(32)), bytes(32), length=0), "names a head of 0 bytes"),
        (_binary(b"{not json"), "head is not a request"),
        (_binary(b"[" * 100_000), "head is not a request"),
        (_binary({"a": 1}), "head is not a request"),
        (_binary([["iris", 5], {}, {}]), "head is not a request"),
        (_binary(_body(_tensor(64)), bytes(32)), "names 64 raw bytes, but 32 are left"),
        (_binary(_body(_tensor(-8)), bytes(32)), "names -8 raw bytes"),
        (_binary(_body(_tensor(2**70)), bytes(32)), "raw bytes, but 32 are left"),
        (_binary(_body(_tensor("32")), bytes(32)), "names '32' raw bytes"),
        (_binary(_body(_tensor(32)), bytes(40)), "8 raw bytes belong to no tensor"),
        (_binary(_body(_tensor(32, (2, 4))), bytes(32)), "is 64 bytes, got 32"),
        (_binary(_body(_tensor(32, (2**62, 4))), bytes(32)), "more than an array can have"),
        (_binary(_body(_tensor(32, (1, 4)) | {"datatype": "BYTES"}), b"\xff\xff\xff\xff" + bytes(28)), "names 4294967295 bytes, but 28 are left"),
        (_binary(_body(_tensor(4, (1, 4)) | {"datatype": "BOOL"}), b"\x02\x00\x00\x00"), "a BOOL byte must be 0 or 1"),
    ],
)  # fmt: skip
def test_binary_bodies_that_lie(publish, body, says):
    """A binary body whose lengths, shapes or bytes do not agree is refused with what disagrees."""
    raised = publish(body, codec.BINARY)
    assert raised.name in ("InvalidRequest", "InvalidTensor")
    assert says in raised.text


@pytest.mark.parametrize(
    "body",
    [b"{not json", b"[" * 100_000, b"[]", b"{}", b"7", b'"text"', b"null", b"[1,2,3]", b'["iris",{},{}]', b"[[],[],{}]", b'[[],{},"x"]', b"\xff\xfe",
     b'[["iris",[[' + b"1" * 5000 + b"]]],{},{}]", b'{"task":"mutirao.predict","id":"x","args":["iris",[[1]]],"kwargs":{}}'],
)  # fmt: skip
def test_json_bodies_that_are_none(publish, body):
    """A JSON body that is not Celery's triple, or is not JSON, is refused."""
    assert publish(body, codec.JSON).name == "InvalidRequest"


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
    assert publish(_binary(_body(_tensor(31)), bytes(32)), codec.BINARY, **headers).name in (
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


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("raises", ModelFailed, "model 'raises' version 1 raised ValueError: the sky is falling"),
        ("raisesunpicklable", ModelFailed, "raised Unpicklable: a lambda hangs on to me"),
        ("raisesunprintable", ModelFailed, r"raised Unprintable: \(its text could not be read\)"),
        ("exits", ModelFailed, "raised SystemExit: 3"),
        ("aborts", WorkerLost, "the process that ran the model died: .*exitcode 7"),
        ("segfaults", WorkerLost, "the process that ran the model died: .*SIGSEGV"),
        ("hangs", TimeLimitExceeded, "the model ran past its time limit of 2.0 s and was stopped"),
        ("hangsinc", TimeLimitExceeded, "the model ran past its time limit of 2.0 s and was stopped"),
        ("toofewrows", ModelFailed, "returned 1 rows of 'predict' for 2 rows of input"),
        ("toomanyrows", ModelFailed, "returned 3 rows of 'predict' for 2 rows of input"),
        ("norows", ModelFailed, "returned a single value of 'predict' for 2 rows of input"),
        ("objectoutput", ModelFailed, "returned what cannot be sent"),
    ],
)
def test_models_that_misbehave(own, model, kind, says):
    """A model that raises, exits, dies, hangs or returns rubbish fails the request that made it, by name, and no other."""
    bad = own.submit(model, [[-1.0, 1, 2], [3, 4, 5]])
    good = own.submit(model, [[3.0, 4, 5]])
    with pytest.raises(kind, match=says):
        bad.result(20)
    assert good.result(20)["predict"].tolist() == [12.0]
    assert bad.status == "failed"


@pytest.mark.parametrize("model", ["prints", "warns", "changesinput"])
def test_models_that_are_merely_rude(own, model):
    """A model that prints, warns or writes into its input still answers."""
    assert own.predict(model, [[-1.0, 1, 2], [3, 4, 5]], timeout=20)["predict"].tolist() == [2.0, 12.0]


def test_nan_output(own, refused):
    """NaN in an output reaches our client; to one that asked for JSON it is a failure that names it."""
    assert np.array_equal(
        own.predict("nanoutput", [[-1.0, 1, 2], [3, 4, 5]], timeout=20)["predict"], [np.nan, 12.0], equal_nan=True
    )
    raised = refused("ask([[-1, 1, 2]], 'nanoutput')")
    assert raised.name == "InvalidOutput"
    assert "tensor 'predict' has NaN at [0]: JSON cannot carry it, the binary form can" in raised.text


@pytest.mark.parametrize("name", ["iris\x06\x163", "iris\x1b[31m", "iris\n", "\x00", "../iris", "IRIS", "", "é"])
def test_queue_names_with_control_characters(fleet, own, name):
    """A model's name that would make an odd queue name is refused before anything is queued."""
    before = set(fleet.server.client().keys("*"))
    with pytest.raises(InvalidRequest, match="model name"):
        own.submit(name, [ROW])
    assert {key for key in fleet.server.client().keys("*") if name.encode() in key} - before == set()


@brokers.redis_only
def test_stock_queue_name_with_control_characters(fleet, stock):
    """A stock client's odd queue name reaches nobody, or, where it spells a priority's list, the model; the worker goes on."""
    assert (
        stock.run(f"""
r = app.send_task("mutirao.predict", args=["iris", [{ROW}]], queue="mutirao.iris\\x06\\x163")
answer = r.get(timeout=20)["model_name"]
app.send_task("mutirao.predict", args=["iris", [{ROW}]], queue="mutirao.\\x1b[31m\\n")
""")
        == "iris"
    )
    fleet.server.client().delete("mutirao.\x1b[31m\n")


@pytest.mark.parametrize("id", ["../x", "a b", "a\nb", "\x1b", "", "é", "a" * 129, ".hidden", 'x"}', 5])
def test_odd_ids_are_refused(fleet, own, id):
    """An id of the caller's own that could not be part of a key or URL is refused before anything is queued."""
    before = _records(fleet)
    with pytest.raises(InvalidRequest, match="is not allowed: it must be 1 to 128 of"):
        own.submit("iris", [ROW], id=id)
    with pytest.raises(InvalidRequest):
        own.job(id).record()
    assert _records(fleet) == before


def test_id_taken_by_a_stock_client(stock, own):
    """An id that a stock client's job has is taken."""
    stock.run(f"ask([{ROW}], task_id='theirs').get(timeout=20)")
    with pytest.raises(IdTaken, match="id 'theirs' belongs to a job with other content: choose another id"):
        own.submit("iris", [ROW], id="theirs")


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        ([[1.0]], SignatureMismatch, r"model 'iris' takes X FP64\[-1, 4\], got shape \[1, 1\]"),
        ([["a"] * 4], SignatureMismatch, "must be FP64, got text"),
        ([ROW, [1.0]], errors.InvalidTensor, "row 1 has 1 values, row 0 has 4 values"),
        (np.empty((0, 4)), SignatureMismatch, "takes at least one row, got none"),
        (np.empty((10_001, 4)), errors.PayloadTooLarge, "at most 10000 rows"),
        ({"Z": [1.0]}, SignatureMismatch, "without 'X' and with 'Z'"),
        (np.array([["2020-01-01"] * 4], dtype="M8[D]"), SignatureMismatch, "dtype datetime64"),
    ],
)
def test_our_clients_refuse_before_queueing(fleet, client, data, kind, says):
    """Both clients refuse what does not fit the announced signature, and queue nothing."""
    before = _records(fleet)
    with pytest.raises(kind, match=says):
        client.submit("iris", data)
    with pytest.raises(kind):
        client.submit_many("iris", [[ROW], data])
    assert _records(fleet) == before


def _records(fleet):
    return set(fleet.server.client().keys("celery-task-meta-*"))


def test_our_clients_name_the_models_there_are(client):
    """Both clients refuse a model that nobody serves, and name those that are."""
    with pytest.raises(ModelNotFound, match=r"model 'rose' is not served: models served: .*iris"):
        client.submit("rose", [ROW])


def test_columns_that_do_not_fit(client):
    """Named columns: a missing one, an unknown one and one of the wrong kind are each named."""
    frame = samples.get("houses").data[:2]
    for wrong, says in [
        (frame.drop(columns="city"), "without 'city'"),
        (frame.rename(columns={"city": "town"}), "without 'city' and with 'town'"),
        (frame.assign(area="large"), "area"),
    ]:
        with pytest.raises(SignatureMismatch, match=says):
            client.submit("houses", wrong)


def test_failure_is_terminal(own):
    """A failed job stays failed: cancel says no, the record keeps model, worker and times."""
    job = own.submit("raises", [[-1.0, 0, 0]])
    with pytest.raises(JobError):
        job.result(20)
    assert not job.cancel()
    record = job.record()
    assert (record.state, record.job.model, record.job.version) == ("failed", "raises", "1")
    assert queues.made_at(job.id) == pytest.approx(record.job.queued_at, abs=5)
