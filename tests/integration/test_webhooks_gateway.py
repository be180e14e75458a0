"""Webhooks from a request to the gateway to a call to its receiver."""

import contextlib

import pytest
import standardwebhooks

from support import brokers, waiting
from support.gateway_process import GatewayProcess
from support.webhook_process import SECRET, WebhookProcess, hosts
from support.webhook_receivers import Receiver

pytestmark = brokers.redis_only


class Whole:
    """A gateway, the fleet's worker, and a courier."""

    def __init__(self, gateway, receiver):
        self._client = gateway.client()
        self.receiver = receiver

    def post(self, model, document):
        return self._client.post(f"/v1/models/{model}/jobs", json=document)

    def told(self, id):
        """Wait until the receiver is told of a job; return the event, verified."""
        return waiting.until(
            lambda: next(
                (event for event in map(self._event, self.receiver.requests) if event["data"]["id"] == id), None
            )
        )

    def get(self, path):
        return self._client.get(path).json()

    def close(self):
        self._client.close()

    def _event(self, got):
        return standardwebhooks.Webhook(SECRET).verify(got.body, got.headers)


@pytest.fixture(scope="module")
def whole(fleet):
    with (
        Receiver() as receiver,
        GatewayProcess(fleet.url, webhook_hosts=hosts(receiver)) as gateway,
        WebhookProcess(fleet.url, hosts(receiver)),
        contextlib.closing(Whole(gateway, receiver)) as made,
    ):
        yield made


def test_from_a_post_to_a_post(whole):
    """A job is posted to the gateway with a webhook, a worker runs it, and the receiver is told where its result is."""
    answer = whole.post("iris", {"rows": [[5.1, 3.5, 1.4, 0.2]], "webhook": whole.receiver.url})
    assert answer.status_code == 202, answer.text
    event = whole.told(answer.json()["id"])
    assert event["type"] == "job.succeeded"
    assert event["data"] == whole.get(event["data"]["links"]["self"])
    result = whole.get(event["data"]["links"]["result"])
    assert result["outputs"][0]["data"] == [0]


def test_a_failed_job_is_told_of_too(whole):
    """A model that raises ends in an event that says why."""
    answer = whole.post("raises", {"rows": [[-1.0, 0.0, 0.0]], "webhook": whole.receiver.url})
    event = whole.told(answer.json()["id"])
    assert (event["type"], event["data"]["error"]["type"]) == ("job.failed", "ModelFailed")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/",
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/meta-data",
        "no url",
        "file:///x",
    ],
)
def test_a_webhook_that_may_not_be_is_refused_before_anything_is_queued(whole, fleet, url):
    """The gateway answers 400, names what is wrong, and no job is there."""
    before = fleet.server.client().dbsize()
    answer = whole.post("iris", {"rows": [[5.1, 3.5, 1.4, 0.2]], "webhook": url})
    assert (answer.status_code, answer.json()["type"]) == (400, "WebhookRefused")
    assert fleet.server.client().dbsize() <= before
