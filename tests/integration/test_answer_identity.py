"""Each answer is that of its own rows: whatever stood beside them in a batch, of whatever model, size and priority."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import sample_models
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

MODELS = ("iris", "forest", "houses")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three workers of one process each, so that batches are of all sizes and go through several hands."""
    repository = sample_models.repository(tmp_path_factory.mktemp("identity") / "models", *MODELS, max_batch_rows=16)
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, wait=False) as first,
        WorkerProcess(server.url, repository.root, wait=False) as second,
    ):
        first.wait_ready()
        second.wait_ready()
        with Fleet(server, repository, first).client() as client:
            yield client


ASKED = st.lists(
    st.tuples(
        st.sampled_from(MODELS),
        st.sampled_from(["high", "normal", "low"]),
        st.lists(st.integers(0, 60), min_size=1, max_size=20),  # rows of the sample; longer than a batch may be, too
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ASKED)
def test_each_answer_is_that_of_its_own_rows(three, asked):
    """What the model says of each row alone is what its request is answered, to the last bit for labels and closely for the rest."""
    jobs = [(three.submit(name, _rows(name, rows), priority=priority), name, rows) for name, priority, rows in asked]
    for job, name, rows in jobs:
        found = job.result(30)
        assert found["predict"].tolist() == _alone(name, "predict")[rows].tolist()
        np.testing.assert_allclose(found["predict_proba"], _alone(name, "predict_proba")[rows], rtol=1e-9)


def _rows(name, rows):
    data = sample_models.get(name).data
    return data.iloc[rows] if hasattr(data, "iloc") else data[rows]


def _alone(name, output):
    """What the model says of each row of its sample, one row a call."""
    if (name, output) not in _SAID:
        sample = sample_models.get(name)
        calls = [getattr(sample.model, output)(_rows(name, [row])) for row in range(61)]
        _SAID[name, output] = np.concatenate(calls)
    return _SAID[name, output]


_SAID: dict[tuple[str, str], np.ndarray] = {}
