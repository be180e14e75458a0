"""A payload's values and the secrets of the system show up nowhere that people look: log, events, inspect, ps, errors."""

import contextlib
import os
import re
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from celery import Celery
from kombu import Connection

from mutirao import Client, ModelFailed, SignatureMismatch
from support import sample_models, waiting
from support.redis_servers import RedisServer
from support.stock_client import Raised, StockClient
from support.worker_process import Fleet, WorkerProcess

SECRET = 7351.26119  # a payload's value: it stands in every request below
WORD = "Xochiquetzal"  # and a word
PASSWORD = "h0rse-battery-staple"


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A worker behind a password, that logs all it can below debug."""
    root = tmp_path_factory.mktemp("private") / "models"
    sample_models.repository(root, "iris", "houses", "slow", "raises", "aborts", "nanoutput")
    repository = sample_models.repository(root, "hangs", time_limit_s=1.0)
    with RedisServer(password=PASSWORD) as server, WorkerProcess(server.url, repository.root, concurrency=2) as worker:
        yield Fleet(server, repository, worker)


class Events:
    """Catches every event of Celery while it is open."""

    def __init__(self, url):
        self.caught = []
        self._app = Celery(broker=url)
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._capture)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()
        self._app.close()

    def _capture(self):
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self.caught.append})
            with receiver.consumer_context() as (listening, _, _):
                self._ready.set()
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        listening.drain_events(timeout=0.2)


def _ask_everything(client, stock):
    """Send the values by our client and by a stock one; let requests succeed, fail, be refused, be shown while they run."""
    row = [[SECRET, 1, 2, 3]]
    client.predict("iris", np.array(row), timeout=20)
    client.predict("houses", {"area": [SECRET], "city": ["Mariana"], "rooms": [3]}, timeout=20)
    with Client(client.settings.broker_url, check=False) as unchecked:
        for model, data, kind in [
            ("iris", [[SECRET]], SignatureMismatch),
            ("houses", {"area": [SECRET], "city": [WORD], "rooms": [3]}, ModelFailed),
            ("raises", [[-1.0, SECRET, 0]], ModelFailed),
        ]:
            with pytest.raises(kind):
                unchecked.predict(model, data, timeout=20)
    for asking in [
        f"ask({row})",
        f"ask({row}, task_id='shown', argsrepr='shape only')",
        f"ask({{'inputs': [{{'name': 'X', 'datatype': 'FP64', 'shape': [1, 4], 'data': {row}}}]}})",
        f"ask([[{SECRET}]])",
        f"ask([[{SECRET}, {WORD!r}, 2, 3]])",
        f"ask([[-1, {SECRET}, 2]], 'raises')",
        f"ask([[-1, {SECRET}, 2]], 'aborts')",
        f"ask([[-1, {SECRET}, 2]], 'hangs')",
        f"ask([[-1, {SECRET}, 2]], 'nanoutput')",
        f"ask({{'inputs': {WORD!r}}})",
        f"ask({WORD!r})",
        f"ask({row}, compression='gzip')",
        f"ask({row}, expires=-1)",
        f"app.send_task('mutirao.predict', args=['iris'], kwargs={{'data': {SECRET}, 'word': {WORD!r}}}, queue='mutirao.iris')",
        f"app.send_task('mutirao.predict', args=['iris', {SECRET}, {WORD!r}], queue='mutirao.iris')",
        f"app.send_task('mutirao.train', args=[{SECRET}, {WORD!r}], kwargs={{'word': {WORD!r}}}, queue='mutirao.iris')",
        f"app.send_task('mutirao.predict', args=['iris', {row}], queue='mutirao.iris', headers={{'eta': 'soon'}})",
    ]:
        stock.run(f"{asking}.get(timeout=20, propagate=False)")


def _publish_rubbish(url):
    """Bodies that cannot be read, with the values in them."""
    texts = [
        f"[{SECRET}, {WORD}",
        f'["{WORD}", {{"{WORD}": {SECRET}}}, {{}}]',
        f'{{"task": "train", "args": [{SECRET}, "{WORD}"]}}',
    ]
    with Connection(url) as connection, connection.Producer() as producer:
        for at, text in enumerate(texts):
            for content_type in ("application/json", "application/x-mutirao", "application/x-yaml"):
                headers = {"task": "mutirao.predict", "id": f"rubbish-{at}-{content_type[-4:]}", "argsrepr": WORD}
                sending = {"routing_key": "mutirao.iris", "content_type": content_type, "content_encoding": "utf-8"}
                producer.publish(text.encode(), headers=headers, **sending)
                producer.publish(text.encode(), headers={}, **sending)
                producer.publish(text.encode(), headers=headers | {"compression": "gzip"}, **sending)
                producer.publish(text.encode(), headers=headers | {"expires": "tomorrow"}, **sending)


def _leaks(text):
    return re.findall(rf".*(?:{re.escape(str(SECRET))}|{WORD}).*", text)


def test_no_payload_in_log_or_events(private):
    """Whatever is sent, by whomever, and however it ends: neither the worker's log nor Celery's events hold a value of it."""
    with Client(private.url) as client, StockClient(private.url) as stock, Events(private.url) as events:
        _ask_everything(client, stock)
        _publish_rubbish(private.url)
        last = stock.run("r = ask([[1, 2, 3, 4]]); r.get(timeout=20); answer = r.id")
        waiting.until(
            lambda: any(event["type"] == "task-succeeded" and event["uuid"] == last for event in events.caught)
        )
    kinds = {event["type"] for event in events.caught}
    assert {"task-received", "task-started", "task-succeeded", "task-failed", "task-revoked"} <= kinds
    said = [event for event in events.caught if event["type"] != "task-sent"]
    assert _leaks("\n".join(map(repr, said))) == []
    assert _leaks(private.worker.log) == []
    shown = {event["args"] for event in said if event["type"] == "task-received"}
    assert {"iris: X 1x4 FP64", "iris: 1x4", "houses: area 1 FP64, city 1 BYTES, rooms 1 INT64"} <= shown
    failures = {event["exception"] for event in said if event["type"] == "task-failed"}
    assert "ModelFailed(model='raises', version='1', cause='ValueError')" in failures


def test_no_payload_in_inspect(private):
    """inspect active, reserved and query_task show a request by its shape."""
    with StockClient(private.url) as stock:
        ids = stock.run(f"answer = [ask([[1.5, {SECRET}, 0]], 'slow').id for _ in range(6)]")
        waiting.until(
            lambda: stock.run(f"answer = sum(AsyncResult(id, app=app).state == 'STARTED' for id in {ids})") == 2
        )
        shown = stock.run(f"""
