"""What a stock Celery client, in a process that cannot import this project, can count on."""

import json

import numpy as np
import pytest

from mutirao import Client, JobNotFound
from support import brokers, sample_models, waiting
from support.end_announcements import EndAnnouncements
from support.redis_monitor import Monitor
from support.stock_client import Raised
from support.worker_process import WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]


def test_blueprint_example_predicts(fleet, stock):
    """The line in the blueprint's contract, a bare nested list and nothing else, gets the model's answer."""
    answer = stock.run(
        "answer = app.send_task('mutirao.predict', args=['iris', [[5.1, 3.5, 1.4, 0.2]]], queue='mutirao.iris').get(timeout=20)"
    )
    model = sample_models.get("iris").model
    predict, proba = answer["outputs"]
    assert answer["model_name"] == "iris"
    assert answer["model_version"] == "1"
    assert predict == {"name": "predict", "datatype": "INT64", "shape": [1], "data": model.predict([ROW]).tolist()}
    assert (proba["name"], proba["datatype"], proba["shape"]) == ("predict_proba", "FP64", [1, 3])
    assert np.array_equal(proba["data"], model.predict_proba([ROW]))


def test_v2_request_predicts(stock):
    """A V2 request with a flat tensor, named outputs and an id gets a V2 response with that id and those outputs."""
    answer = stock.run(f"""
tensor = {{"name": "X", "shape": [2, 4], "datatype": "FP64", "data": {ROW + ROW}}}
answer = ask({{"id": "mine", "inputs": [tensor], "outputs": [{{"name": "predict"}}]}}).get(timeout=20)
""")
    assert answer == {
        "model_name": "iris",
        "model_version": "1",
        "id": "mine",
        "outputs": [{"name": "predict", "datatype": "INT64", "shape": [2], "data": [0, 0]}],
    }


def test_named_columns_predict(stock):
    """A model fitted on a DataFrame takes its columns, text and numbers, as V2 inputs."""
    answer = stock.run("""
columns = [("area", "FP64", [300.0, 50.0]), ("city", "BYTES", ["Ouro Preto", "Mariana"]), ("rooms", "INT64", [7, 1])]
request = {"inputs": [{"name": n, "datatype": t, "shape": [2], "data": data} for n, t, data in columns]}
answer = ask(request, "houses").get(timeout=20)
""")
    assert answer["outputs"][0] == {"name": "predict", "datatype": "BYTES", "shape": [2], "data": ["dear", "cheap"]}


@pytest.mark.parametrize(
    ("model", "data", "kind", "says"),
    [
        ("iris", [[1.0]], "SignatureMismatch", "model 'iris' takes X FP64[-1, 4], got shape [1, 1]"),
        ("raises", [[-1.0, 0.0, 0.0]], "ModelFailed", "model 'raises' version 1 raised ValueError: the sky is falling"),
        ("segfaults", [[-1.0, 0.0, 0.0]], "WorkerLostError", "signal 11 (SIGSEGV); job "),
        ("hangs", [[-1.0, 0.0, 0.0]], "TimeLimitExceeded", "2.0"),
    ],
)
def test_error_raises_at_get(stock, model, data, kind, says):
    """AsyncResult.get() raises a failure under its own name and with its sentence, though no class of ours can be imported."""
    with pytest.raises(Raised) as caught:
        stock.run(f"ask({data}, {model!r}).get(timeout=20)")
    assert caught.value.name == kind
    assert says in caught.value.text


def test_states_are_celery_s(fleet, stock):
    """A stock client sees STARTED while the model runs, then SUCCESS, with our record beside Celery's own fields."""
    id = stock.run("answer = ask([[1.5, 0, 0]], 'slow').id")
    waiting.until(lambda: stock.run(f"answer = app.AsyncResult({id!r}).state") == "STARTED")
    assert stock.run(f"r = app.AsyncResult({id!r}); r.get(timeout=20); answer = [r.state, r.successful()]") == [
        "SUCCESS",
        True,
    ]


