"""Models of own code behind a real worker, asked through Redis and over HTTP."""

import textwrap

import httpx
import numpy as np
import pytest

from mutirao import Client, errors
from mutirao_worker.models.repository import Repository
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

MODELS = {
    "price": """
        import mutirao
        import utils

        class Model:
            def load(self, folder):
                self.base = float((folder / "base.txt").read_text())

            def predict(self, orders: list[dict], *, factor: float = 1.0) -> list[dict]:
                return [
                    {"price": utils.price(order, self.base) * factor, "city": order["city"]}
                    if order["km"] >= 0 else mutirao.InvalidInput(f"km is {order['km']}: it must be 0 or more")
                    for order in orders
                ]
    """,
    "reversed": """
        class Model:
            before_fork = False

            def predict(self, file: bytes) -> bytes:
                return file[::-1]
    """,
    "lengths": """
        import utils

        class Model:
            def predict(self, texts: list[str]) -> list[int]:
                return [utils.price(text) for text in texts]
    """,
}
UTILS = {
    "price": "def price(order, base): return base + order['km']\n",
    "lengths": "def price(text): return len(text)\n",
    "reversed": "",
}
ORDERS = [{"city": "são luís", "km": 3}, {"city": "recife", "km": 0, "tags": [[1], []]}]


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A worker of two processes that serves the models, and a gateway."""
    folder = tmp_path_factory.mktemp("python")
    repository = Repository(folder / "models")
    for name, code in MODELS.items():
        own = folder / name
        own.mkdir()
        (own / "model.py").write_text(textwrap.dedent(code))
        (own / "utils.py").write_text(UTILS[name])
        (own / "base.txt").write_text("10")
        repository.add(name, own)
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, concurrency=2),
        GatewayProcess(server.url) as gateway,
    ):
        yield server, gateway


@pytest.fixture(params=["redis", "http"])
def client(request, system):
    server, gateway = system
    with Client(server.url if request.param == "redis" else gateway.url) as client:
        yield client


def test_objects_go_in_and_come_out(client):
    """Plain Python objects are a request, with and without a parameter, alone and among many."""
    expected = [{"price": 13.0, "city": "são luís"}, {"price": 10.0, "city": "recife"}]
    assert client.predict("price", ORDERS, timeout=30)["predict"].tolist() == expected
    doubled = client.predict("price", ORDERS[:1], parameters={"factor": 2}, timeout=30)["predict"].tolist()
    assert doubled == [{"price": 26.0, "city": "são luís"}]
    many = [{"city": f"c{at}", "km": at} for at in range(200)]
    jobs = client.submit_many("price", many)
    assert [job.result(30)["predict"].tolist() for job in jobs] == [
        [{"price": 10.0 + at, "city": f"c{at}"}] for at in range(200)
    ]


def test_the_model_refuses_one_request(client):
    """Its own words reach the caller of the one request; its neighbours are answered."""
    jobs = client.submit_many("price", [{"city": "a", "km": at} for at in (1, -5, 2)])
    assert jobs[0].result(30)["predict"].tolist() == [{"price": 11.0, "city": "a"}]
    with pytest.raises(errors.InvalidInput, match=r"^km is -5: it must be 0 or more$"):
        jobs[1].result(30)
    assert jobs[2].result(30)["predict"].tolist() == [{"price": 12.0, "city": "a"}]
    with pytest.raises(errors.ModelFailed, match="raised KeyError: 'km'"):
        client.predict("price", [{}], timeout=30)
    with pytest.raises(errors.InvalidRequest, match="parameter 'factor' is text 'x': it must be a number"):
        client.predict("price", ORDERS, parameters={"factor": "x"})


def test_bytes_stay_bytes(client):
    """Any bytes go in and out exactly, also those that are text by chance; each process has loaded the model itself."""
    for file in (b"RIFF\x00\x01", bytes(range(256)), b"", "é".encode()):
        assert client.predict("reversed", [file], timeout=30)["predict"].tolist() == [file[::-1]]


def test_models_with_modules_of_one_name_are_served_side_by_side(client):
    """Each has its own utils, whichever was asked before."""
    for _ in range(3):
        assert client.predict("lengths", ["ab", "são"], timeout=30)["predict"].tolist() == [2, 3]
        assert client.predict("price", ORDERS[:1], timeout=30)["predict"].tolist()[0]["price"] == 13.0


def test_http_takes_objects_and_answers_documents(system):
    """Rows of a body are objects, V2 has texts of JSON with their mark, and a refusal is 400 with the model's words."""
    _, gateway = system
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        reply = http.post("/v2/models/price/infer", json={"rows": ORDERS, "parameters": {"factor": 2}}).json()
        (output,) = reply["outputs"]
        assert output["parameters"] == {"content_type": "json"}
        assert output["data"] == ['{"price":26.0,"city":"são luís"}', '{"price":20.0,"city":"recife"}']
        refused = http.post("/v2/models/price/infer", json={"rows": [{"city": "a", "km": -1}]})
        assert refused.status_code == 400
        assert refused.json()["error"] == "km is -1: it must be 0 or more"
        v2 = {"inputs": [{"name": "orders", "datatype": "BYTES", "shape": [1], "data": ['{"city": "x", "km": 1}']}]}
        assert http.post("/v2/models/price/infer", json=v2).json()["outputs"][0]["data"] == [
            '{"price":11.0,"city":"x"}'
        ]
        v2["inputs"][0]["data"] = ["nothing"]
        wrong = http.post("/v2/models/price/infer", json=v2)
        assert wrong.status_code == 400
        assert "row 0 is text 'nothing', which is not JSON" in wrong.json()["error"]
        unknown = http.post("/v2/models/price/infer", json={"rows": ORDERS, "parameters": {"facto": 2}})
        assert (unknown.status_code, unknown.json()["error"]) == (400, "parameter 'facto' is not one of factor")


def test_a_client_that_checks_nothing_is_checked_by_the_worker(system):
    """Without a check at the client the worker refuses what is no JSON, or a parameter of another type."""
    server, _ = system
    with Client(server.url, check=False) as client:
        with pytest.raises(errors.InvalidRequest, match="which is not JSON"):
            client.predict("price", {"orders": np.array(["nothing"])}, timeout=30)
        with pytest.raises(errors.InvalidRequest, match="parameter 'factor' is bool True"):
            client.predict("price", {"orders": ['{"city": "x", "km": 1}']}, parameters={"factor": True}, timeout=30)
