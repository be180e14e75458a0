"""How a request ends: what its record, its events and its client get of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mutirao import errors
from mutirao.wire.messages import Failure
from mutirao_worker.inference import outputs
from mutirao_worker.inference.outputs import RequestResult

if TYPE_CHECKING:
    from mutirao_worker.engine.request import Request

# How the reasons begin for which a body cannot be read (see `asked`).
UNREADABLE = ("unreadable body", "damaged body", "not Celery's triple")


class Outcome(NamedTuple):
    """How a request ended.

    Attributes:
        request: the request.
        status: SUCCESS, FAILURE or REVOKED.
        result: the record's result, as JSON.
        shown: what events say of it.
        payload: the raw tensors of a result that are too large to stand in the record.
        traceback: of the model's own code.
        embed: what a stock client wants to be run next.
        reason: why it goes to the dead letters; "" for not at all.
        letter_text: what its dead letter says, in words and without any of its values; as events say it where empty.
        signum: the signal that ended it.
        children: what follows it, as Celery writes that into a record; empty for nothing.
    """

    request: Request
    status: str
    result: bytes
    shown: str = ""
    payload: bytes | None = None
    traceback: str | None = None
    embed: dict[str, Any] | None = None
    reason: str = ""
    letter_text: str = ""
    signum: int | None = None
    children: bytes = b""

    @property
    def size(self) -> int:
        """How many bytes are kept of it."""
        return len(self.result) + len(self.payload or b"")


class BatchRun(NamedTuple):
    """The run of a batch, as records have it; times by Redis's clock."""

    model: str
    version: str
    worker: str
    started_at: float
    finished_at: float
    batch: int


def of_answer(request: Request, answer: RequestResult) -> Outcome:
    """Make the outcome of a request that came back from its process."""
    status = "SUCCESS" if answer.status == "ok" else "FAILURE"
    text = _unreadable(answer) if status == "FAILURE" else ""
    reason = "not decodable" if text else ""
    return Outcome(
        request, status, answer.result, answer.summary, answer.payload, answer.traceback, answer.embed, reason, text
    )


def revoked(request: Request, why: str, signum: int | None = None) -> Outcome:
    """Make the outcome of a request that must not run, or not go on: "revoked", "expired" or "terminated"."""
    result = {"exc_type": "TaskRevokedError", "exc_message": [why], "exc_module": "celery.exceptions"}
    return Outcome(request, "REVOKED", msgspec.json.encode(result), why, signum=signum)


def given_up(request: Request, error: BaseException, reason: str) -> Outcome:
    """Make the outcome of a request whose process died or hung once too often."""
    lost = f"{error}; job {request.id}: gave up after {request.attempts + 1} attempts"
    args = list(error.args) if reason == "time limit" else [lost]
    result = {"exc_type": type(error).__name__, "exc_message": args, "exc_module": type(error).__module__}
    shown = f"{type(error).__name__}({args[0]!r})"
    text = f"ran past its time limit of {args[0]:g} s" if reason == "time limit" else str(args[0])
    return Outcome(request, "FAILURE", msgspec.json.encode(result), shown, reason=reason, letter_text=text)


def refused(ended: Outcome, refusal: Exception) -> Outcome:
    """Make the outcome of a request whose own outcome Redis does not take."""
    text = " ".join(str(refusal).split())
    why = f"has no room for it ({text})" if "OOM" in text else f"does not take it ({text})"
    error = errors.ResultRefused(
        f"the result has {ended.size:,} bytes, and Redis {why}: ask for fewer rows or outputs in one request, or raise its limit",
        size=ended.size,
    )
    failed = outputs.failure_result(error, ended.embed, 0)
    return Outcome(ended.request, "FAILURE", failed.result, failed.summary, embed=failed.embed)


def _unreadable(answer: RequestResult) -> str:
    """Return why a body is no request at all, and becomes a dead letter; "" for a request that is refused."""
    failure = msgspec.json.decode(answer.result, type=Failure)
    reason = str((failure.exc_data or {}).get("reason", ""))
    return reason if failure.is_own and reason.startswith(UNREADABLE) else ""


def in_words(error: Exception) -> str:
    """Return the text of an error, without any value of a request."""
    if isinstance(error, errors.MutiraoError):
        return str(error.data.get("reason", "")) or repr(error)
    return str(error) or type(error).__name__
