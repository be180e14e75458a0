"""The body of a submit: JSON, followed by the raw tensors of all its requests."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mutirao import errors
from mutirao.client.encoding import SubmitOptions, encoded
from mutirao.client.request_data import RowBatch, ValidatedRequests
from mutirao.wire import binary_codec
from mutirao.wire.http_schemas import InferBody, RequestInputs
from mutirao.wire.messages import RequestedOutput


def encode(options: SubmitOptions, validated: ValidatedRequests, ids: Sequence[str], limit: int) -> tuple[bytes, int]:
    """Return the body and the length of its JSON.

    Args:
        options: what is the same for each.
        validated: the requests' arrays.
        ids: an id for each.
        limit: the longest body, in bytes.

    Raises:
        PayloadTooLarge: it is longer.
    """
    each = [validated.arrays] if isinstance(validated, RowBatch) else validated
    detached = [binary_codec.detach_raw(encoded(arrays)) for arrays in each]
    batch = isinstance(validated, RowBatch)
    body = InferBody(
        ids=tuple(ids),
        inputs=detached[0][0] if batch else msgspec.UNSET,
        requests=None if batch else tuple(RequestInputs(inputs=heads) for heads, _ in detached),
        outputs=tuple(RequestedOutput(name) for name in options.outputs) if options.outputs else None,
        parameters=dict(options.parameters) if options.parameters else None,
    )
    head, raws = msgspec.json.encode(body), [raw for _, raw in detached]
    size = len(head) + sum(map(len, raws))
    if size > limit:
        text = f"the call is {size} bytes, the limit is {limit}: split it, or raise MUTIRAO_MAX_REQUEST_BYTES"
        raise errors.PayloadTooLarge(text, limit=limit, size=size)
    return b"".join((head, *raws)), len(head)
