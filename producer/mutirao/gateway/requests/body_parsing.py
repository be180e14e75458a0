"""Parse a request's body by its content type: V2 in JSON or with raw tensors, JSON rows, CSV, npy, or one file of a form."""

from __future__ import annotations

from mutirao import errors
from mutirao.gateway.openapi.route_doc import Param
from mutirao.gateway.requests import table_files, v2_binary, v2_json
from mutirao.gateway.requests.request import Head
from mutirao.gateway.requests.v2_json import EMPTY, ParsedBody
from mutirao.registry import ModelInfo
from mutirao.tables.csv_dialect import DELIMITERS, HEADERS, Dialect

# Of the query, for a CSV; what is left out is detected.
PARAMS = {
    "delimiter": Param("What stands between the values of a CSV.", {"enum": [*DELIMITERS, *DELIMITERS.values()]}),
    "decimal": Param("The decimal sign of a CSV.", {"enum": [".", ","]}),
    "header": Param("Whether the first line of a CSV names its columns.", {"enum": list(HEADERS)}),
}
# Media types other than JSON.
MEDIAS = ("application/octet-stream", "text/csv", "application/x-npy", "multipart/form-data")
_JSON = (
    "application/json",
    "text/json",
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "",
)


def read(head: Head, body: bytes, info: ModelInfo) -> ParsedBody:
    """Parse a request's body by its content type.

    Raises:
        InvalidRequest: the body is not of that type.
        PayloadTooLarge: it holds more values than are allowed.
        UnsupportedMedia: the content type is not supported.
    """
    length = head.headers.get(v2_binary.HEADER_LENGTH)
    if length is not None:
        return v2_binary.read(body, length, info.signature)
    header = head.header(b"content-type")
    media = header.partition(";")[0].strip().lower()
    if media in _JSON or media.endswith("+json"):
        return v2_json.read(body)
    if media == "multipart/form-data":
        file = table_files.of_form(body, header, info.signature, _dialect(head, ""))
        return ParsedBody(EMPTY, file.data, notes=file.notes)
    table = table_files.read(body, media, info.signature, _dialect(head, header))
    if table is None:
        text = f"Content-Type {media!r} is not supported: send application/json, application/octet-stream with Inference-Header-Content-Length, text/csv, application/x-npy or multipart/form-data"
        raise errors.UnsupportedMedia(text, reason="content type")
    return ParsedBody(EMPTY, table.data, notes=table.notes)


def _dialect(head: Head, header: str) -> Dialect:
    """Return the dialect of a CSV by the query, and for its header by the content type too (RFC 4180: header=present or absent)."""
    own = table_files.parameter(header, "header")
    return Dialect.checked(head.param("delimiter"), head.param("decimal"), head.param("header") or own)
