"""What an HTTP server must offer to be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError
from urllib.request import urlopen

from workload import Workload


class Front(ABC):
    """One HTTP server with one model behind it, in processes of its own.

    Attributes:
        port: where it listens, once it has started.
        folder: an empty folder of its own.
    """

    name: ClassVar[str]
    port: int

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload = workload
        self.folder = folder

    @abstractmethod
    def start(self) -> None:
        """Start everything and return when it can answer; raise when it cannot."""

    @abstractmethod
    def stop(self) -> None:
        """End everything that `start` started."""

    @abstractmethod
    def processes(self) -> dict[str, list[int]]:
        """Return its process ids by role: "server" speaks HTTP, "workers" run the model, "redis" is the queue."""


def answers(url: str) -> bool:
    """Whether a server answers there with 200."""
    try:
        with urlopen(url, timeout=5) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False
