"""The OpenAPI document: built of the routes and the wire's types, with examples of the served models' own signatures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version as installed
from typing import Any

import msgspec

from mutirao.gateway.openapi.route_doc import Param, RouteDoc
from mutirao.registry import ModelInfo
from mutirao.wire import json_elements
from mutirao.wire.http_schemas import Problem
from mutirao.wire.signature import Signature, TensorSpec

_JSON = "application/json"
_REF = "#/components/schemas/{name}"
_PATTERNS = {
    "model": r"^[a-z0-9][a-z0-9._-]{0,63}$",
    "version": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    "id": r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$",
}
# The names of schemas in the document, where they are not those of the classes: generated clients import them.
_PUBLISHED = {
    "InferBody": "Body",
    "LiveReply": "Live",
    "ModelMetadata": "Model",
    "ReadyReply": "Ready",
    "RequestInputs": "Request",
    "ServerMetadata": "Server",
    "SubmitManyReply": "Batch",
}
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_VALUES: Mapping[str, Any] = {"BOOL": True, "BYTES": "text"}
_TEXT, _BYTES = {"type": "string"}, {"type": "string", "format": "binary"}
_MEDIAS: Mapping[str, Any] = {
    "application/octet-stream": _BYTES,
    "application/x-npy": _BYTES,
    "multipart/form-data": {"type": "object", "properties": {"file": _BYTES}, "required": ["file"]},
    "text/csv": _TEXT,
    "text/event-stream": _TEXT,
    "text/plain": _TEXT,
}
_ABOUT = """Predictions over HTTP: the Open Inference Protocol (version 2), and jobs that wait in a queue.

Every error is `{"error": text, "type": class, "data": {...}}`."""


def build(routes: Iterable[Any], models: Iterable[ModelInfo] = ()) -> dict[str, Any]:
    """Build the document.

    Args:
        routes: Litestar's handlers, those without a `Doc` are left out.
        models: of whom examples are made.

    Returns:
        OpenAPI 3.1, JSON-ready.
    """
    documented = [(route, route.opt["doc"]) for route in routes if route.opt.get("doc")]
    schemas = _Schemas(doc for _, doc in documented)
    models = [info for info in models if info.state == "ready"]
    paths: dict[str, dict[str, Any]] = {}
    for route, doc in documented:
        for path in sorted(route.paths):
            for method in sorted(route.http_methods):
                operation = _operation(route, doc, path, method, schemas, models)
                paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mutirão",
            "version": installed("mutirao"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "mutirao keys add TENANT"}},
        },
        "security": [{"key": []}, {}],
    }


def example(takes: Signature) -> dict[str, Any]:
    """Make a V2 request of one row that fits a signature: its types and shapes are right, its values are nobody's."""
    return {"inputs": [_tensor(spec) for spec in takes.inputs]}


def row(takes: Signature) -> list[Any]:
    """Make one row for the short form `{"rows": [...]}`."""
    if takes.frame:
        return [{spec.name: _value(spec.datatype) for spec in takes.inputs}]
    (spec, *others) = takes.inputs
    if spec.name in takes.json_inputs and not others:
        return [{}]
    return [_nested(spec.shape[1:], spec.datatype)]


class _Schemas:
    """The JSON schemas of every type that a route names."""

    def __init__(self, docs: Iterable[RouteDoc]) -> None:
        kinds = {
            id(kind): kind for doc in docs for kind in (doc.body, doc.answer, *doc.others.values()) if kind is not None
        }
        schemas, self.components = _published(
            msgspec.json.schema_components([Problem, *kinds.values()], ref_template=_REF)
        )
        self._of: dict[int, dict[str, Any]] = dict(zip([id(Problem), *kinds], schemas, strict=True))
        for schema in self.components.values():
            _describe(schema)
            _add_items(schema)

    def of(self, kind: Any) -> dict[str, Any]:
        return self._of[id(kind)]


def _published(schemas: Any) -> Any:
    """Give schemas the names that they are published under."""
    text = msgspec.json.encode(schemas).decode()
    for name, published in _PUBLISHED.items():
        text = text.replace(f'/{name}"', f'/{published}"').replace(f'"{name}"', f'"{published}"')
    return msgspec.json.decode(text)


def _describe(schema: dict[str, Any]) -> None:
    """Move what a docstring says of each attribute to that attribute."""
    first, _, rest = inspect.cleandoc(schema.pop("description", "")).partition("Attributes:")
    if first.strip():
        schema["description"] = first.strip()
    for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", rest, re.MULTILINE):
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = " ".join(text.split())


