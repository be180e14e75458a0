"""A worker that publishes no task events, until somebody asks for them."""

from celery import Celery

from mutirao import Client
from support import brokers, sample_models
from support.event_listener import EventListener
from support.redis_servers import RedisServer
from support.worker_process import WorkerProcess

ROW = [5.1, 3.5, 1.4, 0.2]


def test_no_events(tmp_path):
    """With --no-events no request has events, and from `enable_events` on each has."""
    repository = sample_models.repository(tmp_path / "models", "iris")
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, args=["--no-events"]),
        EventListener(server.url) as heard,
        Client(server.url) as client,
    ):
        before = client.submit("iris", [ROW])
        before.result(30)
        with Celery(broker=brokers.broker_of(server.url)["broker_url"]) as app:
            (said,) = app.control.enable_events(reply=True, timeout=5)
        assert "task events enabled" in str(said)
        after = client.submit("iris", [ROW])
        after.result(30)
        heard.wait_ended([after.id])
        assert heard.types(after.id) == ["task-received", "task-started", "task-succeeded"]
        assert heard.types(before.id) == []
