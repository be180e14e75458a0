"""What Celery's clients for Node can count on: celery-node, which polls, and celery-ts, which subscribes to a pattern."""

import pytest

from support import brokers, node_clients, sample_models

pytestmark = [brokers.redis_only, pytest.mark.skipif(node_clients.SKIPPED, reason=node_clients.MISSING)]


@pytest.fixture(scope="module")
def told(fleet):
    """What each client was told of three requests by place, one by name, and one that does not fit the model."""
    rows = sample_models.get("iris").data[::50].tolist()
    return rows, node_clients.run("clients.mjs", fleet.url, {"good": rows, "bad": [1.0]})


@pytest.mark.parametrize("client", ["celery-node", "celery-ts"])
def test_node_client_is_answered(told, client):
    """A client of another language submits and reads: each request the model's own answer, a failure Celery's form of one."""
    rows, said = told
    labels = sample_models.get("iris").model.predict(rows).tolist()
    answers, named, failure = (said[client][what] for what in ("answers", "named", "failure"))
    assert (answers, named) == ([[label] for label in labels], labels)
    assert failure["exc_type"] == "SignatureMismatch"
    assert failure["exc_message"] == ["model 'iris' takes X FP64[-1, 4], got shape [1, 1]"]