def _add_items(schema: Any) -> None:
    """Give each list of anything within a schema its `items`: generators of clients leave out a schema without."""
    if isinstance(schema, dict) and schema.get("type") == "array" and "prefixItems" not in schema:
        schema.setdefault("items", {})
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _add_items(inner)


def _operation(
    route: Any, doc: RouteDoc, path: str, method: str, schemas: _Schemas, models: list[ModelInfo]
) -> dict[str, Any]:
    text = inspect.getdoc(route.opt["run"]) or ""
    summary, _, more = text.partition("\n\n")
    made: dict[str, Any] = {
        "tags": [doc.tag],
        "operationId": _named(method, path),
        "summary": " ".join(summary.split()).rstrip("."),
        "description": text if more else " ".join(summary.split()),
        "parameters": [*_in_path(path, models), *(_parameter(name, one) for name, one in doc.params.items())],
        "responses": _responses(doc, schemas),
    }
    if doc.body is not None:
        made["requestBody"] = _body(doc, schemas, models)
    return made


def _in_path(path: str, models: list[ModelInfo]) -> list[dict[str, Any]]:
    made = []
    for name in _PARAMETER.findall(path):
        schema: dict[str, Any] = {"type": "string", **({"pattern": _PATTERNS[name]} if name in _PATTERNS else {})}
        one: dict[str, Any] = {"name": name, "in": "path", "required": True, "schema": schema}
        known = {"model": [info.name for info in models], "version": [info.version for info in models]}.get(name)
        if known:
            one["example"] = known[0]
        made.append(one)
    return made


def _parameter(name: str, one: Param) -> dict[str, Any]:
    where = "header" if one.header else "query"
    return {
        "name": name,
        "in": where,
        "required": False,
        "description": one.says,
        "schema": dict(one.schema or {"type": "string"}),
    }


def _body(doc: RouteDoc, schemas: _Schemas, models: list[ModelInfo]) -> dict[str, Any]:
    examples = {}
    if "inputs" in str(getattr(doc.body, "__struct_fields__", ())):
        for info in models:
            examples[info.name] = {"summary": f"{info.name}, one row", "value": example(info.signature)}
            examples[f"{info.name}-rows"] = {"summary": f"{info.name}, short", "value": {"rows": row(info.signature)}}
    content: dict[str, Any] = {_JSON: {"schema": schemas.of(doc.body), **({"examples": examples} if examples else {})}}
    for media in doc.medias:
        content[media] = {"schema": _MEDIAS[media]}
    return {"required": True, "content": content}


def _responses(doc: RouteDoc, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {} if doc.answer is None else {_JSON: {"schema": schemas.of(doc.answer)}}
    content |= {media: {"schema": _MEDIAS[media]} for media in doc.forms}
    responses: dict[str, Any] = {}
    if doc.status < 400:
        responses[str(doc.status)] = {"description": HTTPStatus(doc.status).phrase, "content": content}
    for status, kind in doc.others.items():
        own = {} if kind is None else {"content": {_JSON: {"schema": schemas.of(kind)}}}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **own}
    problem = {_JSON: {"schema": schemas.of(Problem)}}
    for status in sorted({*doc.refusals, 401, 403}):
        one: dict[str, Any] = {"description": HTTPStatus(status).phrase, "content": dict(problem)}
        if status in (429, 503):
            one["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        if status in doc.answered:
            one["content"] = {_JSON: {"schema": {"anyOf": [schemas.of(Problem), schemas.of(doc.answer)]}}}
        responses[str(status)] = one
    return responses


def _named(method: str, path: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", _PARAMETER.sub(r"by_\1", path)).strip("_")
    return f"{method.lower()}_{words}"


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [1 if size < 0 else size for size in spec.shape]
    is_json = getattr(spec, "format", "") == json_elements.FORMAT
    data = ["{}"] if is_json else _nested(tuple(shape), spec.datatype)
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}


def _nested(shape: tuple[int, ...], datatype: str) -> Any:
    if not shape:
        return _value(datatype)
    return [_nested(shape[1:], datatype) for _ in range(max(1, shape[0]))]


def _value(datatype: str) -> Any:
    return _VALUES.get(datatype, 1.5 if datatype.startswith("FP") else 1)
