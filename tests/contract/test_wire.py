"""What stands in Redis: names of keys and queues, the message, the record. Changing any of it needs a version."""

import base64
import json
import re
from typing import Any

import numpy as np
import pytest
from kombu import Connection, Consumer, Queue

from mutirao import Client, keyspace
from mutirao.wire import binary_codec, signature
from mutirao.wire.messages import PredictRequest
from support import brokers

X = np.array([[5.1, 3.5, 1.4, 0.2], [np.nan, -0.0, np.inf, 5e-324]])


@pytest.fixture
def client(redis_server):
    """A client that queues for models that nobody serves."""
    with Client(redis_server.url, check=False) as made:
        yield made


@brokers.redis_only
@pytest.mark.parametrize(
    ("priority", "key"),
    [("high", "mutirao.iris"), ("normal", "mutirao.iris\x06\x163"), ("low", "mutirao.iris\x06\x166")],
)
def test_names_in_redis(redis_server, client, priority, key):
    """A request is one element of its model's list at its priority's step, one record under Celery's result key, and a token."""
    job = client.submit("iris", X, priority=priority)
    found = {name.decode() for name in redis_server.client().keys("*")}
    assert found == {key, f"celery-task-meta-{job.id}", "mutirao:bell:mutirao.iris", "mutirao:lines"}
    assert redis_server.client().hgetall("mutirao:lines") == {
        f"rows {key}".encode(): b"1",
        f"next {key}".encode(): b"1",
    }
    assert redis_server.client().llen(key) == 1


@brokers.redis_only
def test_payload_key(redis_server, client):
    """Tensors over the threshold lie beside the queue, under a key of their own that ends with the record."""
    job = client.submit("iris", np.ones((4096, 4)))
    redis = redis_server.client()
    key = f"mutirao:payload:{job.id}:in"
    assert len(redis.get(key)) == 4096 * 4 * 8
    assert redis.ttl(key) == pytest.approx(redis.ttl(f"celery-task-meta-{job.id}"), abs=1)
    assert len(redis.lindex("mutirao.iris\x06\x163", 0)) < 2000


@brokers.redis_only
def test_message_protocol(redis_server, client):
    """The message is kombu's envelope with Celery's message protocol 2: headers, properties and body."""
    job = client.submit("iris", X, outputs=["predict"], parameters={"n": 1}, priority="low")
    raw = redis_server.client().lindex("mutirao.iris\x06\x166", 0)
    assert raw.startswith(f'{{"headers":{{"id":"{job.id}","task":"mutirao.predict",'.encode())
    envelope = json.loads(raw)
    assert envelope.keys() == {"body", "content-encoding", "content-type", "headers", "properties"}
    assert (envelope["content-type"], envelope["content-encoding"]) == ("application/x-mutirao", "binary")
    headers, properties = envelope["headers"], envelope["properties"]
    assert re.fullmatch(r"\d+@.+", headers.pop("origin"))
    assert headers["mutirao"].keys() == {"rows", "reply"}
    assert (headers["mutirao"].pop("rows"), len(headers.pop("mutirao")["reply"])) == (2, 24)
    assert headers == {
        "lang": "py",
        "task": "mutirao.predict",
        "id": job.id,
        "argsrepr": "iris: 2x4 FP64",
    }
    assert properties == {
        "delivery_info": {"exchange": "", "routing_key": "mutirao.iris"},
        "priority": 6,
        "body_encoding": "base64",
        "delivery_tag": job.id,
    }
    [model, request], options, embed = binary_codec.decode_body(base64.b64decode(envelope["body"]))
    assert (model, options) == ("iris", {})
    assert embed == {}
    assert request.parameters == {"n": 1, "binary_data_output": True}
    assert [output.name for output in request.outputs] == ["predict"]


def test_stock_kombu_consumes_it(redis_server, client):
    """A stock kombu consumer takes our envelope from the queue and acknowledges it; the tensors are bit for bit ours."""
    client.submit("iris", X)
    got: list[Any] = []
    url = brokers.broker_of(redis_server.url)["broker_url"]
    with Connection(url) as connection, connection.channel() as channel:
        consumer = Consumer(channel, Queue("mutirao.iris"), accept=["application/x-mutirao"], on_message=got.append)
        with consumer:
            while not got:
                connection.drain_events(timeout=10)
        (message,) = got
        [_model, request], _options, _embed = binary_codec.decode_body(message.body)
        assert isinstance(request, PredictRequest)
        (array,) = (np.frombuffer(tensor.data).reshape(tensor.shape) for tensor in request.inputs)
        assert array.tobytes() == X.tobytes()
        message.ack()
    assert redis_server.client().keys("unacked*") == []


def test_queued_record(redis_server, client):
    """The record of a queued job is Celery's document with the state QUEUED, and ours beside; Redis's clock gives the times."""
    job = client.submit("iris", X, expires_s=60.0)
    raw = redis_server.client().get(f"celery-task-meta-{job.id}")
    assert raw.startswith(b'{"status":"QUEUED","task_id":')
    assert raw.endswith(b"}}")
    record = json.loads(raw)
    assert list(record)[-1] == "job"
    line = [] if brokers.AMQP else ["line"]  # nobody counts what another server's queues hold
    assert list(record["job"]) == ["model", "rows", "priority", "digest", "queued_at", "expires_at", *line]
    own = record.pop("job")
    assert record == {
        "status": "QUEUED",
        "task_id": job.id,
        "result": None,
        "traceback": None,
        "date_done": None,
        "children": None,
    }
    seconds, micros = redis_server.client().time()
    assert own["queued_at"] == pytest.approx(seconds + micros / 1e6, abs=5)
    assert own["expires_at"] == pytest.approx(own["queued_at"] + 60, abs=0.01)
    assert (own["model"], own["rows"], own["priority"]) == ("iris", 2, "normal")
    assert 86_400 + 55 < redis_server.client().ttl(f"celery-task-meta-{job.id}") <= 86_400 + 60


def test_catalogue(fleet):
    """Workers announce models and themselves in two hashes, in JSON."""
    redis = fleet.server.client()
    iris = json.loads(redis.hget("mutirao:models", "iris"))
    assert iris["signature"]["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 4], "nullable": False}]
    assert [output["name"] for output in iris["signature"]["outputs"] if output.get("default")] == [
        "predict",
        "predict_proba",
    ]
    ((own, raw),) = redis.hgetall("mutirao:workers").items()
    worker = json.loads(raw)
    assert own.decode().partition("#")[0] == worker["name"] == fleet.worker.name
    assert (worker["pid"], worker["processes"], worker["models"]["iris"]) == (fleet.worker.pid, 2, "1")


def test_accepted_content(fleet, stock):
    """A worker accepts JSON and the project's own binary form, and nothing else."""
    conf = stock.run(f"""
conf = app.control.inspect([{fleet.worker.name!r}], timeout=5).conf()[{fleet.worker.name!r}]
answer = conf["accept_content"], conf["result_accept_content"], conf["task_serializer"], conf["result_serializer"]
""")
    assert conf == [["json", "mutirao"], ["json"], "json", "json"]


def test_names_are_spelled_once():
    """The names of the contract are those of `queues`; priorities are kombu's steps."""
    assert (keyspace.TASK, keyspace.queue("iris"), keyspace.record_key("x")) == (
        "mutirao.predict",
        "mutirao.iris",
        "celery-task-meta-x",
    )
    assert keyspace.STEPS == {"high": 0, "normal": 3, "low": 6}
    assert (keyspace.MODELS, keyspace.WORKERS) == ("mutirao:models", "mutirao:workers")
    assert signature.MATRIX == "X"
