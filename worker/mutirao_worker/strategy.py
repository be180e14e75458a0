"""The glue to Celery's consumer: the one module that touches Celery's internals.

A request that cannot be decoded ends with its reason instead of vanishing, a model's own time limits apply, and what Celery
shows of a request (log, events, `inspect`, Flower) is its shape, never its payload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import bootsteps
from celery.exceptions import Ignore, InvalidTaskError, NotRegistered
from celery.worker import consumer as stock_consumer
from celery.worker import strategy as stock
from celery.worker.request import Request
from kombu import compression

from mutirao import codec, errors, messages

logger = logging.getLogger(__name__)

NAME = f"{__name__}:receive"
REQUEST = f"{__name__}:PredictionRequest"
CONSUMER = f"{__name__}:Consumer"

_TRIPLE = "the body must be Celery's triple [[model, request], {options}, embed], message protocol 2"

# Billiard's wrapper of an error tells nothing of it, and its repr is what Celery's event says of a process that died or ran too
# long: Flower would show no reason.
ExceptionWithTraceback.__repr__ = lambda self: repr(self.exc)


def receive(task: Any, app: Any, consumer: Any) -> Callable[..., None]:
    """Wrap Celery's own strategy: what it could not decode is answered here."""
    handle = stock.default(task, app, consumer)

    def on_message(
        message: Any, body: Any, ack: Callable[..., None], reject: Callable[..., None], callbacks: Any, **kwargs: Any
    ) -> None:
        error = _undecodable(message)
        if error is None:
            try:
                handle(message, body, ack, reject, callbacks, **kwargs)
            except InvalidTaskError as exc:
                error = errors.InvalidRequest(f"the message's headers cannot be used: {exc}", reason="unusable headers")
        if error is not None:
            _refuse(consumer, message, error)

    return on_message


class Consumer(stock_consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer; what it cannot hand to a task is answered too, and its log quotes no message."""

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Answer a request for a task that is not ours."""
        # Protocol 1 has the name in its body; it is the client's word, so no more of it is shown than a name may have.
        name = message.headers.get("task") or message.payload["task"]
        _refuse(self, message, NotRegistered(str(name)[:64]))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Answer a message that kombu could not unpack."""
        _refuse(self, message, _undecodable(message) or _unreadable(message, exc))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        """Answer a message that Celery could not make a request of."""
        _refuse(self, message, _unreadable(message, exc))

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002
        """Drop what is no task message at all."""
        _refuse(self, message, errors.InvalidRequest(_TRIPLE, reason="not Celery's triple"))


class Watch(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Looks for dead pool processes twice a second.

    Celery is told of a death by a pipe that closes a moment before the process can be reaped; when it looks in that moment it
    sees nobody dead, and looks again only 5 s later.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Take Celery's consumer."""
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Look from now on."""
        self._timer = consumer.timer.call_repeatedly(0.5, consumer.pool.maintain_pool)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    terminate = stop


def keep_compressed() -> None:
    """Have kombu leave compressed bodies as they are: it would unpack them, without any bound, before they can be refused."""
    for content_type in compression.encoders():
        compression.register(compression.get_encoder(content_type)[0], lambda body: body, content_type)


def _refuse(consumer: Any, message: Any, error: Exception) -> None:
    """End a request that never became one with its reason, and take its message off the queue."""
    id = message.headers.get("id") or message.properties.get("correlation_id")
    logger.warning("refused %s: %r", id, error)
    if isinstance(id, str):
        consumer.app.backend.mark_as_failure(id, error)
        consumer.event_dispatcher.send("task-failed", uuid=id, exception=repr(error))
    message.ack_log_error(logger, consumer.connection_errors)


def _undecodable(message: Any) -> errors.InvalidRequest | None:
    """Decode the body as Celery would; say what is wrong with it, without a word of it."""
    if message.headers.get("compression"):
        return errors.InvalidRequest("compressed bodies are not accepted: send it plain", reason="compressed body")
    try:
        payload = message.payload
    except Exception as exc:  # noqa: BLE001 - whatever a client sent
        return _unreadable(message, exc)
    if not (isinstance(payload, list | tuple) and len(payload) == 3):
        return errors.InvalidRequest(_TRIPLE, reason="not Celery's triple")
    args, kwargs, embed = payload
    if not (isinstance(args, list | tuple) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        return errors.InvalidRequest(_TRIPLE, reason="not Celery's triple")
    return None


def _unreadable(message: Any, exc: Exception) -> errors.InvalidRequest:
    """Say why; kombu wraps what our own decoder says."""
    said = next((str(arg) for arg in exc.args if isinstance(arg, errors.MutiraoError)), type(exc).__name__)
    text = f"the body ({message.content_type}) cannot be read: {said}; send {codec.JSON} or {codec.BINARY}"
    return errors.InvalidRequest(text, reason=f"unreadable body, {type(exc).__name__}")


class PredictionRequest(Request):  # type: ignore[misc]  # Celery has no types
    """Celery's request, with its payload out of sight and its model's time limits."""

    _args: Any
    _kwargs: Any
    time_limits: Any

    def __init__(self, message: Any, **kwargs: Any) -> None:
        """Take what Celery's strategy gives."""
        super().__init__(message, **kwargs)
        model = str(next(iter(self._args), ""))
        self._argsrepr, self._kwargsrepr = _summary(self._args), ""
        # The child decodes the body itself; Celery would send it the decoded arguments a second time.
        self._args, self._kwargs = (self._argsrepr,), {}
        self._request_dict.update(args=[], kwargs={}, argsrepr=self._argsrepr, kwargsrepr="")
        self.time_limits = self._limits(model, self.time_limits)

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event without the traceback, which may quote the payload."""
        fields.pop("traceback", None)
        super().send_event(type, **fields)

    def on_failure(self, exc_info: Any, **kwargs: Any) -> None:
        """Say of a request that was dropped before it ran that it was revoked."""
        if isinstance(exc_info.exception, Ignore):
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)
        super().on_failure(exc_info, **kwargs)

    def _limits(self, model: str, asked: Any) -> tuple[float | None, float | None]:
        """The model's limits; a client may ask for tighter ones, not for wider."""
        own = self._app.host.time_limits(model)
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
