"""What the OpenAPI document says of a route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Param(NamedTuple):
    """A parameter of the query or a header.

    Attributes:
        says: what it is for.
        schema: its JSON schema; a string by default.
        header: whether it is a header.
    """

    says: str
    schema: Mapping[str, Any] = {}
    header: bool = False


class RouteDoc(NamedTuple):
    """What the document says of an address, beside its handler's docstring.

    Attributes:
        tag: the group it stands in.
        params: parameters of the query, and headers, by name.
        body: the type of its JSON body; None where there is none.
        medias: other forms of the body.
        status: of the answer where all is well.
        answer: the type of the JSON answer; None where it is not JSON.
        forms: other forms of the answer.
        refusals: the statuses of its errors.
        others: other statuses where all is well, and the types of their answers.
        answered: those of the refusals that may come with the answer's own type.
    """

    tag: str
    params: Mapping[str, Param] = {}
    body: Any = None
    medias: tuple[str, ...] = ()
    status: int = 200
    answer: Any = None
    forms: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    others: Mapping[int, Any] = {}
    answered: tuple[int, ...] = ()
