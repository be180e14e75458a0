"""The fleet at a glance: what a snapshot shows of models, queues and workers, and to whom."""

import pytest

from mutirao.gateway.auth.authenticator import ANYBODY, Caller
from mutirao.gateway.state.fleet import FleetSnapshot
from mutirao.queue_stats import QueueDepth
from mutirao.registry import ModelInfo, Registry, WorkerInfo

NOW = 1_800_000_000.0
WORKERS = (
    WorkerInfo(
        name="w1@a", pid=1, processes=2, cores=4, models={"iris": "2"}, rates={"iris": 30.0, "gone": 1.5}, memory_bytes=7,
        speeds={"iris": 1_000.0}, batches={"iris": 4.0}, started_at=NOW - 60,
    ),
    WorkerInfo(
        name="w2@b", pid=2, processes=1, models={"iris": "2"}, rates={"iris": 10.0}, speeds={"iris": 500.0}, batches={"iris": 8.0}
    ),
)  # fmt: skip
MODELS = {
    "iris": ModelInfo(name="iris", version="2", versions=("1", "2"), runtime="sklearn", workers=2),
    "away": ModelInfo(name="away", version="1", speed=100.0),
    "broken": ModelInfo(name="broken", version="1", state="unavailable", reason="its file is damaged"),
}
LINES = {
    "iris": (
        QueueDepth("iris", "", 10, 300, 1.0),
        QueueDepth("iris", "crm", 2, 20, 5.0),
        QueueDepth("iris", "shop", 0, 0, None),
    ),
    "away": (QueueDepth("away", "crm", 3, 3, None),),
}


def shown(caller=ANYBODY):
    snapshot = FleetSnapshot(NOW, Registry(models=MODELS, workers=WORKERS), LINES).shown_to(caller)
    return snapshot, {row.name: row for row in snapshot.models}


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("iris", "ready", True),
        ("iris", "reason", ""),
        ("iris", "workers", 2),
        ("iris", "versions", ("1", "2")),
        ("iris", "requests", 12),
        ("iris", "rows", 320),
        ("iris", "oldest_s", 5.0),
        ("iris", "rate_per_s", 40.0),
        ("iris", "batch_rows", 6.0),
        ("iris", "drain_s", pytest.approx(320 / 1_500)),
        ("away", "ready", False),
        ("away", "reason", "no live worker serves it"),
        ("away", "requests", 3),
        ("away", "oldest_s", None),
        ("away", "drain_s", None),
        ("broken", "ready", False),
        ("broken", "reason", "its file is damaged"),
        ("broken", "requests", None),
        ("broken", "rows", None),
        ("broken", "drain_s", None),
    ],
)
def test_a_model_is_shown_as_it_is(model, field, value):
    """Each figure is summed over workers and tenants; a model without a worker is not ready, says why, and does not drain; where
    nobody can look into a queue, nothing is said of it.
    """
    assert getattr(shown()[1][model], field) == value


def test_models_stand_in_the_order_of_their_names():
    """Models are sorted, so that a row stays where it is."""
    assert list(shown()[1]) == ["away", "broken", "iris"]


def test_workers_are_shown_to_whoever_operates():
    """A worker's rate is over all its models; the scope operate shows it, and so does an open gateway."""
    operator = Caller(tenant="ops", key_id="k", scopes=("operate:*",))
    for caller in (ANYBODY, operator):
        snapshot, rows = shown(caller)
        assert [worker.name for worker in snapshot.workers] == ["w1@a", "w2@b"]
        assert (snapshot.workers[0].cores, snapshot.workers[0].memory_bytes, snapshot.workers[0].rate_per_s) == (
            4,
            7,
            31.5,
        )
        assert rows["iris"].requests == 12


def test_a_tenant_sees_its_own():
    """A key without operate sees the models that it may read, of what waits its own, and no worker; how soon a queue drains counts all."""
    snapshot, rows = shown(Caller(tenant="crm", key_id="k", scopes=("read:iris", "predict:*")))
    assert list(rows) == ["iris"]
    assert snapshot.workers is None
    assert (rows["iris"].requests, rows["iris"].rows, rows["iris"].oldest_s) == (2, 20, 5.0)
    assert rows["iris"].drain_s == pytest.approx(320 / 1_500)
    assert shown(Caller(tenant="shop", key_id="k", scopes=("read:*",)))[1]["iris"].requests == 0


def test_a_fleet_without_anything_is_empty():
    """No models and no workers make an empty snapshot."""
    snapshot = FleetSnapshot(NOW, Registry(models={}, workers=()), {}).shown_to(ANYBODY)
    assert (snapshot.models, snapshot.workers, snapshot.at) == ((), (), NOW)
