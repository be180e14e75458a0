"""The envelope of a message as kombu keeps it in a Redis list: its headers and properties, as each reader needs them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class ClientHeader(msgspec.Struct, frozen=True):
    """The header `mutirao`, which only this project's client writes.

    Attributes:
        rows: how many rows the request has, as its client says; the process that runs it counts them itself.
        reply: the client process that waits for the result; "" for none.
        offloaded: whether the request's tensors are kept under a key of their own.
    """

    rows: int = 1
    reply: str = ""
    offloaded: bool = msgspec.field(name="beside", default=False)


class Headers(msgspec.Struct, frozen=True, kw_only=True):
    """The headers that a person is shown of any message.

    Attributes:
        argsrepr: the request's summary.
        mutirao: what this project's client says; None for a stock client.
    """

    argsrepr: str | None = None
    mutirao: ClientHeader | None = None


class TaskHeaders(Headers, frozen=True, kw_only=True):
    """The headers of Celery's message protocol 2 that a worker needs.

    Attributes:
        attempts: this project's own: deliveries that came to nothing.
        refused_by: this project's own: the digests of the copies of the model that refuse the request.
    """

    id: str
    task: str
    attempts: int = 0
    compression: str | None = None
    eta: str | None = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    ignore_result: bool | None = None
    parent_id: str | None = None
    refused_by: Any = None
    retries: int | None = 0
    root_id: str | None = None
    timelimit: Any = None


class Properties(msgspec.Struct, frozen=True):
    """How the body is encoded: base64, or None for text."""

    body_encoding: str | None = None


class TaskProperties(Properties, frozen=True):
    """The properties that a worker needs."""

    priority: int | None = 0


class Envelope(msgspec.Struct, frozen=True):
    """A message of any client, read as leniently as showing it to a person allows."""

    headers: Headers
    properties: Properties = Properties()
    content_type: str | None = msgspec.field(name="content-type", default=None)
    body: str = ""


class TaskEnvelope(msgspec.Struct, frozen=True):
    """A task message of protocol 2, as a worker takes it."""

    headers: TaskHeaders
    properties: TaskProperties
    body: str
    content_type: str | None = msgspec.field(name="content-type", default=None)


class WebhookHeaders(msgspec.Struct, frozen=True):
    """The headers that Celery takes for granted in a webhook's message."""

    id: str
    task: Literal["mutirao.webhook"]
    retries: int = 0


class WebhookProperties(msgspec.Struct, frozen=True):
    """The properties that kombu takes for granted in a webhook's message."""

    delivery_tag: str
    delivery_info: dict[str, Any]
    body_encoding: None = None


class WebhookEnvelope(msgspec.Struct, frozen=True):
    """A message that delivers a webhook."""

    headers: WebhookHeaders
    properties: WebhookProperties
    body: str