def test_queued_record_does_not_confuse(fleet, stock):
    """A job of ours, still queued, is not ready to a stock client, who may wait for it, get it and forget it."""
    with Client(fleet.url) as client:
        first = client.submit("slow", [[0.5, 0, 0]])
        second = client.submit("slow", [[0.5, 0, 0]])
        third = client.submit("slow", [[0.3, 0, 0]])
        state, ready, outputs = stock.run(f"""
r = app.AsyncResult({third.id!r})
state, ready = r.state, r.ready()
answer = state, ready, r.get(timeout=20)["outputs"]
""")
        assert (state, ready) == ("QUEUED", False)
        assert outputs[0]["shape"] == [1]
        assert first.result(20)
        assert second.result(20)
        stock.run(f"app.AsyncResult({third.id!r}).forget()")
        with pytest.raises(JobNotFound):
            client.job(third.id).record()


def test_error_of_ours_reads_in_stock(fleet, stock):
    """A job that our client submitted and that failed raises in a stock client, by the id alone."""
    with Client(fleet.url) as client:
        job = client.submit("raises", [[-1.0, 0, 0]])
        with pytest.raises(Raised, match="the sky is falling"):
            stock.run(f"app.AsyncResult({job.id!r}).get(timeout=20)")


def test_group_answers_each(stock):
    """group() of several requests gets each its own answer, in order."""
    rows = sample_models.get("iris").data[::10].tolist()
    answer = stock.run(f"""
sigs = [app.signature("mutirao.predict", args=["iris", [row]], queue="mutirao.iris") for row in {rows}]
answer = [response["outputs"][0]["data"] for response in group(sigs, app=app).apply_async().get(timeout=30)]
""")
    assert answer == [[label] for label in sample_models.get("iris").model.predict(rows)]


@brokers.redis_only
def test_next_request_rings(fleet, stock):
    """A stock client rings no bell; after its first request a worker looks closely, and rings for those that follow."""
    with Monitor(fleet.url) as monitor:
        for _ in range(10):
            stock.run("ask([[1, 2, 3, 4]]).get(timeout=20)")
    assert sum(command.startswith("LPUSH MUTIRAO:BELL:MUTIRAO.IRIS") for _, command in monitor.inside) >= 5


@pytest.mark.parametrize("priority", [0, 3, 5, 6, 9])
def test_stock_priorities_are_served(stock, priority):
    """Each of Celery's priorities reaches a list that workers consume."""
    assert stock.run(f"answer = ask([[1, 2, 3, 4]], priority={priority}).get(timeout=20)['model_name']") == "iris"


def test_stock_expires_drops(fleet, stock):
    """Celery's own `expires` is kept: the request is revoked, and to our client expired."""
    with pytest.raises(Raised, match="expired") as caught:
        stock.run("ask([[1, 2, 3, 4]], expires=-1, task_id='late').get(timeout=20)")
    assert caught.value.name == "TaskRevokedError"
    with Client(fleet.url) as client:
        assert client.job("late").status == "expired"


def test_stock_revoke_drops(fleet, stock):
    """Celery's own revoke drops a request that a worker has not begun, and ends one that runs where told to."""
    stock.run("""
blockers = [ask([[1.5, 0, 0]], "slow") for _ in range(2)]
ask([[0, 0, 0]], "slow", task_id="revoked")
app.control.revoke("revoked", reply=True, timeout=5)
answer = [blocker.get(timeout=20)["model_name"] for blocker in blockers]
""")
    with pytest.raises(Raised, match="revoked") as caught:
        stock.run("app.AsyncResult('revoked').get(timeout=20)")
    assert caught.value.name == "TaskRevokedError"
    with Client(fleet.url) as client:
        assert client.job("revoked").status == "cancelled"


def test_stock_revoke_terminates(fleet, stock):
    """revoke(terminate=True) ends a prediction that runs, its process too, and the next request is served."""
    id = stock.run("answer = ask([[50, 0, 0]], 'slow').id")
    waiting.until(lambda: stock.run(f"answer = app.AsyncResult({id!r}).state") == "STARTED")
    before = {child.pid for child in fleet.worker.children}
    stock.run(f"app.control.revoke({id!r}, terminate=True)")
    with pytest.raises(Raised, match="terminated"):
        stock.run(f"app.AsyncResult({id!r}).get(timeout=20)")
    waiting.until(lambda: len({child.pid for child in fleet.worker.children} - before) == 1)
    assert stock.run("answer = ask([[1, 2, 3, 4]]).get(timeout=20)['model_name']") == "iris"
    with Client(fleet.url) as client:
        assert client.job(id).status == "cancelled"


