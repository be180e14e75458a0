"""What a client prefers (RFC 7240): to be answered at once with the job's address, or to wait so many seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Preference(NamedTuple):
    """The tokens that mean something here.

    Attributes:
        respond_async: the client would rather have the job's address than wait.
        wait_s: for how long it would wait; None where it does not say.
    """

    respond_async: bool = False
    wait_s: int | None = None

    @property
    def applied(self) -> str:
        """The value of Preference-Applied."""
        wait = [] if self.wait_s is None else [f"wait={self.wait_s}"]
        return ", ".join((["respond-async"] if self.respond_async else []) + wait)


NONE = Preference()


def read(lines: Iterable[str]) -> Preference:
    """Read every Prefer header of a request; unknown tokens are ignored, of a repeated one the first counts."""
    found: dict[str, str] = {}
    for line in lines:
        for part in line.split(","):
            name, _, value = part.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return Preference("respond-async" in found, _seconds(found.get("wait")))


def _seconds(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 9 else None
