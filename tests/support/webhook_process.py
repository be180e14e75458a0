"""Real `mutirao webhooks` processes, and jobs that end with something to tell.

with WebhookProcess(server.url, hosts=receiver.origin) as webhooks, Jobs(server.url) as jobs:
    id = jobs.end(receiver.url)
"""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen
from typing import Any, Self

from mutirao import keyspace, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver
from support import waiting
from support.forked_processes import ForkedProcesses
from support.worker_process import BIN

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
_NUMBERS = itertools.count(1)


class WebhookProcess:
    """Starts in the constructor, and waits until it consumes; use it as a context manager.

    Args:
        url: the Redis.
        hosts: what may be called.
        env: over the test's own environment.
        wait: False for one that is not to start.
    """

    def __init__(
        self, url: str, hosts: str, *, threads: int = 16, env: Mapping[str, str] | None = None, wait: bool = True
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutirao-webhooks-"))
        self._processes = ForkedProcesses(self.folder / "watchdog.log")
        own = {"MUTIRAO_BROKER_URL": url, "MUTIRAO_WEBHOOK_HOSTS": hosts, "MUTIRAO_WEBHOOK_SECRET": SECRET}
        name = f"webhooks{next(_NUMBERS)}-{os.getpid()}@here"
        self.process: Popen[bytes] = self._processes.start(
            [str(BIN / "mutirao"), "webhooks", f"--threads={threads}", "--name", name],
            stage=0,
            grace_s=5,
            log=self.folder / "webhooks.log",
            env={**os.environ, **own, **(env or {})},
        )
        if wait:
            self.wait_logged("ready.")

    @property
    def log(self) -> str:
        return (self.folder / "webhooks.log").read_text(encoding="utf-8", errors="replace")

    def wait_logged(self, text: str) -> str:
        waiting.until(lambda: text in self.log or self.process.poll() is not None, what=lambda: self.log)
        assert text in self.log, self.log
        return self.log

    def stop(self) -> int:
        """Ask for the warm shutdown, and wait for it."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """Kill -9."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def close(self) -> None:
        self._processes.kill(below=1)
        self.process.wait(timeout=10)
        self._processes.end()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Jobs:
    """Submits jobs with webhooks, and ends them, without any worker: they are cancelled."""

    def __init__(self, url: str, **given: Any) -> None:
        self.settings = settings.load({}, broker_url=url, **given)
        self._core, self._redis = RedisBackend(self.settings, check=False), RedisDriver(self.settings)

    def end(self, webhook: str, count: int = 1) -> list[str]:
        """Submit and cancel."""
        ids = self._submit(webhook, count)
        self._redis.run(self._core.cancel_or_expire(ids, "revoked"))
        return ids

    def expire(self, webhook: str) -> None:
        """Submit, and look at it when its deadline has passed."""
        (id,) = self._submit(webhook, 1, expires_s=0.01)
        waiting.until(lambda: self._redis.run(self._core.record(id)).done)

    def close(self) -> None:
        self._redis.close()

    def _submit(self, webhook: str, count: int, expires_s: float | None = None) -> list[str]:
        ask = SubmitOptions(model="iris", webhook=webhook, expires_s=expires_s)
        return self._redis.run(self._core.submit(ask, [[[1.0]]] * count)).ids

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def wait_tried(redis: Any, tries: int) -> float:
    """Wait until a delivery waits after so many tries; say for how long it is to wait, in seconds."""
    at = waiting.until(
        lambda: [at for envelope, at in _held(redis) if json.loads(envelope)["headers"]["retries"] == tries]
    )
    seconds, micros = redis.time()
    return float(at[0] - seconds - micros / 1e6)


def _held(redis: Any) -> list[tuple[bytes, float]]:
    found: list[tuple[bytes, float]] = redis.zrange(keyspace.WEBHOOKS_HELD, 0, -1, withscores=True)
    return found


def pass_time(redis: Any) -> None:
    """Let the time come for all that waits."""
    for envelope in redis.zrange(keyspace.WEBHOOKS_HELD, 0, -1):
        redis.zadd(keyspace.WEBHOOKS_HELD, {envelope: 0}, xx=True)


def message(job_id: str) -> str:
    """What a job's end leaves in the list."""
    id = f"webhook-{job_id}"
    return json.dumps({
        "headers": {"id": id, "task": keyspace.WEBHOOK_TASK, "lang": "py", "root_id": id, "parent_id": None, "retries": 0},
        "properties": {"delivery_tag": id, "correlation_id": id, "body_encoding": None, "priority": 0,
                       "delivery_info": {"exchange": "", "routing_key": keyspace.WEBHOOKS}},
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "body": json.dumps([[job_id], {}, {}]),
    })  # fmt: skip


def unknown_but_literal(host: str, port: int) -> list[str]:
    """A resolver that knows addresses, and no name."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        raise socket.gaierror from None


def hosts(*receivers: Any) -> str:
    """What an operator allows so that these may be called."""
    return ",".join(f"http://127.0.0.1:{receiver.port}" for receiver in receivers)
