"""Which models are warm, as the pool's processes tell their parent: through memory that they share since it forked them."""

from __future__ import annotations

import mmap
from collections.abc import Iterable

_SLOT = 512
_WARM = b"\x01"


class Warmth:
    """What the latest warm-up of each model came to, in whichever process it was."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the models' names, before any process is forked; none of them is warm yet."""
        self._places = {name: at * _SLOT for at, name in enumerate(sorted(names))}
        self._shared = mmap.mmap(-1, _SLOT * max(1, len(self._places)))

    def tell(self, name: str, failure: str = "") -> None:
        """Say how a model's warm-up ended.

        Args:
            name: the model.
            failure: what went wrong; empty where it is warm.
        """
        text = failure.encode()[: _SLOT - 1] or _WARM
        at = self._places[name]
        self._shared[at : at + _SLOT] = text.ljust(_SLOT, b"\0")

    def failure(self, name: str) -> str | None:
        """Return what went wrong with a model's warm-up: "" where it is warm, None where no process has said yet."""
        at = self._places[name]
        text = self._shared[at : at + _SLOT].rstrip(b"\0")
        return None if not text else "" if text == _WARM else text.decode(errors="ignore")
