"""The API keys of a Redis, for tests: the operations of `mutirao.api_keys`, blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from mutirao import api_keys, settings
from mutirao.api_keys import AddedKey, ApiKey, KeyLimits
from mutirao.redisdb.drivers import RedisDriver


class BlockingKeys:
    """Use it as a context manager."""

    def __init__(self, url: str) -> None:
        given = settings.load(broker_url=url)
        self._keys, self._redis = api_keys.ApiKeys(given), RedisDriver(given)

    def add(
        self, tenant: str, *, scopes: Sequence[str] = api_keys.SCOPES, limits: KeyLimits | None = None, note: str = ""
    ) -> AddedKey:
        return self._redis.run(self._keys.add(tenant, scopes=scopes, limits=limits, note=note))

    def all(self) -> dict[str, ApiKey]:
        return self._redis.run(self._keys.all())

    def any(self) -> bool:
        return self._redis.run(self._keys.any())

    def find(self, id: str) -> ApiKey:
        return self._redis.run(self._keys.find(id))

    def revoke(self, id: str) -> ApiKey:
        return self._redis.run(self._keys.revoke(id))

    def close(self) -> None:
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
