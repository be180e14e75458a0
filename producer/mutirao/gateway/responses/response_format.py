"""The format of a response: JSON, V2's binary form, CSV or npy, as the request asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mutirao import errors
from mutirao.gateway.openapi.route_doc import Param
from mutirao.gateway.requests import submit_options
from mutirao.gateway.requests.request import Head, Request
from mutirao.gateway.responses import response
from mutirao.wire.http_schemas import InferBody

FORMS = (response.JSON, response.BINARY, response.CSV, response.NPY)
PREFERENCES_MAX = 64
NAN = {
    "nan": Param(
        "null has JSON hold null for NaN and infinities, which it cannot carry; else they are 406.", {"enum": ["null"]}
    )
}
_PLAIN = (b"*/*", b"application/json")


class ResponseFormat(NamedTuple):
    """The format of a response.

    Attributes:
        media: one of `FORMS`; JSON and octet-stream are V2's two forms.
        raw: whether outputs are raw bytes where their own parameters do not say otherwise.
        by_output: whether it is raw, by the name of each output whose own parameters say so.
        null: whether JSON has null for a number that it cannot hold: NaN or an infinity.
    """

    media: str = response.JSON
    raw: bool = False
    by_output: Mapping[str, bool] = {}
    null: bool = False

    @property
    def text(self) -> bool:
        """Whether the worker's own JSON can be passed on."""
        return self.media == response.JSON and not self.raw and not any(self.by_output.values())


DEFAULT = ResponseFormat()


def accepted(accept: bytes | None, default: str = response.JSON) -> str:
    """Return the media type that an Accept header prefers.

    Raises:
        NotAcceptable: it accepts none; the message names those there are.
    """
    if accept is None or accept in _PLAIN:
        return default if accept != _PLAIN[1] else response.JSON
    best, liked = 0.0, ""
    for media, q in _preferences(accept.decode("latin-1")):
        found = next((form for form in (default, *FORMS) if _matches(media, form)), "")
        if found and q > best:
            best, liked = q, found
    if not liked:
        raise errors.NotAcceptable(
            f"the Accept header accepts none of the media types of a response: {', '.join(FORMS)}"
        )
    return liked


def requested(request: Request, body: InferBody, *, bare: bool = False) -> ResponseFormat:
    """Return the format that a request wants its response in.

    Args:
        request: the request.
        body: what stands around its data.
        bare: whether the request was one raw tensor, so that the response's tensors are raw.
    """
    media = accepted(request.headers.get(b"accept"))
    raw = bare or (body.parameters or {}).get("binary_data_output") is True
    by_output = {
        output.name: bool((output.parameters or {})["binary_data"])
        for output in body.outputs or ()
        if "binary_data" in (output.parameters or {})
    }
    return ResponseFormat(media, raw, by_output, nan_as_null(request))


def nan_as_null(request: Head) -> bool:
    """Return whether JSON has null for NaN and infinities, by the query.

    Raises:
        InvalidRequest: the query has another value.
    """
    value = request.param("nan")
    if value not in (None, "null"):
        raise submit_options.not_allowed("nan", value, "null, or left out")
    return value is not None


def _preferences(accept: str) -> list[tuple[str, float]]:
    found = []
    for part in accept.split(",", PREFERENCES_MAX)[:PREFERENCES_MAX]:
        media, _, rest = part.strip().partition(";")
        q = next((each.partition("=")[2] for each in rest.replace(" ", "").split(";") if each.startswith("q=")), "1")
        try:
            found.append((media.strip().lower(), float(q)))
        except ValueError:
            continue
    return found


def _matches(media: str, form: str) -> bool:
    return media in ("*/*", form, form.partition("/")[0] + "/*")
