"""Bad input through a real worker: each requester gets a terminal state with its reason, and the worker serves the next one."""

import numpy as np
import pytest

from mutirao import IdTaken, InvalidRequest, ModelNotFound, SignatureMismatch, errors
from support import brokers, sample_models

pytestmark = pytest.mark.usefixtures("serves_the_next")

ROW = [5.1, 3.5, 1.4, 0.2]


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
        ([[1, 2, 3, None]], "SignatureMismatch", "takes no missing value for X FP64[-1, 4], and row 0, column 3 is missing"),
        ([[1, 2, 3, {"a": 1}]], "SignatureMismatch", "row 0, column 3 is of type dict"),
        ([[1, 2, 3, float("nan")]], "InvalidTensor", "has NaN at [0, 3]: JSON cannot carry it"),
        ([[1, 2, 3, float("-inf")]], "InvalidTensor", "has infinity at [0, 3]"),
        ("text", "InvalidRequest", "neither a V2 inference request nor a nested list"),
        (7, "InvalidRequest", "neither a V2 inference request nor a nested list"),
        (None, "InvalidRequest", "neither a V2 inference request nor a nested list"),
        ({}, "InvalidRequest", "missing required field `inputs`"),
        ({"inputs": []}, "SignatureMismatch", "takes inputs 'X', got none"),
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
        (
            "args=['iris']",
            "got 1 arguments and options []: where the other one comes from a task before, give the model as",
        ),
        ("args=['iris', [[1]], 3]", "takes (model, request), got 3 arguments"),
        ("kwargs={'model': 'iris'}", "options ['model']"),
        (
            "args=['iris'], kwargs={'model': 'iris', 'request': [[1]]}",
            "got 1 arguments and options ['model', 'request']",
        ),
        ("args=['iris'], kwargs={'m' * 1_000_000: 1}", f"options ['{'m' * 64}']"),
        ("args=['iris', [[1]]], kwargs={'fast': True}", "options ['fast']"),
    ],
)
def test_wrong_arguments(refused, sending, says):
    """Another number of arguments, or options that are not there, are named."""
    raised = refused(f"app.send_task('mutirao.predict', {sending}, queue='mutirao.iris')")
    assert raised.name == "InvalidRequest"
    assert says in raised.text


@pytest.mark.parametrize("name", ["iris\x06\x163", "iris\x1b[31m", "iris\n", "\x00", "../iris", "IRIS", "", "é"])
def test_queue_names_with_control_characters(fleet, own, name):
    """A model's name that would make an odd queue name is refused before anything is queued."""
    before = _records(fleet)
    with pytest.raises(InvalidRequest, match="model name"):
        own.submit(name, [ROW])
    assert _records(fleet) == before


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
    with pytest.raises(InvalidRequest, match=r"is not allowed: it must be (text, )?1 to 128 of"):
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
    frame = sample_models.get("houses").data[:2]
    for wrong, says in [
        (frame.drop(columns="city"), "without 'city'"),
        (frame.rename(columns={"city": "town"}), "without 'city' and with 'town'"),
        (frame.assign(area="large"), "area"),
    ]:
        with pytest.raises(SignatureMismatch, match=says):
            client.submit("houses", wrong)
