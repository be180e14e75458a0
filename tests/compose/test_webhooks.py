"""Webhooks from the containers: off until they are asked for, and then as closed as the rest."""

import json

import httpx
import pytest
from standardwebhooks import Webhook

from compose.stack import assert_closed, docker, missing
from support.webhook_receivers import Receiver

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def test_a_receiver_outside_is_told_of_a_jobs_end(two_workers):
    """With --profile webhooks a job's end is POSTed, signed with the secret of make-env; Redis refuses the courier nothing."""
    stack = two_workers
    told = stack.compose("run", "--rm", "operator", "keys", "add", "crm", "--json").stdout
    key = {"Authorization": f"Bearer {json.loads(told.splitlines()[-1])['token']}"}
    stack.compose("--profile", "webhooks", "up", "--detach", "--no-recreate", "webhooks")
    stack.wait_health("webhooks", "healthy")
    stack.wait_health("gateway", "healthy")
    (courier,), (gateway,) = stack.containers("webhooks"), stack.containers("gateway")
    assert_closed(courier)
    url = f"http://{docker('port', gateway['Id'], '8000').split()[0]}/v1/models/iris/jobs"
    given = {"rows": [[5.1, 3.5, 1.4, 0.2]], "webhook": f"http://receiver.test:{stack.webhook_port}/hook"}
    with Receiver(port=stack.webhook_port, host="0.0.0.0") as receiver:
        job = httpx.post(url, json=given, headers=key, trust_env=False).json()
        (received,) = receiver.wait(timeout_s=60)
    event = Webhook(stack.passwords["MUTIRAO_WEBHOOK_SECRET"]).verify(received.body, received.headers)
    assert (event["type"], event["data"]["id"]) == ("job.succeeded", job["id"])
    assert stack.refused() == []
