"""kombu's Redis transport with its way of taking requests replaced: a channel that waits for wakeup tokens.

A channel is kombu's own until the worker's consumer sets `listener`: from then on it blocks on short lists of wakeup
tokens, one a queue, and never on the queues. So nothing of value is ever in flight in a reply that a dying worker has popped. A worker with a free
slot sends the call that takes requests right behind: Redis runs it when a token has come, and what waits comes with the token. Fanout
(events, remote control), publishing, reconnection and everything else stay kombu's.
"""

from __future__ import annotations

import contextlib
import time
from queue import Empty
from typing import Any, Protocol

import redis
from kombu.transport import TRANSPORT_ALIASES, _transport_cache
from kombu.transport import redis as stock
from kombu.utils.json import dumps

from mutirao import keyspace, socket_options
from mutirao.redisdb.connection import Packer
from mutirao.settings import Settings
from mutirao_worker.celery_adapter import queue_purge
from mutirao_worker.engine.script_client import reply_of

# Requests of producers that leave no token are found after this long; it is also what an idle worker's loop costs: two commands a turn.
LISTEN_S = 0.25
TOKENS_MAX = 8


# kombu's own types are those of its initial values.
_Channel: Any = stock.Channel
_QoS: Any = stock.QoS


class WakeupListener(Protocol):
    """Takes requests when a wakeup token has come."""

    def has_room(self, queue: str | None = None) -> bool:
        """Whether a request could be put to use now: one of this queue, or any."""

    def on_no_room(self, queue: str) -> None:
        """Called where a queue's token has come while there was no room for its requests."""

    def on_wakeup(self, queue: str | None) -> None:
        """Called where a queue's token has come; None where none has for a while."""

    def next_command(self) -> bytes | None:
        """Make the command that is to run when the listening ends; None where what follows has yet to be seen."""

    def on_reply(self, queue: str | None, reply: Any) -> None:
        """Called instead of `on_wakeup` where that command has run: its reply, or why Redis refused it."""

    def mark_uncertain(self) -> None:
        """Called where the connection broke meanwhile: the next command may have run all the same."""


