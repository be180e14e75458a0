"""The names of queues, keys, channels and tasks; Lua scripts get them from here."""

from __future__ import annotations

import os
import re
import time
import uuid
from typing import Literal, get_args

from mutirao import errors

TASK = "mutirao.predict"

Priority = Literal["high", "normal", "low"]

# kombu keeps one list per priority step and serves step 0 first; a message without a priority lands on step 0.
STEPS: dict[Priority, int] = {"high": 0, "normal": 3, "low": 6}
KOMBU_STEPS = (0, 3, 6, 9)
KOMBU_SEPARATOR = "\x06\x16"

# Separates a tenant from the id of its job, in Redis; ids and tenants of callers cannot hold it.
TENANT_SEPARATOR = "~"

PREFIX = "mutirao."
_RECORD = "celery-task-meta-"
_PAYLOAD = "mutirao:payload:"
_TENANTS = "mutirao:tenants:"
_WAKEUP = "mutirao:bell:"
_CONSUMERS = "mutirao:consumers:"
_RESERVED = "mutirao:reserved:"
_REPLY = "mutirao:reply:"
_POLLER = "mutirao:poller:"
# The number of jobs that were cancelled; and a key that never exists, see _records.lua.
_CANCELLED = "mutirao:cancelled"
_NOTHING = "mutirao:nothing"
MODELS = "mutirao:models"
WORKERS = "mutirao:workers"
# The end of each worker's lease, by Redis's clock; and the free slots of its pool.
LEASES = "mutirao:leases"
SLOTS = "mutirao:slots"
# By list: how many requests have been taken from it, and the rows that wait beyond one a request.
LIST_COUNTS = "mutirao:lines"
# The queue of webhook deliveries: a list of that name, on the server of results.
WEBHOOKS = "mutirao:webhooks"
WEBHOOK_TASK = "mutirao.webhook"
# Deliveries that are running or wait for another attempt, by when.
WEBHOOKS_HELD = "mutirao:webhooks:held"
# Dead letters by id; and their ids by when they were given up.
DEAD = "mutirao:dead"
DEAD_INDEX = "mutirao:dead:index"
# The gateway's API keys, by id.
KEYS = "mutirao:keys"
# The oldest dead letters are removed when there are more; and how long the offloaded tensors of one are kept for a replay.
DEAD_MAX = 100_000
DEAD_PAYLOAD_S = 7 * 86_400

# The names as Lua scripts know them.
LUA_NAMES: dict[str, str | int] = {
    "WAKEUP": _WAKEUP,
    "CANCELLED": _CANCELLED,
    "CONSUMERS": _CONSUMERS,
    "DEAD_MAX": DEAD_MAX,
    "DEAD_PAYLOAD_S": DEAD_PAYLOAD_S,
    "LIST_COUNTS": LIST_COUNTS,
    "NOTHING": _NOTHING,
    "PAYLOAD": _PAYLOAD,
    "POLLER": _POLLER,
    "QUEUE": PREFIX,
    "RECORD": _RECORD,
    "REPLY": _REPLY,
    "RESERVED": _RESERVED,
    "TENANTS": _TENANTS,
    "WEBHOOKS": WEBHOOKS,
    "WEBHOOK_TASK": WEBHOOK_TASK,
}

# RFC 9562's variant: the digit's two upper bits are 10.
_VARIANTS = {digit: "89ab"[at % 4] for at, digit in enumerate("0123456789abcdef")}

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)


def model_name(name: str) -> str:
    """Return the name unchanged, or raise InvalidRequest: names become queue names and are looked up as folders."""
    return _checked(_MODEL, "model name", name, "1 to 64 of a-z 0-9 . _ -, the first a letter or digit")


def tenant_name(name: str) -> str:
    """Return the tenant's name unchanged, or raise InvalidRequest: tenants become parts of list names."""
    return _checked(_MODEL, "tenant", name, "1 to 64 of a-z 0-9 . _ -, the first a letter or digit")


def version_name(name: str) -> str:
    """Return the version unchanged, or raise InvalidRequest: versions are looked up as folders."""
    return _checked(_VERSION, "version", name, "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit")


def job_id(id: str) -> str:
    """Return the id unchanged, or raise InvalidRequest: ids become key names and parts of URLs."""
    return _checked(_ID, "id", id, "1 to 128 of A-Z a-z 0-9 . _ : -, the first a letter or digit")


def qualified(id: str, tenant: str) -> str:
    """Return the id under which Redis keeps a tenant's job; it is unchanged where the tenant is ""."""
    return f"{tenant}{TENANT_SEPARATOR}{id}" if tenant else id


