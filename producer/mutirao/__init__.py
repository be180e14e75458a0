"""Asynchronous model inference through a message queue: submit predictions, a fleet of Celery workers answers them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mutirao.errors import (
    BrokerUnavailable,
    IdTaken,
    InvalidInput,
    InvalidRequest,
    JobCancelled,
    JobError,
    JobExpired,
    JobNotFound,
    ModelFailed,
    ModelNotFound,
    ModelUnavailable,
    MutiraoError,
    QueueFull,
    ResultExpired,
    ResultRefused,
    ResultTimeout,
    SignatureMismatch,
    TimeLimitExceeded,
    WorkerLost,
)

if TYPE_CHECKING:
    from mutirao.client.async_client import AsyncClient, AsyncJob
    from mutirao.client.client import Client, Job

# Found when they are first asked for: `mutirao --help` and completion need neither numpy nor redis, which take the most time.
_LATER = {
    "AsyncClient": "mutirao.client.async_client",
    "AsyncJob": "mutirao.client.async_client",
    "Client": "mutirao.client.client",
    "Job": "mutirao.client.client",
}

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "BrokerUnavailable",
    "Client",
    "IdTaken",
    "InvalidInput",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobNotFound",
    "ModelFailed",
    "ModelNotFound",
    "ModelUnavailable",
    "MutiraoError",
    "QueueFull",
    "ResultExpired",
    "ResultRefused",
    "ResultTimeout",
    "SignatureMismatch",
    "TimeLimitExceeded",
    "WorkerLost",
]


def __getattr__(name: str) -> Any:
    """Import a client or handle at its first use."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = attribute = getattr(import_module(_LATER[name]), name)
    return attribute


def __dir__() -> list[str]:
    """Name everything public, imported yet or not."""
    return sorted({*globals(), *__all__})
