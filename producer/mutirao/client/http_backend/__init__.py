"""The HTTP backend: the client's operations through a gateway."""

from mutirao.client.backend import BackendFactory
from mutirao.client.http_backend.backend import HttpBackend
from mutirao.client.http_backend.long_poll import LongPoller
from mutirao.client.http_backend.transport import AsyncHttpTransport, HttpTransport

__all__ = ["HTTP"]

HTTP = BackendFactory(HttpBackend, HttpTransport, AsyncHttpTransport, LongPoller)
