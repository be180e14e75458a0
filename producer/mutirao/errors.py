"""The tree of errors: each class has one sentence, its data as attributes, its HTTP status, and whether a retry can help.

`str(error)` is the sentence for the caller; it may quote the caller's own input. `repr(error)` holds only names and numbers,
because Celery writes it into logs and events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

# An error may quote what a caller sent, up to a megabyte. The limits of its text and of each text in its data, in characters.
TEXT_MAX = 8_000
NAME_MAX = 1_000

T = TypeVar("T")


def shortened(value: T, most: int) -> T | str:
    """Return a long text without its middle, and with its length; other values unchanged."""
    if not isinstance(value, str) or len(value) <= most:
        return value
    return f"{value[: most // 2]} ... ({len(value):,} characters) ... {value[-most // 4 :]}"


class MutiraoError(Exception):
    """The root of all errors that mutirão raises on purpose."""

    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", **data: Any) -> None:
        super().__init__(shortened(message, TEXT_MAX))
        vars(self).update({key: shortened(value, NAME_MAX) for key, value in data.items()})

    @property
    def data(self) -> dict[str, Any]:
        """The attributes given at the raise, ready for JSON: they travel with a failed result."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.data.items())
        return f"{type(self).__name__}({shown})"


class SettingsError(MutiraoError):
    """A setting has a value that cannot be used."""

    key: str = ""
    value: str = ""


class BrokerUnavailable(MutiraoError):
    """Redis did not answer in time, or refuses work; `reason` names the refusal where it is a known one."""

    status = 503
    retryable = True
    url: str = ""
    reason: str = ""


class SlowCall(BrokerUnavailable):
    """Redis did not queue a call of many requests in time; it may have done so since."""

    count: int = 0
    timeout_s: float = 0.0


class InvalidRequest(MutiraoError):
    """The request is not one that any model can answer; `reason` says why without quoting it, for logs and events."""

    status = 400
    reason: str = ""


class InvalidInput(InvalidRequest):
    """The model itself refused the input: its predict raised this error, with its own words."""


class UnsupportedMedia(InvalidRequest):
    """The body has a media type that is not supported."""

    status = 415


class NotAcceptable(MutiraoError):
    """The response has no form that the caller accepts; `id` names the job whose result is kept, if there is one."""

    status = 406
    id: str = ""


class SlowRequest(MutiraoError):
    """The body did not arrive in time."""

    status = 408
    retryable = True


class NotSupported(MutiraoError):
    """The call is known, but this system does not implement it."""

    status = 501


class InvalidTensor(InvalidRequest):
    """A tensor's datatype, shape and data do not agree."""

    tensor: str = ""


class SignatureMismatch(InvalidRequest):
    """The inputs do not match the model's signature."""

    model: str = ""
    expected: str = ""
    got: str = ""


class PayloadTooLarge(InvalidRequest):
    """The request is larger than the model or the system accepts."""

    status = 413
    limit: int = 0
    size: int = 0


class WebhookRefused(InvalidRequest):
    """The webhook's URL is not allowed here."""

    host: str = ""


class Unauthorized(MutiraoError):
    """The request has no API key, or none that is valid."""

    status = 401


class Forbidden(MutiraoError):
    """The key does not allow this."""

    status = 403
    verb: str = ""
    model: str = ""


class KeyNotFound(MutiraoError):
    """There is no API key of this id."""

    status = 404
    id: str = ""


class TooManyRequests(MutiraoError):
    """The key's limit is reached; `retry_after_s` is None for a call that can never fit."""

    status = 429
    retryable = True
    key: str = ""
    limit: str = ""
    retry_after_s: float | None = None


class ModelNotFound(MutiraoError):
    """No worker has announced a model of this name."""

    status = 404
    model: str = ""
    known: tuple[str, ...] = ()


class ModelUnavailable(MutiraoError):
    """The model is known, but it could not be loaded."""

    status = 503
    model: str = ""
    reason: str = ""


class VersionNotFound(ModelNotFound):
    """The model is served in other versions than this one."""

    version: str = ""


class NoWorker(MutiraoError):
    """No live worker serves the model now."""

    status = 503
    retryable = True
    model: str = ""
    retry_after_s: float | None = None


class GatewayBusy(MutiraoError):
    """The gateway has reached its limit of open waits, or is stopping."""

    status = 503
    retryable = True
    retry_after_s: float | None = None


class JobNotFound(MutiraoError):
    """No job with this id was ever submitted."""

    status = 404
    id: str = ""


class ResultExpired(JobNotFound):
    """The job's record is past the time for which results are kept."""

    status = 410


class IdTaken(MutiraoError):
    """The id belongs to a job with other content."""

    status = 409
    id: str = ""


class KeyReused(IdTaken):
    """The Idempotency-Key was sent before, with another request."""

    status = 422


class JobNotFinished(MutiraoError):
    """The job has no result yet."""

    status = 409
    retryable = True
    id: str = ""
    state: str = ""


class NotCancellable(MutiraoError):
    """The job runs or has ended."""

    status = 409
    id: str = ""
    state: str = ""


class TooLate(MutiraoError):
    """The request's deadline would pass before it could be served."""

    status = 429
    retryable = True
    model: str = ""
    wait_s: float = 0.0
    retry_after_s: float | None = None


class QueueFull(MutiraoError):
    """The model's queue has reached its limit; `retry_after_s` is None where no live worker's rate is known."""

    status = 429
    retryable = True
    model: str = ""
    depth: int = 0
    limit: int = 0
    retry_after_s: float | None = None


class ResultTimeout(MutiraoError, TimeoutError):
    """The result did not arrive within the caller's time-out; the job goes on."""

    status = 504
    retryable = True
    id: str = ""


class JobError(MutiraoError):
    """The job ended without a result."""

    id: str = ""


class JobCancelled(JobError):
    """The job was cancelled before it ran."""

    status = 409


class JobExpired(JobError):
    """The job's deadline passed before it ran."""

    status = 504
    retryable = True


class ModelFailed(JobError):
    """The model raised an error while it predicted."""

    model: str = ""
    version: str = ""
    cause: str = ""


class InvalidOutput(ModelFailed):
    """The model's output does not fit its inputs or its signature."""


class TimeLimitExceeded(JobError):
    """The model ran past its time limit and was stopped."""

    status = 504


class WorkerLost(JobError):
    """The process that ran the model died while it ran."""

    retryable = True


class ResultRefused(JobError):
    """The result could not be kept: Redis refuses it, or has no memory for it."""

    status = 507
    size: int = 0


class NotReplayable(MutiraoError):
    """The dead letter cannot be replayed."""

    status = 409
    id: str = ""


class RepositoryError(MutiraoError):
    """The model repository could not be read or changed."""


class ModelExists(RepositoryError):
    """This version of the model is already in the repository."""

    status = 409


class ManifestError(RepositoryError):
    """A model.toml is incomplete or invalid."""

    path: str = ""


class DigestMismatch(RepositoryError):
    """A file does not have the digest in the manifest."""

    path: str = ""


class EmbeddedError(MutiraoError):
    """The embedded system could not start or stop."""

    home: str = ""
    pid: int = 0


def class_named(name: str) -> type[MutiraoError] | None:
    """Return the error class of a name, as a failed result carries it; None for an unknown one."""
    return next((cls for cls in _tree(MutiraoError) if cls.__name__ == name), None)


def _tree(cls: type[MutiraoError]) -> Iterator[type[MutiraoError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)