def test_status_without_queued_record(fleet, stock):
    """A stock request has no record until a worker begins it; from then on our client knows its state, times and worker."""
    id = stock.run("r = ask([[1, 2, 3, 4]]); r.get(timeout=20); answer = r.id")
    with Client(fleet.url) as client:
        record = client.job(id).record()
    assert record.state == "succeeded"
    assert record.job.worker == fleet.worker.name
    assert (record.job.model, record.job.version) == ("iris", "1")
    assert record.job.queued_at is None
    assert record.job.started_at is not None
    assert record.job.finished_at is not None
    assert record.job.started_at <= record.job.finished_at


def test_ignore_result_is_kept_to(fleet, stock):
    """A stock client that wants no result gets none, and costs no harm."""
    assert stock.run("answer = ask([[1, 2, 3, 4]], ignore_result=True, task_id='unheard').id") == "unheard"
    fleet.worker.wait_logged("unheard first")


@pytest.mark.parametrize(
    "given",
    [
        "kwargs={'model': 'iris', 'request': [[1, 2, 3, 4]]}",
        "args=['iris'], kwargs={'request': [[1, 2, 3, 4]]}",
        "args=[[[1, 2, 3, 4]]], kwargs={'model': 'iris'}",
    ],
)
def test_arguments_by_name(fleet, stock, given):
    """Model and request may be given by name, or one of them by name and the other by place; it is a request like any other."""
    sent = f"app.send_task('mutirao.predict', {given}, queue='mutirao.houses')"  # of which nobody has to know the model
    id = stock.run(f"r = {sent}; r.get(timeout=20); answer = r.id")
    with Client(fleet.url) as client:
        assert client.job(id).record().job.model == "iris"


def test_chain_feeds_the_request(stock):
    """The result of another task, in a chain, is the request of the next one, which names the model."""
    answer = stock.run("""
from celery.contrib.testing.worker import start_worker
@app.task(name="prepare")
def prepare(row):
    return [row]
asked = app.signature("mutirao.predict", kwargs={"model": "iris"}, queue="mutirao.iris")
with start_worker(app, pool="solo", queues="celery", perform_ping_check=False, shutdown_timeout=30):
    answer = (prepare.s([5.1, 3.5, 1.4, 0.2]) | asked)().get(timeout=20)["outputs"][0]["data"]
""")
    assert answer == [0]


def test_children_are_named(stock):
    """The record of a request names what was run after it: the rest of a chain, callbacks, a group."""
    chained, linked, grouped = stock.run("""
def asked():
    return app.signature("mutirao.predict", args=["iris", [[1, 2, 3, 4]]], queue="mutirao.iris", immutable=True)
def ended(result):
    result.get(timeout=20)
    return result
def ids(results):
    return [result.id for result in results]
last = ended((asked() | asked())())
answer = [[ids(last.parent.children), [last.id]]]
first = ended(asked().apply_async(link=[asked().set(task_id="after"), asked()]))
linked = [ended(child).id for child in first.children]
answer.append([linked[:1], ["after"], len(linked)])
last = (asked() | group(asked(), asked()))()
last.get(timeout=20)
answer.append([ids(last.parent.children[0].results), ids(last.results)])
""")
    assert chained[0] == chained[1]
    assert (linked[0], linked[2]) == (linked[1], 2)
    assert grouped[0] == grouped[1]


@brokers.redis_only
def test_end_is_announced_to_a_pattern(fleet, stock):
    """Who listens to celery-task-meta-* hears of each end that a stock client waits for, and of none that our own client hears of."""
    with fleet.client() as client, EndAnnouncements(fleet.url) as commits:
        stock.run("ask([[1, 2, 3, 4]], task_id='patterned').get(timeout=20)")
        stock.run("ask([[1, 2, 3, 4]], task_id='unasked')")
        client.predict("iris", [ROW])
        waiting.until(lambda: commits.ended.keys() >= {"patterned", "unasked"} and commits.grouped)
        assert not commits.grouped.keys() & commits.ended.keys()


