"""Bodies of messages made by hand, so that their lengths, shapes and bytes may lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def binary(head: object, raw: bytes = b"", length: int | None = None) -> bytes:
    """A body in the binary form; a head of bytes stands as it is."""
    encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
    return (len(encoded) if length is None else length).to_bytes(4, "little") + encoded + raw


def body(*inputs: object, model: str = "iris", **rest: object) -> list[Any]:
    """The head of a request, Celery's triple."""
    return [[model, {"inputs": list(inputs)} | rest], {}, {}]


def raw_tensor(size: object, shape: Sequence[int] = (1, 4), datatype: str = "FP64") -> dict[str, Any]:
    return {"name": "X", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
