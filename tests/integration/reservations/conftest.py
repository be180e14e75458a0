"""A Redis with queues of iris and forest, and as many workers and requests as a test asks for."""

import numpy as np
import pytest

from mutirao import Client, settings
from mutirao_worker.engine.leases import Leases
from support.redis_servers import RedisServer
from support.reservations import QUEUE


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(server):
    client = server.client()
    client.flushall()
    return client


@pytest.fixture
def worker(server, redis):
    """Make a worker's hold on requests: worker("w1", lease_s=1); what it found when it first looked is worker.first."""
    made = []

    def make(name, *names, **given):
        found = Leases(settings.load({}, broker_url=server.url, **given), f"{name}@host")
        made.append(found)
        make.first = found.renew_and_adopt(names or [QUEUE])  # type: ignore[attr-defined]
        return found

    yield make
    for each in made:
        each.close()


@pytest.fixture
def submit(server, redis):
    """Submit as our own client does: submit("a", "b", priority="low")."""
    with Client(server.url, check=False) as client:

        def send(*ids, model="iris", **asked):
            client.submit_many(model, np.ones((len(ids), 4)), ids=list(ids), **asked)

        yield send
