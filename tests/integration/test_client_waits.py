"""How clients of Redis wait: one subscription for all that a process waits for, and hardly a look beside it."""

import concurrent.futures
import threading

import numpy as np

from mutirao import JobCancelled, ResultTimeout
from support import waiting
from support.client_kinds import subscribed
from support.redis_monitor import Monitor
from support.redis_servers import RedisServer

ROW = [5.1, 3.5, 1.4, 0.2]


def test_waiting_hardly_polls(direct):
    """While results are waited for, Redis is asked for all their records once a second, and nothing more."""
    with (
        RedisServer() as redis_server,
        direct(redis_server.url, check=False, timeout_s=1.0) as client,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        jobs = client.submit_many("iris", [ROW, ROW])
        waits = [pool.submit(job.result, 4.0) for job in jobs]
        waiting.until(lambda: subscribed(redis_server) == 1)
        began = redis_server.client().time()[0] + 1
        with Monitor(redis_server.url) as monitor:
            for wait in waits:
                assert isinstance(wait.exception(), ResultTimeout)
    asked = [command.split(" ") for at, command in monitor.commands if began <= at < began + 2]
    assert [len(command) for command in asked] in ([3], [3] * 2, [3] * 3)
    assert {command[0] for command in asked} == {"MGET"}


def test_a_thousand_waiters(direct):
    """A thousand threads wait for a thousand jobs over one subscription; each hears the end of its own."""
    heard = []

    def wait(job):
        try:
            job.result(60)
        except JobCancelled as exc:
            heard.append((job.id, exc.id))

    with RedisServer() as redis_server, direct(redis_server.url, check=False) as client:
        jobs = client.submit_many("iris", np.ones((1000, 4)))
        threads = [threading.Thread(target=wait, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        waiting.until(lambda: subscribed(redis_server) == 1)
        listening = redis_server.client().execute_command("CLIENT", "LIST", "TYPE", "pubsub").splitlines()
        assert [b" sub=1 " in line for line in listening] == [True]
        for job in jobs:
            assert job.cancel()
        for thread in threads:
            thread.join()
    assert sorted(heard) == sorted((job.id, job.id) for job in jobs)