@pytest.mark.parametrize("how", ["ask([[1, 2, 3, 4]], link=then)", "chord([asked, asked])(then)", "(asked | then)()"])
def test_canvas_hands_the_response_on(stock, how):
    """link, chord and chain hand the response on to the next task, here one that refuses it, since it is no request."""
    stock.run(f"""
from celery import chord
asked = app.signature("mutirao.predict", args=["iris", [[1, 2, 3, 4]]], queue="mutirao.iris")
then = app.signature("mutirao.predict", queue="mutirao.iris", task_id={how!r})
{how}
""")
    with pytest.raises(Raised, match=r"mutirao.predict takes \(model, request\), got 1"):
        stock.run(f"app.AsyncResult({how!r}).get(timeout=20)")


def test_result_document_is_celery_s(fleet, stock):
    """The record under celery-task-meta-<id> is Celery's own document: its fields, and ours under `job` alone."""
    id = stock.run("r = ask([[1, 2, 3, 4]]); r.get(timeout=20); answer = r.id")
    document = json.loads(fleet.server.client().get(f"celery-task-meta-{id}"))
    assert document.keys() == {"status", "result", "traceback", "children", "date_done", "task_id", "job"}
    assert (document["status"], document["task_id"], document["traceback"]) == ("SUCCESS", id, None)
    assert document["result"]["outputs"]
    assert document["date_done"].endswith("+00:00")
    assert 0 < fleet.server.client().ttl(f"celery-task-meta-{id}") <= 86_400


def test_failure_document_is_celery_s(fleet, stock):
    """A failure's document has Celery's exc_type, exc_message and exc_module, and the model's traceback."""
    id = stock.run("r = ask([[-1, 0, 0]], 'raises'); r.get(timeout=20, propagate=False); answer = r.id")
    document = json.loads(fleet.server.client().get(f"celery-task-meta-{id}"))
    assert document["status"] == "FAILURE"
    assert document["result"]["exc_type"] == "ModelFailed"
    assert document["result"]["exc_module"] == "mutirao.errors"
    assert document["result"]["exc_message"] == ["model 'raises' version 1 raised ValueError: the sky is falling"]
    assert "bad_models.py" in document["traceback"]


def test_plain_celery_serves_alike(redis_server, tmp_path):
    """`celery -A mutirao_worker.app worker` serves every model, as `mutirao worker` does, and shows the same banner."""
    root = sample_models.repository(tmp_path / "models", "iris").root
    with WorkerProcess(redis_server.url, root, command="celery") as worker, Client(redis_server.url) as client:
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
        assert f"mutirão worker {worker.name}" in worker.log
        assert [(info.name, info.workers) for info in client.models()] == [("iris", 1)]


@pytest.mark.parametrize(
    "args", [("mutirao", "--only", "iris"), ("mutirao", "--models", "iris"), ("celery", "-Q", "mutirao.iris")]
)
def test_some_models_only(redis_server, tmp_path, args):
    """--only, and equally -Q, serves some models: the others stay queued, and are not announced."""
    root = sample_models.repository(tmp_path / "models", "iris", "slow").root
    command, *rest = args
    with (
        WorkerProcess(redis_server.url, root, command=command, args=rest),
        Client(redis_server.url, check=False) as client,
    ):
        left = client.submit("slow", [[0.0, 0, 0]])
        assert client.predict("iris", [ROW], timeout=20)["predict"].tolist() == [0]
        assert left.status == "queued"
        assert brokers.queued(redis_server, "slow") == 1
        assert [info.name for info in client.models()] == ["iris"]


def test_inspect_works(fleet, stock):
    """Celery's own remote control answers: ping, registered, active_queues, active; what runs is shown by its shape."""
    id = stock.run("answer = ask([[1.5, 0, 0]], 'slow').id")
    waiting.until(lambda: stock.run(f"answer = app.AsyncResult({id!r}).state") == "STARTED")
    ping, registered, active_queues, active = stock.run(f"""
inspect = app.control.inspect([{fleet.worker.name!r}], timeout=5)
answer = [found[{fleet.worker.name!r}] for found in (inspect.ping(), inspect.registered(), inspect.active_queues(), inspect.active())]
""")
    assert ping == {"ok": "pong"}
    assert registered == ["mutirao.predict"]
    assert {"mutirao.iris", "mutirao.slow"} <= {queue["name"] for queue in active_queues}
    (running,) = [one for one in active if one["id"] == id]
    assert running["args"] == ["slow: 1x3"]
    stock.run(f"app.AsyncResult({id!r}).get(timeout=20)")
