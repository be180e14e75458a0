"""What several modules share: clients of either kind; of bad input, who sends it, and a worker that has to outlive it."""

import msgspec
import pytest

from mutirao import Client, keyspace
from mutirao.registry import ModelInfo
from support.client_kinds import KINDS
from support.gateway_process import GatewayProcess
from support.redis_servers import RedisServer
from support.sample_models import IRIS_SIGNATURE
from support.stock_client import Raised


@pytest.fixture(params=KINDS)
def direct(request):
    """Make a client of either kind that speaks with Redis itself."""
    return KINDS[request.param]


@pytest.fixture(scope="module")
def own(fleet):
    """A client of ours that checks nothing before it queues, so that the worker has to."""
    with Client(fleet.url, check=False) as client:
        yield client


@pytest.fixture
def serves_the_next(fleet, own):
    """After the test the same worker still serves."""
    yield
    assert own.predict("iris", [[5.1, 3.5, 1.4, 0.2]], timeout=20)["predict"].tolist() == [0]
    assert fleet.worker.process.poll() is None


@pytest.fixture
def refused(stock):
    """Send what a stock client can send, with ask(...); return what its get() raised."""

    def send(asking):
        with pytest.raises(Raised) as caught:
            stock.run(f"{asking}.get(timeout=20)")
        return caught.value

    return send


@pytest.fixture(scope="module")
def unserved():
    """A Redis that knows a model which nobody serves, and a gateway of it."""
    with RedisServer() as server:
        server.client().hset(
            keyspace.MODELS, "iris", msgspec.json.encode(ModelInfo(name="iris", version="1", signature=IRIS_SIGNATURE))
        )
        with GatewayProcess(server.url) as process:
            yield server, process
