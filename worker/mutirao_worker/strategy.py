"""The glue to Celery's consumer: the one module that touches Celery's internals.

A request that cannot be decoded ends with its reason instead of vanishing, a model's own time limits apply, and what Celery
shows of a request (log, events, `inspect`, Flower) is its shape, never its payload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.exceptions import Ignore
from celery.worker import strategy as stock
from celery.worker.request import Request

from mutirao import codec, errors, messages, queues

logger = logging.getLogger(__name__)

NAME = f"{__name__}:receive"
REQUEST = f"{__name__}:PredictionRequest"


def receive(task: Any, app: Any, consumer: Any) -> Callable[..., None]:
    """Wrap Celery's own strategy: what it could not decode is answered here."""
    handle = stock.default(task, app, consumer)

    def on_message(
        message: Any, body: Any, ack: Callable[..., None], reject: Callable[..., None], callbacks: Any, **kwargs: Any
    ) -> None:
        error = _undecodable(message)
        if error is None:
            handle(message, body, ack, reject, callbacks, **kwargs)
            return
        logger.warning("refused %s: %r", message.headers["id"], error)
        task.backend.mark_as_failure(message.headers["id"], error)
        ack(logger, consumer.connection_errors)

    return on_message


def _undecodable(message: Any) -> errors.InvalidRequest | None:
    """Decode the body as Celery would; say what is wrong with it, without a word of it."""
    if message.headers.get("compression"):
        return errors.InvalidRequest("compressed bodies are not accepted: send it plain")
    try:
        payload = message.payload
    except Exception as exc:  # noqa: BLE001 - whatever a client sent
        return errors.InvalidRequest(
            f"the body ({message.content_type}) cannot be read: {type(exc).__name__}; send {codec.JSON} or {codec.BINARY}"
        )
    if not (isinstance(payload, list | tuple) and len(payload) == 3):
        return errors.InvalidRequest("the body must be Celery's triple [[model, request], {options}, embed]")
    args, kwargs, embed = payload
    if not (isinstance(args, list | tuple) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        return errors.InvalidRequest("the body must be Celery's triple [[model, request], {options}, embed]")
    return None


class PredictionRequest(Request):  # type: ignore[misc]  # Celery has no types
    """Celery's request, with its payload out of sight and its model's time limits."""

    _args: Any
    _kwargs: Any
    time_limits: Any

    def __init__(self, message: Any, **kwargs: Any) -> None:
        """Take what Celery's strategy gives."""
        super().__init__(message, **kwargs)
        self._argsrepr, self._kwargsrepr = _summary(self._args), ""
        # The child decodes the body itself; Celery would send it the decoded arguments a second time.
        self._args, self._kwargs = (self._argsrepr,), {}
        self._request_dict.update(args=[], kwargs={}, argsrepr=self._argsrepr, kwargsrepr="")
        self.time_limits = self._limits(self.time_limits or (None, None))

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event without the traceback, which may quote the payload."""
        fields.pop("traceback", None)
        super().send_event(type, **fields)

    def on_failure(self, exc_info: Any, **kwargs: Any) -> None:
        """Say of a request that was dropped before it ran that it was revoked."""
        if isinstance(exc_info.exception, Ignore):
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)
        super().on_failure(exc_info, **kwargs)

    def _limits(self, asked: Any) -> tuple[float | None, float | None]:
        """The model's limits; a client may ask for tighter ones, not for wider."""
        own = self._app.host.time_limits(queues.model_of(self._delivery_info.get("routing_key") or ""))
        wanted = asked if isinstance(asked, list | tuple) and len(asked) == 2 else (None, None)
        return _tighter(own[0], wanted[0]), _tighter(own[1], wanted[1])


def _tighter(own: float | None, wanted: Any) -> float | None:
    valid = isinstance(wanted, int | float) and wanted > 0
    return min((limit for limit in (own, wanted if valid else None) if limit), default=None)


def _summary(args: Any) -> str:
    try:
        model, request = args
        return messages.summary(str(model)[:64], messages.read_request(request))
    except (errors.InvalidRequest, TypeError, ValueError):
        return "(not a request)"