def unqualified(id: str) -> str:
    """Return a job's id as its own tenant knows it."""
    return id.rpartition(TENANT_SEPARATOR)[2]


def recorded_id(id: str) -> str:
    """Return the id of a record, a tenant's too, unchanged, or raise InvalidRequest."""
    tenant, separator, own = id.rpartition(TENANT_SEPARATOR) if isinstance(id, str) else ("", "", id)
    job_id(own)
    if separator:
        tenant_name(tenant)
    return id


def step(priority: str) -> int:
    """Return kombu's step for a priority: high 0, normal 3, low 6."""
    if priority not in get_args(Priority):
        raise errors.InvalidRequest(f"priority {priority!r} is not known: use high, normal or low")
    return STEPS[priority]  # type: ignore[index]


def queue(model: str) -> str:
    """Return the queue of a model."""
    return PREFIX + model_name(model)


def model_of(queue: str) -> str | None:
    """Return the model of a queue, or None for a queue that is not a model's."""
    name = queue.removeprefix(PREFIX)
    return name if name != queue and _MODEL.fullmatch(name) else None


def queue_of(key: str) -> str:
    """Return the queue that a list belongs to."""
    return key.partition(KOMBU_SEPARATOR)[0]


def queue_key(model: str, step: int, tenant: str = "") -> str:
    """Return the Redis list of a model's messages of one priority step: kombu's own, or a tenant's."""
    if tenant:
        return f"{queue(model)}{KOMBU_SEPARATOR}{step}{KOMBU_SEPARATOR}{tenant_name(tenant)}"
    return f"{queue(model)}{KOMBU_SEPARATOR}{step}" if step else queue(model)


def stock_lists(queue: str) -> tuple[str, ...]:
    """Return the lists of a queue that kombu keeps: one a priority step, urgent first."""
    return tuple(f"{queue}{KOMBU_SEPARATOR}{step}" if step else queue for step in KOMBU_STEPS)


def tenants_key(queue: str) -> str:
    """Return the key of a queue's tenant rotation: tenants that wait, "" for the stock lists, by what each has been served."""
    return f"{_TENANTS}{queue}"


def wakeup_key(queue: str) -> str:
    """Return the key of the wakeup tokens of a queue, a short list."""
    return f"{_WAKEUP}{queue}"


def consumers_key(queue: str) -> str:
    """Return the key of the set of workers that consume a queue."""
    return f"{_CONSUMERS}{queue}"


def reserved_key(worker: str) -> str:
    """Return the key of a worker's reservations: a hash of tag, space and list key -> envelope."""
    return f"{_RESERVED}{worker}"


def reply_channel(client: str) -> str:
    """Return the channel on which a client process receives its finished jobs, in groups."""
    return f"{_REPLY}{client}"


def limit_keys(key: str) -> tuple[str, str, str]:
    """Return the keys of an API key's limits: its rate, its jobs in flight, and that these were checked lately."""
    return f"mutirao:limit:{key}:rate", f"mutirao:limit:{key}:jobs", f"mutirao:limit:{key}:looked"


def record_key(id: str) -> str:
    """Return the key of a job's record: Celery's own result key, and the channel on which its end is published."""
    return f"{_RECORD}{id}"


def payload_key(id: str, side: Literal["in", "out"]) -> str:
    """Return the key of the offloaded tensors of a request ("in") or of a result ("out")."""
    return f"{_PAYLOAD}{id}:{side}"


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562), which holds the time of its creation."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Return many such ids at once."""
    millis = f"{time.time_ns() // 1_000_000:012x}"
    head = f"{millis[:8]}-{millis[8:]}-7"
    random = os.urandom(10 * count).hex()
    parts = (random[at : at + 19] for at in range(0, 20 * count, 20))
    return [f"{head}{part[:3]}-{_VARIANTS[part[3]]}{part[4:7]}-{part[7:]}" for part in parts]


def created_at(id: str) -> float | None:
    """Return when an id of `new_id` was created, in seconds since the epoch; None for an id of the caller's own."""
    own = unqualified(id)
    try:
        parsed = uuid.UUID(own)
    except ValueError:
        return None
    return (parsed.int >> 80) / 1000 if parsed.version == 7 and str(parsed) == own else None


def _checked(pattern: re.Pattern[str], noun: str, value: str, rule: str) -> str:
    if not isinstance(value, str):
        raise errors.InvalidRequest(
            f"{noun} {value!r} is not allowed: it must be text, {rule}", reason=f"{noun} not allowed"
        )
    if not pattern.fullmatch(value):
        raise errors.InvalidRequest(f"{noun} {value!r} is not allowed: it must be {rule}", reason=f"{noun} not allowed")
    return value
