"""What a caller of ours writes wrongly is told in a sentence, before anything is queued."""

import asyncio
import copy
import pickle
from datetime import timedelta

import msgspec
import pytest

from mutirao import AsyncClient, Client, errors
from mutirao.registry import ModelInfo
from mutirao.wire.signature import InputSpec, OutputSpec, Signature

TAKES = Signature(
    inputs=(InputSpec("X", "FP64", (-1, 2)),), outputs=(OutputSpec("predict", "FP64", (-1,), default=True),)
)
ROW = [[1.0, 2.0]]
WRONG = {
    "a timedelta": (lambda c: c.submit("m", ROW, expires_s=timedelta(minutes=2)), "expires_s is datetime.timedelta.*: it must be a number of seconds, 120"),
    "a deadline that has passed": (lambda c: c.submit("m", ROW, expires_s=-1), "expires_s is -1: it must be a number of seconds, more than 0"),
    "a number as text": (lambda c: c.submit("m", ROW, expires_s="5"), "expires_s is text '5': it must be a number of seconds"),
    "one output": (lambda c: c.submit("m", ROW, outputs="predict"), r"outputs is 'predict': it must be a list of names, \['predict'\]"),
    "a number of outputs": (lambda c: c.submit("m", ROW, outputs=5), "outputs is 5: it must be a list of names"),
    "parameters without names": (lambda c: c.submit("m", ROW, parameters=[1]), "parameters is of type list: it must be a dict"),
    "no list": (lambda c: c.submit_many("m", 5), "submit_many takes a list of requests, got int"),
    "a timeout that is none": (lambda c: c.predict("m", ROW, timeout=timedelta(1)), "timeout is datetime.timedelta.*: it must be a number of seconds, 86400"),
    "a timeout that has passed": (lambda c: c.predict("m", ROW, timeout=-5), "timeout is -5: it must be a number of seconds, 0 or more"),
    "a timeout without end": (lambda c: c.predict("m", ROW, timeout=float("inf")), "timeout is inf: it must be a number of seconds"),
    "parameters that JSON lacks": (lambda c: c.submit("m", ROW, parameters={"a": {1, object()}}), "parameters cannot be written as JSON"),
    "a number as id": (lambda c: c.submit("m", ROW, id=5), "id 5 is not allowed"),
    "ids as one text": (lambda c: c.submit_many("m", ROW, ids="x"), "ids is text 'x': it must be a list of ids"),
    "a number as priority": (lambda c: c.submit("m", ROW, priority=3), "priority 3"),
    "a number as a model": (lambda c: c.submit(5, ROW), "model"),
    "a model that is not there": (lambda c: c.submit("other", ROW), "models served: m; one that was added since the workers started is served when they are restarted"),
}  # fmt: skip


@pytest.fixture
def direct(redis_server):
    redis_server.client().hset(
        "mutirao:models", "m", msgspec.json.encode(ModelInfo(name="m", version="1", signature=TAKES))
    )
    return redis_server


@pytest.mark.parametrize("check", [True, False])
def test_wrong_arguments_are_named(direct, check):
    """An argument of a wrong type is refused with its name, its value and what it must be, and nothing is queued."""
    with Client(direct.url, check=check) as client:
        for kind, (call, says) in WRONG.items():
            if not check and kind.startswith("a model"):
                continue
            with pytest.raises(errors.MutiraoError, match=says):
                call(client)
    assert direct.client().llen("mutirao.m") == 0


def test_a_job_s_wait_takes_seconds(direct, connect):
    """So does a wait for a result, of either kind of client."""
    with connect(direct.url) as client:
        job = client.submit("m", ROW)
        with pytest.raises(errors.InvalidRequest, match="timeout is text 'x'"):
            job.result("x")


@pytest.mark.parametrize(
    ("jobs", "says"),
    [
        (["order-17"], r"as_completed takes jobs of type \w*Job, and number 0 is text 'order-17': client.job\(ID\) is the job of an id"),
        ("order-17", "as_completed takes a list of jobs, got text 'order-17'"),
        (5, "as_completed takes a list of jobs, got int 5"),
    ],
)  # fmt: skip
def test_what_is_no_job_is_named(direct, jobs, says):
    """Ids in place of jobs are refused by name, by either kind of client."""
    with Client(direct.url) as client, pytest.raises(errors.InvalidRequest, match=says):
        list(client.as_completed(jobs, timeout=1))

    async def on_a_loop():
        async with AsyncClient(direct.url) as client:
            return [job async for job in client.as_completed(jobs, timeout=1)]

    with pytest.raises(errors.InvalidRequest, match=says):
        asyncio.run(on_a_loop())


def test_a_client_says_why_it_is_not_pickled(direct):
    """Pickling or copying a client, or a job, which holds one, says what to do instead."""
    with Client(direct.url) as client:
        for refused in (client, client.submit("m", ROW)):
            for act in (pickle.dumps, copy.deepcopy):
                with pytest.raises(TypeError, match=r"a Client cannot be pickled.*make one in each process"):
                    act(refused)