import json
inspect = app.control.inspect([{private.worker.name!r}], timeout=5)
answer = json.dumps([inspect.active(), inspect.reserved(), inspect.query_task(*{ids}), inspect.stats()])
for id in {ids}:
    AsyncResult(id, app=app).get(timeout=20)
""")
    assert _leaks(shown) == []
    assert shown.count("slow: 1x3") > 2


def test_requester_alone_reads_the_reason(private):
    """The model's own words, which may quote the payload, reach the requester, who sent it, and nobody else."""
    with Client(private.url) as client, pytest.raises(ModelFailed) as caught:
        client.predict("houses", {"area": [1.0], "city": [WORD], "rooms": [3]}, timeout=20)
    assert WORD in str(caught.value)
    assert WORD not in repr(caught.value)


def test_no_password_anywhere(private, tmp_path):
    """Redis's password is in no command line, no log, no banner and no error."""
    processes = [psutil.Process(private.worker.pid), *private.worker.children]
    listing = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert PASSWORD not in listing
    assert PASSWORD not in private.worker.log
    assert "redis://:***@" in private.worker.log
    assert all(PASSWORD not in " ".join(process.cmdline()) for process in processes)
    with StockClient(private.url) as stock:
        conf = stock.run(
            f"import json; answer = json.dumps(app.control.inspect([{private.worker.name!r}], timeout=5).conf(with_defaults=True))"
        )
    assert PASSWORD not in conf


def test_no_password_in_the_log_of_a_lost_connection(tmp_path):
    """A worker that loses Redis, or never reached it, says where it looks for it, without the password."""
    root = sample_models.repository(tmp_path / "models", "iris").root
    with RedisServer(password=PASSWORD) as server, WorkerProcess(server.url, root) as worker:
        server.stop()
        log = worker.wait_logged("is away, connecting again")
        assert PASSWORD not in log
        server.start()


def test_only_json_and_our_own_content(private):
    """What a worker accepts is JSON and the binary form; nothing that could run code is among it."""
    program = (
        "from mutirao_worker.app import app; print(sorted(app.conf.accept_content), app.conf.result_accept_content)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "['json', 'mutirao'] ['json']"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../models",
        "/etc",
        "iris/1",
        "iris/../iris",
        "%2e%2e",
        "iris\x00",
        "~root",
        ".hidden",
        "iris\n",
        "CON",
        "\u0131ris",
    ],
)
def test_names_never_become_paths(private, name):
    """A model's name that is a path, or hides one, opens nothing: it is refused by its form, before any look-up."""
    with StockClient(private.url) as stock, pytest.raises(Raised) as caught:
        stock.run(f"app.send_task('mutirao.predict', args=[{name!r}, [[1]]], queue='mutirao.iris').get(timeout=20)")
    assert caught.value.name == "InvalidRequest"
    assert "is not allowed" in caught.value.text
