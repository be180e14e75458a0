"""The Lua scripts that Redis runs: each with its preludes, and with the names of the keyspace as local variables."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from mutirao import keyspace

# The preludes of each.
_PARTS: dict[str, tuple[str, ...]] = {
    "cancel_or_expire": ("_webhooks",),
    "dead_letters_purge": (),
    "dead_letters_replay": ("_lists",),
    "find_request": (),
    "heartbeat": (),
    "push": ("_lists",),
    "queue_depths": ("_lists",),
    "queue_position": ("_lists",),
    "rate_limit": (),
    "submit": ("_lists",),
    "webhook_settle": (),
    "webhook_take": (),
    "withdraw_model": (),
    **dict.fromkeys(
        (
            "commit",
            "count_retry",
            "deregister",
            "idle_slots",
            "mark_started",
            "poll_queues",
            "prerun_check",
            "renew_and_adopt",
            "requeue",
            "reserve",
        ),
        ("_lists", "_webhooks", "_records"),
    ),
}
_NAMES = "".join(
    f"local {name} = {value if isinstance(value, int) else chr(34) + value + chr(34)}\n"
    for name, value in keyspace.LUA_NAMES.items()
)


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text()


_HEAD = _NAMES + _read("_clock")
SCRIPTS = {name: _HEAD + "".join(map(_read, (*parts, name))) for name, parts in _PARTS.items()}
# The SHA-1 by which Redis knows a script.
DIGESTS = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}  # noqa: S324
