"""Test a model of own code without Redis and workers: `load_model(folder).predict(...)`, with the checks of a client and a worker.

The worker's half must be installed: `mutirao[worker]`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array


class LocalModel(Protocol):
    """A model that is loaded into this process."""

    signature: Signature

    def predict(
        self, data: Any, *, outputs: Sequence[str] | None = None, parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Predict as `Client.predict` does; errors are those that a client would get, with the traceback of the model's code."""


def load_model(folder: str | Path, *, example: Any = None) -> LocalModel:
    """Load a folder with model.py into this process, and try it as `mutirao models add` does.

    Args:
        folder: the folder.
        example: rows as the model takes them, or the path of a file with some; where annotations do not say all.

    Raises:
        RepositoryError: it cannot be served; says why.
    """
    (entry,) = importlib.metadata.entry_points(group="mutirao.testing", name="load_model")
    return cast("LocalModel", entry.load()(folder, example=example))
