"""Refuse what never became a request: its reason is kept, and its message taken off the queue."""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery.exceptions import BackendStoreError

from mutirao import errors, keyspace
from mutirao_worker.engine.request_sources import RETRY_S

logger = logging.getLogger(__name__)


def refuse(consumer: Any, message: Any, error: Exception, id: Any = None) -> None:
    """End a request that never became one with its reason, and take its message off the queue."""
    id = id or message.headers.get("id") or message.properties.get("correlation_id")
    logger.warning("refused %s: %r", id, error)
    _end_refused(consumer, message, error, id)


def _end_refused(consumer: Any, message: Any, error: Exception, id: Any) -> None:
    """Keep why, and take the message off the queue; later, where Redis is away."""
    if isinstance(id, str) and keyspace.TENANT_SEPARATOR not in id:  # that one may be a tenant's job
        try:
            consumer.app.backend.mark_as_failure(id, error)
        except (redis.RedisError, BackendStoreError):
            consumer.timer.call_after(RETRY_S, _end_refused, (consumer, message, error, id))
            return
        consumer.event_dispatcher.send("task-failed", uuid=id, exception=repr(error))
    message.ack_log_error(logger, consumer.connection_errors)


def compressed() -> errors.InvalidRequest:
    """Make the error of a body that is compressed."""
    return errors.InvalidRequest("compressed bodies are not accepted: send it plain", reason="compressed body")


def unreadable(message: Any, exc: Exception) -> errors.InvalidRequest:
    """Make the error of a body that cannot be read; kombu wraps that of our own decoder."""
    reason = next((str(arg) for arg in exc.args if isinstance(arg, errors.MutiraoError)), type(exc).__name__)
    text = f"the body ({message.content_type}) cannot be read: {reason}; send application/json or application/x-mutirao"
    return errors.InvalidRequest(text, reason=f"unreadable body, {type(exc).__name__}")
