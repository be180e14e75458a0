"""Which backend a client uses: Redis itself, or a gateway over HTTP, by the URL of its settings."""

from __future__ import annotations

from mutirao.client.backend import BackendFactory
from mutirao.client.redis_backend import RedisBackend
from mutirao.client.result_listener import ResultListener
from mutirao.redisdb.drivers import AsyncRedisDriver, RedisDriver
from mutirao.settings import Settings

REDIS = BackendFactory(RedisBackend, RedisDriver, AsyncRedisDriver, ResultListener)


def backend_for(settings: Settings) -> BackendFactory:
    """Return the backend that the broker's URL names.

    Raises:
        SettingsError: the URL is a gateway's, and httpx is not installed.
    """
    if not settings.uses_gateway:
        return REDIS
    from mutirao.client.http_backend import HTTP  # noqa: PLC0415 - httpx is an extra, and is loaded by those alone who use it

    return HTTP
