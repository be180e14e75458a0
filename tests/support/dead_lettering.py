"""Requests whose worker is lost, as often as it takes: the engine's own scripts make dead letters of them, without a worker.

ids = dead_lettering.dead_letters(server.url, "iris", 2)
"""

from __future__ import annotations

import redis

from mutirao import keyspace, settings
from mutirao_worker.engine.leases import Leases
from support import reservations


def dead_letters(url: str, model: str, count: int, *, deliveries: int = 1) -> list[str]:
    """Take requests of a model as a worker that dies at once, so many times, until another gives them up.

    Returns:
        Their letters' ids.
    """
    known = settings.load({}, broker_url=url, max_deliveries=deliveries)
    dying, living = Leases(known, "dying@host"), Leases(known, "living@host")
    with redis.Redis.from_url(url) as admin:
        for _ in range(deliveries):
            assert len(reservations.reserve(dying, count, names=[keyspace.queue(model)]).requests) == count
            reservations.age(admin, dying)
            assert living.renew_and_adopt([]).adopted == count
        living.deregister()
        found: list[bytes] = admin.zrange(keyspace.DEAD_INDEX, -count, -1)
    dying.close()
    living.close()
    return [id.decode() for id in found]
