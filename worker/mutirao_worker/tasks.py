"""The one task, and what `celery inspect` asks of its requests."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Task
from celery.worker import control

from mutirao import errors, keyspace
from mutirao.wire import binary_codec
from mutirao_worker.celery_adapter import consumer, pool, request_registry

OPTIONS: dict[str, Any] = {
    "name": keyspace.TASK,
    "bind": True,
    # A request is acknowledged once its result is kept.
    "acks_late": True,
    # Errors of ours are expected.
    "throws": (errors.MutiraoError,),
    # Arguments are checked where the answer can say what is wrong with them.
    "typing": False,
    "Strategy": consumer.NAME,
}


def predict(self: Task, *args: Any, **options: Any) -> Any:
    """Answer one prediction request where it is called; workers answer those of a queue in batches, without this.

    Args:
        self: the task, bound by Celery.
        args: the model's name, and a V2 inference request or a bare nested list; either may be given by name instead.
        options: `model` and `request`, where they are not among `args`.

    Raises:
        MutiraoError: the request, the model or its output is at fault.
    """
    body = msgspec.json.encode([args, options, None])
    limits = self.app.conf.mutirao.inline_bytes, self.app.conf.mutirao.max_result_bytes
    (answer,) = pool.read(pool.compute([("", body, binary_codec.JSON, False, None)], limits), 1).results
    result = msgspec.json.decode(answer.result)
    if answer.status != "ok":
        kind = errors.class_named(result["exc_type"]) or errors.JobError
        raise kind(*result["exc_message"], **(result.get("exc_data") or {}))
    return result


@control.inspect_command(alias="dump_schedule")  # type: ignore[untyped-decorator]
def scheduled(state: Any, **_: Any) -> list[dict[str, Any]]:  # noqa: ARG001 - Celery's signature
    """List requests whose time has not come: Celery's own command knows no requests but its own."""
    return [
        {"eta": request.headers.eta, "priority": request.priority, "request": request.info()}
        for request in request_registry.scheduled()
    ]
