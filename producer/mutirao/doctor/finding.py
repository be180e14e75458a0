"""Findings of checks, and the list of a subject's checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Generic, Literal, TypeVar

import msgspec

Level = Literal["ok", "unknown", "warning", "problem"]
S = TypeVar("S")
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        check: the name of the check; set by the list that the check is in.
        level: ok; unknown where this user may not look; warning for what may do harm later; problem for what does harm now.
        found: the state.
        remedy: what to do about it.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """Return a finding that needs no remedy."""
    return Finding("", "ok", text)


def warning(text: str, remedy: str) -> Finding:
    """Return a finding of what may do harm later."""
    return Finding("", "warning", text, remedy)


def problem(text: str, remedy: str) -> Finding:
    """Return a finding of what does harm now."""
    return Finding("", "problem", text, remedy)


def hidden(command: str) -> Finding:
    """Return a finding of what Redis does not let this user see."""
    return Finding("", "unknown", f"not allowed to look ({command})", "run doctor with the URL of an administrator")


class Checks(Generic[S]):
    """The checks of one subject, in the order of their definition."""

    def __init__(self) -> None:
        self._checks: list[Callable[[S], Finding]] = []

    def add(self, name: str) -> Callable[[Callable[[S], Finding]], Callable[[S], Finding]]:
        """Decorate a check of the whole subject."""

        def register(check: Callable[[S], Finding]) -> Callable[[S], Finding]:
            def named(subject: S) -> Finding:
                return msgspec.structs.replace(check(subject), check=name)

            self._checks.append(named)
            return named

        return register

    def add_for(
        self, name: str, part: Callable[[S], T | None], command: str
    ) -> Callable[[Callable[[T], Finding]], Callable[[S], Finding]]:
        """Decorate a check of one part of the subject, which `command` reads; unknown where that is forbidden."""

        def register(check: Callable[[T], Finding]) -> Callable[[S], Finding]:
            def of_part(subject: S) -> Finding:
                value = part(subject)
                return hidden(command) if value is None else check(value)

            return self.add(name)(of_part)

        return register

    def run(self, subject: S) -> Iterator[Finding]:
        """Run every check."""
        return (check(subject) for check in self._checks)


def listed(names: Collection[object], limit: int = 6) -> str:
    """Join a few names, and count the rest."""
    shown = ", ".join(map(str, [*names][:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
