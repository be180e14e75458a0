"""The Open Inference Protocol as an official client speaks it."""

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from support import sample_models

IRIS = sample_models.get("iris")
HOUSES = sample_models.get("houses")


@pytest.fixture(scope="module")
def server(gateway):
    """The official client, of the gateway."""
    client = triton.InferenceServerClient(gateway.url.removeprefix("http://"))
    yield client
    client.close()


def given(name, array, datatype, *, binary):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def iris(rows=3, *, binary=True):
    return [given("X", IRIS.data[:rows], "FP64", binary=binary)]


def houses(rows=3, *, binary=True):
    frame = HOUSES.data[:rows]
    text = frame["city"].to_numpy(dtype=object)
    return [
        given("area", frame["area"].to_numpy(dtype=float), "FP64", binary=binary),
        given("city", text if not binary else np.char.encode(text.astype(str)).astype(object), "BYTES", binary=binary),
        given("rooms", frame["rooms"].to_numpy(dtype=float), "FP64", binary=binary),
    ]


def test_the_server_says_what_it_is(server):
    """Metadata, liveness and readiness answer as the client reads them."""
    assert server.is_server_live()
    assert server.is_server_ready()
    metadata = server.get_server_metadata()
    assert metadata["name"] == "mutirao"
    assert set(metadata["extensions"]) == {"binary_tensor_data", "model_repository", "schedule_policy"}


def test_a_model_says_what_it_takes(server):
    """A model's metadata has its name, versions, platform, inputs and outputs, by version too."""
    assert server.is_model_ready("iris")
    assert server.is_model_ready("iris", "1")
    metadata = server.get_model_metadata("iris", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}]
    assert {"name": "predict", "datatype": "INT64", "shape": [-1]} in metadata["outputs"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("answer_binary", [True, False])
def test_a_prediction_is_the_models_own(server, binary, answer_binary):
    """JSON and raw tensors, in and out, in any combination, give what the model itself says; the request's id is echoed."""
    wanted = [triton.InferRequestedOutput(name, binary_data=answer_binary) for name in ("predict", "predict_proba")]
    answer = server.infer("iris", iris(binary=binary), outputs=wanted, request_id="seven", model_version="1")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_name"] == "iris"
    assert answer.as_numpy("predict").tolist() == IRIS.expected()[:3].tolist()
    assert np.array_equal(answer.as_numpy("predict_proba"), IRIS.expected("predict_proba")[:3])


@pytest.mark.parametrize("binary", [True, False])
def test_text_goes_in_and_out(server, binary):
    """Columns of text and numbers, and labels of text, arrive whole in either form."""
    wanted = [triton.InferRequestedOutput("predict", binary_data=binary)]
    answer = server.infer("houses", houses(binary=binary), outputs=wanted).as_numpy("predict")
    found = [value.decode() if isinstance(value, bytes) else str(value) for value in answer.tolist()]
    assert found == HOUSES.expected()[:3].tolist()


def test_forms_may_differ_by_output(server):
    """One output raw and another in JSON stand in one answer."""
    wanted = [triton.InferRequestedOutput("predict_proba"), triton.InferRequestedOutput("predict", binary_data=False)]
    answer = server.infer("iris", iris(), outputs=wanted)
    assert "data" in answer.get_output("predict")
    assert "binary_data_size" in answer.get_output("predict_proba")["parameters"]
    assert np.array_equal(answer.as_numpy("predict_proba"), IRIS.expected("predict_proba")[:3])


def test_the_schedule_policy_is_honoured(server, http):
    """The client's priority and timeout, in microseconds, are those of the job."""
    answer = server.infer("iris", iris(), priority=1, timeout=60_000_000)
    assert answer.as_numpy("predict") is not None
    body = {"rows": IRIS.data[:1].tolist(), "parameters": {"priority": 1, "timeout": 60_000_000}}
    job = http.post("/v1/models/iris/jobs", json=body).json()
    assert job["priority"] == "high"
    assert 59 < job["expires_at"] - job["queued_at"] < 61


def test_the_repository_is_listed(server):
    """The index has every model with its state; the client reads it."""
    index = {row["name"]: row for row in server.get_model_repository_index()}
    assert index["iris"]["state"] == "READY"
    assert index["iris"]["version"] == "1"


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_loading_is_refused_with_the_way_to_do_it(server, call):
    """Load and unload say that they are not done over HTTP, and what is done instead."""
    with pytest.raises(InferenceServerException) as caught:
        getattr(server, call)("iris")
    assert "mutirao models add" in caught.value.message()
    assert caught.value.status() == "501"


@pytest.mark.parametrize(
    ("model", "version", "says"),
    [("nope", "", "is not served"), ("iris", "9", "its active version is 1")],
)
def test_what_is_not_served_is_named(server, model, version, says):
    """An unknown model or version is 404, with those that there are."""
    with pytest.raises(InferenceServerException) as caught:
        server.infer(model, iris(), model_version=version)
    assert says in caught.value.message()
    assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([given("Y", IRIS.data[:1], "FP64", binary=True)], "'Y'"),
        ([given("X", IRIS.data[:1, :3], "FP64", binary=True)], "[1, 3]"),
        ([given("X", np.array([["a", "b", "c", "d"]], dtype=object), "BYTES", binary=True)], "got text"),
    ],
)
def test_what_does_not_fit_is_said(server, inputs, says):
    """Inputs of other names, shapes or types than the model's are 400 with the reason, before anything is queued."""
    with pytest.raises(InferenceServerException) as caught:
        server.infer("iris", inputs)
    assert says in caught.value.message()
    assert caught.value.status() == "400"


def test_bf16_is_refused_by_name(http):
    """A datatype that no array here has is named in the refusal."""
    tensor = {"name": "X", "datatype": "BF16", "shape": [1, 4], "data": [1, 2, 3, 4]}
    answer = http.post("/v2/models/iris/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert "BF16" in answer.json()["error"]


def test_a_body_may_be_one_raw_tensor(http):
    """A header length of 0 stands for a body that is the only input; all outputs come back raw."""
    answer = http.post(
        "/v2/models/iris/infer", content=IRIS.data[:2].tobytes(), headers={"Inference-Header-Content-Length": "0"}
    )
    assert answer.status_code == 200
    head = int(answer.headers["inference-header-content-length"])
    assert len(answer.content) == head + 2 * 8 + 2 * 3 * 8
    assert np.frombuffer(answer.content[head : head + 16], "<i8").tolist() == IRIS.expected()[:2].tolist()


def test_the_models_failure_is_told(server):
    """A model that raises is 500 with what it raised."""
    data = sample_models.get("raises").data[:1].copy()
    data[0, 0] = -1.0
    with pytest.raises(InferenceServerException) as caught:
        server.infer("raises", [given("X", data, "FP64", binary=True)])
    assert caught.value.status() == "500"
    assert "raised" in caught.value.message()
