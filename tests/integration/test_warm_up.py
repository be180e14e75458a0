"""Models whose warm-up hangs or ends its process: they are unavailable with that reason, and the others are served."""

import joblib
import numpy as np
import pytest

from mutirao import Client, ModelUnavailable, settings
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver
from support import brokers, probe_models, sample_models, waiting
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

REASONS = {
    "deadly": "its warm-up ended its process, 2 times",
    "stuck": "its warm-up did not end within 1 s (MUTIRAO_WARM_UP_S)",
}


@pytest.fixture(scope="module")
def hurt(tmp_path_factory):
    """A worker of two processes, two of whose models cannot be warmed up without harm."""
    folder = tmp_path_factory.mktemp("hurt")
    repository = sample_models.repository(folder / "models", "iris")
    for kind in (probe_models.Deadly, probe_models.Stuck):
        file = folder / f"{kind.__name__}.joblib"
        joblib.dump(kind().fit(np.zeros((2, 3))), file)
        repository.add(kind.__name__.lower(), file)
    env = {"STUCK": "1", "MUTIRAO_WARM_UP_S": "1"}
    with RedisServer() as server, WorkerProcess(server.url, repository.root, concurrency=2, env=env) as worker:
        yield Fleet(server, repository, worker)


def _catalog(hurt):
    given = settings.load({}, **brokers.broker_of(hurt.url))
    driver = RedisDriver(given)
    try:
        return driver.run(RedisBackend(given, check=False).catalog())
    finally:
        driver.close()


def test_others_are_served_beside_models_that_cannot_be_warmed_up(hurt):
    """A model whose warm-up hangs in native code, and one that ends its process, cost the others seconds, and are told by name."""
    with Client(hurt.url, check=False) as client:
        assert client.predict("iris", sample_models.get("iris").data[:1], timeout=60)["predict"].shape == (1,)
        waiting.until(
            lambda: (
                {name: model.reason for name, model in _catalog(hurt).models.items() if model.state != "ready"}
                == REASONS
            ),
            what=lambda: hurt.worker.log,
        )
        for name, reason in REASONS.items():
            with pytest.raises(ModelUnavailable) as caught:
                client.predict(name, [[1.0, 2.0, 3.0]], timeout=20)
            assert reason in str(caught.value)
