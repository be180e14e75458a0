"""The API keys of a Redis, for tests: the operations of `mutirao.keys`, blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from mutirao import keys, settings
from mutirao.broker.redis import Redis
from mutirao.keys import Added, Key, Limits


class Ring:
    """Use it as a context manager."""

    def __init__(self, url: str) -> None:
        given = settings.load(broker_url=url)
        self._keys, self._redis = keys.Keys(given), Redis(given)

    def add(
        self, tenant: str, *, scopes: Sequence[str] = keys.SCOPES, limits: Limits | None = None, note: str = ""
    ) -> Added:
        return self._redis.run(self._keys.add(tenant, scopes=scopes, limits=limits, note=note))

    def all(self) -> dict[str, Key]:
        return self._redis.run(self._keys.all())

    def any(self) -> bool:
        return self._redis.run(self._keys.any())

    def find(self, id: str) -> Key:
        return self._redis.run(self._keys.find(id))

    def revoke(self, id: str) -> Key:
        return self._redis.run(self._keys.revoke(id))

    def close(self) -> None:
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
