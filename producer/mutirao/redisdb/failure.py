"""The reasons for which Redis refuses a command, each with its remedy."""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

import redis

from mutirao import errors
from mutirao.urls import scrubbed, without_password


class Refusal(NamedTuple):
    """A kind of refusal.

    Attributes:
        reason: its name.
        remedy: what an operator can do.
    """

    reason: str
    remedy: str


# By the code with which Redis's error begins. Redis before 7 has it in the middle of an error inside a script.
REFUSALS = {
    "OOM": Refusal("out of memory", "raise its maxmemory, or let results expire sooner (MUTIRAO_RESULT_TTL_S)"),
    "READONLY": Refusal("a replica", "it is not the master: name the master, or its sentinels"),
    "MASTERDOWN": Refusal("a replica without its master", "it is not the master: name the master, or its sentinels"),
    "LOADING": Refusal("loading its data", "it has just started: try again soon"),
    "MISCONF": Refusal("not able to save", "its disk is full or cannot be written: its log says more"),
    "NOREPLICAS": Refusal("short of replicas", "fewer replicas than min-replicas-to-write are connected"),
    "BUSY": Refusal("busy", "a script runs for long: try again soon"),
    "NOPERM": Refusal("no permission", "give the user of MUTIRAO_BROKER_URL the rights of its role (deploy/redis/acl)"),
    "NOAUTH": Refusal("no login", "check the user and password in MUTIRAO_BROKER_URL"),
    "WRONGPASS": Refusal("wrong login", "check the user and password in MUTIRAO_BROKER_URL"),
}
_CODE = re.compile(rf"(?:^|[\s-])({'|'.join(REFUSALS)})\b")
# redis-py turns some codes into classes, and leaves the code out of the message.
_CLASSES = {
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.AuthenticationError: "WRONGPASS",
}
# Redis 6 and 7.0, then Redis 7.2 and Valkey.
_DENIED_IN_SCRIPTS = ("user executing the script can't", "ACL failure in script")
_FULL = Refusal("too many clients", "its maxclients is reached: raise it, or run fewer processes")
_FILES = Refusal("too many open files", "this process may open no more: raise its limit (ulimit -n)")
_POOL = Refusal("too many calls", "max_connections in the URL is reached: leave it out")


class NotMaster(redis.ConnectionError):
    """The server has become a replica: connections to it must be replaced."""


def code(exc: BaseException) -> str:
    """Return the code of a Redis error; "" for an error without one of the codes known here."""
    for kind, word in _CLASSES.items():
        if isinstance(exc, kind):
            return word
    if not isinstance(exc, redis.RedisError):
        return ""
    if any(words in str(exc) for words in _DENIED_IN_SCRIPTS):
        return "NOPERM"
    match = _CODE.search(str(exc))
    return match[1] if match else ""


def denied(exc: BaseException | None) -> bool:
    """Return whether the server refuses for lack of rights, at once or within a script."""
    return exc is not None and code(exc) in ("NOPERM", "NOAUTH", "WRONGPASS")


def is_replica(exc: BaseException) -> bool:
    """Return whether a server refuses because it is no longer the master."""
    return isinstance(exc, NotMaster) or code(exc) in ("READONLY", "MASTERDOWN")


def checked(exc: redis.ResponseError) -> redis.RedisError:
    """Return an error of Redis unchanged, or as a broken connection where the server has become a replica."""
    return NotMaster(f"{code(exc)} {exc}") if is_replica(exc) and not isinstance(exc, NotMaster) else exc


def unavailable(exc: redis.RedisError, url: str) -> errors.BrokerUnavailable:
    """Return the error that says in one sentence why the Redis at a URL could not serve a command, without the URL's secrets."""
    shown = without_password(url)
    detail = " ".join(scrubbed(str(exc), url).split()) or type(exc).__name__
    detail = detail.rstrip(".")
    refusal = _refusal(exc)
    if refusal is not None:
        remedy = refusal.remedy
    elif isinstance(exc, redis.ResponseError):
        remedy = "mutirao doctor says more"
    else:
        remedy = "is it running? try mutirao doctor"
    data = {"reason": refusal.reason} if refusal else {}
    return errors.BrokerUnavailable(f"Redis at {shown} is unavailable: {detail}; {remedy}", url=shown, **data)


def _refusal(exc: redis.RedisError) -> Refusal | None:
    if isinstance(exc, redis.exceptions.MaxConnectionsError):
        return _POOL
    if _errno(exc) in (errno.EMFILE, errno.ENFILE):
        return _FILES
    if "max number of clients" in str(exc):
        return _FULL
    return REFUSALS.get(code(exc))


def _errno(exc: BaseException) -> int | None:
    cause = exc.__cause__ or exc.__context__
    return cause.errno if isinstance(cause, OSError) else None
