"""What a check says."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "unknown", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        check: what was looked at.
        level: ok; unknown where this user may not look; warning for what may hurt one day; problem for what hurts now.
        found: what was found.
        remedy: what to do about it.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def hidden(check: str, command: str) -> Finding:
    """Say that Redis does not let this user look."""
    return Finding(check, "unknown", f"not allowed to look ({command})", "run doctor with the URL of an administrator")


def listed(names: object, limit: int = 6) -> str:
    """Write a few names, and count the rest."""
    found = [str(name) for name in names]  # type: ignore[attr-defined]
    shown = ", ".join(found[:limit])
    return f"{shown} and {len(found) - limit} more" if len(found) > limit else shown
