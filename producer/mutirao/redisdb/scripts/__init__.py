"""The Lua scripts that Redis runs: each with what it begins with, and with the keyspace's names, which no script spells again."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from mutirao import keyspace

# What each begins with.
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
    # The engine's.
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
# The names of the keyspace, as local variables of each script.
_NAMES = "".join(
    f"local {name} = {value if isinstance(value, int) else chr(34) + value + chr(34)}\n"
    for name, value in keyspace.LUA_NAMES.items()
)


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text()


SCRIPTS = {name: _NAMES + "".join(map(_read, (*parts, name))) for name, parts in _PARTS.items()}
# Redis's own name for a script.
DIGESTS = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}  # noqa: S324
