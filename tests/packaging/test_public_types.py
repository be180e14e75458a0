"""The types of the public API, as a user's type checker sees them: `make lint` checks them, nothing here runs against Redis."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import assert_type

import mutirao
from mutirao import AsyncClient, AsyncJob, Client, Job, MutiraoError, QueueFull, errors
from mutirao.client.job import Timings
from mutirao.embedded import Embedded
from mutirao.registry import ModelInfo, Registry
from mutirao.wire.messages import JobRecord
from mutirao.wire.tensors import Array

COMPATIBILITY = Path(__file__).parents[2] / "docs" / "compatibility.md"


def blocking(client: Client) -> None:
    assert_type(client.submit("iris", [[1.0]], outputs=["predict"], expires_s=1, priority="high", id="a"), Job)
    assert_type(client.submit_many("iris", [[1.0]], ids=["a"], parameters={"b": 1}), list[Job])
    assert_type(client.predict("iris", [[1.0]], timeout=1.0), dict[str, Array])
    assert_type(client.job("a"), Job)
    assert_type(client.as_completed([client.job("a")], timeout=1.0), Iterator[Job])
    assert_type(client.models(), list[ModelInfo])
    assert_type(client.catalog(), Registry)
    with client as same:
        assert_type(same, Client)
    client.close()


async def on_an_event_loop(client: AsyncClient) -> None:
    assert_type(
        await client.submit("iris", [[1.0]], outputs=["predict"], expires_s=1, priority="high", id="a"), AsyncJob
    )
    assert_type(await client.submit_many("iris", [[1.0]], ids=["a"], parameters={"b": 1}), list[AsyncJob])
    assert_type(await client.predict("iris", [[1.0]], timeout=1.0), dict[str, Array])
    assert_type(client.job("a"), AsyncJob)
    assert_type(client.as_completed([client.job("a")], timeout=1.0), AsyncIterator[AsyncJob])
    assert_type(await client.models(), list[ModelInfo])
    assert_type(await client.catalog(), Registry)
    async with client as same:
        assert_type(same, AsyncClient)
    await client.close()


def a_job(job: Job) -> None:
    assert_type(job.id, str)
    assert_type(job.status, str)
    assert_type(job.done(), bool)
    assert_type(job.result(timeout=1.0), dict[str, Array])
    assert_type(job.cancel(), bool)
    assert_type(job.record(), JobRecord)
    assert_type(job.timings, Timings)
    assert_type(job.timings.queued_s, float | None)
    assert_type(job.timings.computed_s, float | None)


async def an_async_job(job: AsyncJob) -> None:
    assert_type(job.id, str)
    assert_type(await job.status(), str)
    assert_type(await job.done(), bool)
    assert_type(await job.result(timeout=1.0), dict[str, Array])
    assert_type(await job.cancel(), bool)
    assert_type(await job.record(), JobRecord)


def what_is_raised(error: MutiraoError, full: QueueFull) -> None:
    assert_type(error.status, int)
    assert_type(error.retryable, bool)
    assert_type(full.depth, int)
    assert_type(full.limit, int)
    assert_type(full.retry_after_s, float | None)
    assert_type(errors.JobNotFound("no such job"), errors.JobNotFound)


def embedded() -> None:
    with Embedded("scratch", workers=1) as system:
        assert_type(system, Embedded)
        assert_type(system.broker_url, str)


def test_every_public_method_has_its_type_stated():
    """docs/compatibility.md lists the methods of clients and jobs; each is there, and its type is asserted above."""
    stated = Path(__file__).read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)?) \| (`.*`)[^|]* \|$", COMPATIBILITY.read_text(encoding="utf-8"), re.MULTILINE
    )
    named = [(cls, method) for left, right in rows for cls in _code(left) for method in _code(right)]
    assert len(named) >= 25
    for cls, method in named:
        variable = "client" if "Client" in cls else "job"
        assert method == "id" or hasattr(getattr(mutirao, cls), method), f"{cls} has no {method}"
        assert f"{variable}.{method}" in stated


def test_everything_that_is_exported_is_there():
    """Each name of mutirao.__all__ can be imported."""
    assert all(hasattr(mutirao, name) for name in mutirao.__all__)


def _code(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)
