"""Asynchronous model inference through a message queue: submit predictions, a fleet of Celery workers answers them."""

from mutirao.aio import AsyncClient
from mutirao.client import Client
from mutirao.errors import (
    BrokerUnavailable,
    IdTaken,
    InvalidRequest,
    JobCancelled,
    JobError,
    JobExpired,
    JobNotFound,
    ModelFailed,
    ModelNotFound,
    ModelUnavailable,
    MutiraoError,
    ResultExpired,
    ResultTimeout,
    SignatureMismatch,
    TimeLimitExceeded,
    WorkerLost,
)
from mutirao.job import AsyncJob, Job

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "BrokerUnavailable",
    "Client",
    "IdTaken",
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
    "ResultExpired",
    "ResultTimeout",
    "SignatureMismatch",
    "TimeLimitExceeded",
    "WorkerLost",
]
