"""From the bytes of a body to checked, encoded inputs: a small body at once, a large one in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from mutirao import errors
from mutirao.client import encoding, request_data
from mutirao.client.encoding import Packed
from mutirao.client.request_data import RowBatch
from mutirao.gateway.requests import body_parsing, v2_binary, v2_json
from mutirao.gateway.requests.request import Head, unpacked
from mutirao.gateway.requests.v2_json import ParsedBody
from mutirao.gateway.state.process_pool import ProcessPool
from mutirao.registry import ModelInfo
from mutirao.wire.http_schemas import InferBody, RequestInputs
from mutirao.wire.messages import Tensor

# A larger body is parsed in another process: one of this size takes the event loop some milliseconds.
SMALL_BYTES = 64 * 1024
# Raw numbers cost next to nothing up to this size; more of them are parsed in a thread, where numpy releases the interpreter's lock.
SMALL_RAW_BYTES = 1024 * 1024
# The greatest ratio by which a compressed body can grow.
RATIO = 1032
# This many requests take the event loop some milliseconds.
FEW = 100

Inputs = tuple[Tensor, ...]
T = TypeVar("T")


class One(NamedTuple):
    """One request: its parsed body, and its inputs as raw tensors."""

    parsed: ParsedBody
    inputs: Inputs

    @property
    def rows(self) -> int:
        """Count its rows."""
        return self.inputs[0].shape[0]


class Many(NamedTuple):
    """The requests of a batch: the parsed body, their inputs, and how many there are."""

    parsed: ParsedBody
    bound: RowBatch | Packed | Sequence[Inputs]
    requests: int


async def parse(work: Callable[..., T], pool: ProcessPool, head: Head, body: bytes, info: ModelInfo, limit: int) -> T:
    """Run `one` or `many` where it holds no other request up.

    Raises:
        InvalidRequest: the model does not take a request, or there are too many; the class says why.
    """
    if _is_small(head, body):
        return work(head, body, info, limit)
    head = Head(head.lines, head.query_string)
    if _is_raw(head, info):
        if len(body) <= SMALL_RAW_BYTES:
            return work(head, body, info, limit)
        return await asyncio.to_thread(work, head, body, info, limit)
    return await pool.run(_without_data, work, head, body, info, limit)


def _is_small(head: Head, body: bytes) -> bool:
    if len(body) > SMALL_BYTES:
        return False
    return b"content-encoding" not in head.headers or len(body) * RATIO <= SMALL_BYTES


def _is_raw(head: Head, info: ModelInfo) -> bool:
    """Return whether nearly all of a body is raw numbers."""
    length = head.headers.get(v2_binary.HEADER_LENGTH, b"")
    small = length.isdigit() and len(length) < 8 and int(length) <= SMALL_BYTES
    has_text = any(spec.datatype == "BYTES" for spec in info.signature.inputs)
    return small and b"content-encoding" not in head.headers and not has_text


def one(head: Head, body: bytes, info: ModelInfo, limit: int) -> One:
    """Parse and validate a request."""
    parsed = body_parsing.read(head, unpacked(head, body, limit), info)
    arrays = v2_json.arrays(info, parsed)
    return One(parsed, encoding.encoded(arrays))


def many(head: Head, body: bytes, info: ModelInfo, limit: int) -> Many:
    """Parse and validate a batch: each of its requests by itself, or the rows of one table."""
    # All rows are checked at once, so the limit of one request is not theirs.
    takes = msgspec.structs.replace(info.signature, max_rows=request_data.REQUESTS_MAX)
    wide = msgspec.structs.replace(info, signature=takes)
    parsed = body_parsing.read(head, unpacked(head, body, limit), wide)
    requests = parsed.body.requests
    if requests is not None:
        request_data.count(requests)
        bound = [_numbered(at, info, request) for at, request in enumerate(requests)]
        return Many(parsed, Packed.pack(bound) if len(bound) > FEW else bound, len(bound))
    arrays = {name: np.ascontiguousarray(array) for name, array in v2_json.arrays(wide, parsed).items()}
    rows = len(next(iter(arrays.values())))
    if any(array.dtype == object for array in arrays.values()):
        each = map(encoding.encoded, RowBatch(arrays, rows).requests())
        return Many(parsed, Packed.pack(each) if rows > FEW else list(each), rows)
    return Many(parsed, RowBatch(arrays, rows), rows)


def _numbered(at: int, info: ModelInfo, request: RequestInputs) -> Inputs:
    try:
        return encoding.encoded(v2_json.of_request(info, request))
    except errors.MutiraoError as exc:
        raise type(exc)(f"request {at}: {exc}", **exc.data) from None


_NO_DATA: dict[str, Any] = {"inputs": msgspec.UNSET, "rows": msgspec.UNSET, "requests": None}


def _without_data(work: Callable[..., Any], *args: Any) -> Any:
    """Leave the encoded data out of the body, so that it is not copied between processes."""
    read = work(*args)
    body: InferBody = msgspec.structs.replace(read.parsed.body, **_NO_DATA)
    return read._replace(parsed=read.parsed._replace(body=body, data=None))