class Channel(_Channel):  # type: ignore[misc]
    """kombu's channel, waiting for wakeup tokens once it has a listener.

    Attributes:
        listener: takes requests; None for kombu's own way.
        replied_at: when the last reply came, by the monotonic clock.
        idle_at: when it last had nothing to ask.
        subscribers_reached: how many connections have got what was last broadcast over it; None where nothing was.
    """

    listener: WakeupListener | None = None
    replied_at = 0.0
    idle_at = 0.0
    subscribers_reached: int | None = None
    _commands: Any = None
    _next_command: bytes | None = None
    _in_poll: Any
    socket_timeout: Any
    _sent_at = 0.0
    _brpop_sent_at: Any
    _no_room: frozenset[str] = frozenset()  # queues whose token came while there was room for others alone

    def wake(self, queue: str) -> None:
        """Wake a worker of a queue; where Redis is full or away, the worker looks by itself before long."""
        with contextlib.suppress(self.ResponseError, *self.connection_errors), self.conn_or_acquire() as client:
            pipe = client.pipeline(transaction=False)
            pipe.lpush(keyspace.wakeup_key(queue), "1")
            pipe.ltrim(keyspace.wakeup_key(queue), 0, TOKENS_MAX - 1)
            pipe.execute()

    def _purge(self, queue: str) -> int:
        """Empty a queue, for `celery purge`: the jobs of a model's end as cancelled, tenants' too."""
        if keyspace.model_of(queue) is None:
            return int(super()._purge(queue))
        with self.conn_or_acquire() as client:
            return queue_purge.empty(client, queue)

    @property
    def last_active_at(self) -> float:
        """When a reply last came, or there was nothing to wait for: a channel for which neither comes serves nobody."""
        return max(self.replied_at, self.idle_at)

    def is_overdue(self) -> bool:
        """Whether a reply is awaited for longer than Redis may keep it back and an answer may take, together."""
        waited_s = time.monotonic() - self._sent_at
        if self.listener is None or not self._in_poll or waited_s < LISTEN_S + self.socket_timeout:
            return False
        return not stock._socket_readable(self._in_poll._sock)  # noqa: SLF001 - it came while this process stood still

    def close(self) -> None:
        """Close; a token that is on its way is nothing to wait for."""
        if self.listener is not None and self._in_poll:
            self._in_poll.disconnect()
            self._in_poll = None
        super().close()

    def abandon(self) -> None:
        """Close connections that are believed to be broken, without sending anything over them."""
        self.auto_delete_queues.clear()
        for client in (self.__dict__.get("client"), self.__dict__.get("subclient")):
            if client is not None and client.connection is not None:
                client.connection.disconnect()
        self._disconnect_pools()

    def pattern_count(self) -> int:
        """How many patterns of broadcasts are listened to on this Redis."""
        with self.conn_or_acquire() as client:
            return int(client.pubsub_numpat())

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **options: Any) -> None:
        if options.get("_publish_batch") is not None:
            super()._put_fanout(exchange, message, routing_key, **options)
            return
        topics, payload = self._get_publish_topics(exchange, routing_key), dumps(message)
        with self.conn_or_acquire() as client:
            self.subscribers_reached = sum(client.publish(topic, payload) for topic in topics)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Keep the client for what is not waited for: kombu makes one for each command, which costs more than the command."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._commands is None or self._commands.connection_pool is not self.pool:
            self._commands = super()._create_client()
        return self._commands

    def _brpop_start(self, timeout: float | None = None) -> None:
        if self.listener is None:
            super()._brpop_start(timeout)
            return
        if not self.listener.has_room():
            self.idle_at = time.monotonic()
            return
        self._no_room = frozenset(queue for queue in self._no_room if not self.listener.has_room(queue))
        names = [name for name in self._queue_cycle.consume(len(self.active_queues)) if name not in self._no_room]
        if not names:
            self.idle_at = time.monotonic()
            return
        self._in_poll, self._sent_at = self.client.connection, time.monotonic()
        self._brpop_sent_at = None  # or kombu would drop a connection that it believes to be silent, by its own measure
        self._next_command = self.listener.next_command()
        packed = Packer().pack("BRPOP", *map(keyspace.wakeup_key, names), LISTEN_S)
        self.client.connection.send_packed_command(
            packed if self._next_command is None else [*packed, self._next_command]
        )

    def _brpop_read(self, **options: Any) -> bool:
        if self.listener is None:
            return bool(super()._brpop_read(**options))
        connection, next_command, reply = self.client.connection, self._next_command, None
        try:
            token = self.client.parse_response(connection, "BRPOP", **options)
            if next_command is not None:
                reply = reply_of(connection)
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self.replied_at = time.monotonic()
        queue = token[0].decode().removeprefix(keyspace.wakeup_key("")) if token else None
        if next_command is None and queue is not None and not self.listener.has_room(queue):
            self.wake(queue)  # it is for somebody who has room
            self.listener.on_no_room(queue)
            self._no_room |= {queue}
            raise Empty
        self._no_room = frozenset()
        if queue is not None:
            self._queue_cycle.rotate(queue)
        if next_command is None:
            self.listener.on_wakeup(queue)
        else:
            self.listener.on_reply(queue, reply)
        return True

    def _on_connection_disconnect(self, connection: Any) -> None:
        listened = self._in_poll is connection
        super()._on_connection_disconnect(connection)
        if listened and self.listener is not None:
            self.listener.mark_uncertain()

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        super()._put(queue, message, **options)
        if keyspace.model_of(queue):
            self.wake(queue)


class QoS(_QoS):  # type: ignore[misc]
    """kombu's bookkeeping, idle while the engine does its own: requests are held in Redis, by reservation."""

    def can_consume(self) -> bool:
        """Always listen: whether to take requests is decided when a token has come."""
        return self.channel.listener is not None or bool(super().can_consume())

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Leave requests where they are: a lease that lapses says whose they are, not the time since they were taken."""


Channel.QoS = QoS


# What Redis refuses while it is a replica, full, short of a disk or out of reach of this user, it may take again in a moment: any
# error reply means what a broken connection means, and has the same cure. So kombu and Celery, which know no other, connect again.
AWAY = (*stock.Transport.connection_errors, redis.ResponseError, redis.InvalidResponse)


class Transport(stock.Transport):
    """The engine's transport."""

    Channel = Channel
    connection_errors = AWAY


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same, its master found by Sentinel."""


class SentinelTransport(stock.SentinelTransport):
    """The engine's transport over Sentinel."""

    Channel = SentinelChannel
    connection_errors = AWAY


ALIASES = {
    "redis": f"{__name__}:Transport",
    "rediss": f"{__name__}:Transport",
    "sentinel": f"{__name__}:SentinelTransport",
}


def options(settings: Settings) -> dict[str, Any]:
    """Choose kombu's options of connections: none waits without end, and one whose peer is gone without a word breaks.

    The health checks are of subscriptions, on which nothing may come for hours: a PING as often as this, and two that are not answered
    end the connection.
    """
    return {
        "health_check_interval": max(1, round(settings.timeout_s)),
        "master_name": settings.sentinel_master,
        "socket_connect_timeout": settings.timeout_s,
        "socket_keepalive": True,
        "socket_keepalive_options": socket_options.keepalive(settings.timeout_s),
        "socket_timeout": settings.timeout_s,
    }


def install() -> None:
    """Make Redis URLs use the engine's transport in this process."""
    TRANSPORT_ALIASES.update(ALIASES)
    for name in ALIASES:
        _transport_cache.pop(name, None)
