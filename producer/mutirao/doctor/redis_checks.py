"""Checks of a Redis server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from mutirao.doctor.finding import Finding, hidden
from mutirao.doctor.snapshot import RedisServerInfo
from mutirao.urls import SOCKETS

OLDEST = (6, 2)
APART_S = 2.0
SLOW_MS = 50.0
NEARLY_FULL = 0.8
FULL = 0.95


def findings(server: RedisServerInfo) -> Iterator[Finding]:
    """Run every check."""
    for check in CHECKS:
        yield check(server)


def reachable(server: RedisServerInfo) -> Finding:
    """It answers, and quickly."""
    found = f"{server.url} answers in {server.answered_ms:.1f} ms"
    if server.answered_ms > SLOW_MS:
        return Finding(
            "answer", "warning", found, "put producers, workers and Redis into one network; look at redis-cli --latency"
        )
    return Finding("answer", "ok", found)


def version(server: RedisServerInfo) -> Finding:
    """It is 6.2 or newer."""
    if server.info is None:
        return hidden("version", "INFO")
    name = "Valkey" if server.info.get("server_name") == "valkey" else "Redis"
    shown = str(server.info.get("valkey_version") or server.info.get("redis_version", "?"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", shown)[:2])
    if numbers < OLDEST:
        return Finding("version", "problem", f"{name} {shown}", "use Redis 6.2 or newer, or Valkey")
    return Finding("version", "ok", f"{name} {shown}")


def role(server: RedisServerInfo) -> Finding:
    """It is a primary of its own: replicas refuse writes, and kombu does not speak to a cluster."""
    if server.info is None:
        return hidden("role", "INFO")
    if server.info.get("role") == "slave":
        primary = f"{server.info.get('master_host')}:{server.info.get('master_port')}"
        return Finding(
            "role", "problem", f"a replica of {primary}: it refuses writes", "set MUTIRAO_BROKER_URL to the primary"
        )
    if server.info.get("cluster_enabled"):
        return Finding(
            "role",
            "problem",
            "a cluster: Celery's transport cannot use it",
            "use a single server, with replicas if need be",
        )
    return Finding("role", "ok", "a primary, not a cluster")


def eviction(server: RedisServerInfo) -> Finding:
    """It never deletes what was accepted."""
    if server.info is None:
        return hidden("eviction", "INFO")
    policy = server.info.get("maxmemory_policy", "?")
    remedy = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if policy == "noeviction":
        return Finding("eviction", "ok", "noeviction: a full Redis refuses new requests and keeps the accepted ones")
    if not server.info.get("maxmemory"):
        return Finding("eviction", "warning", f"{policy}, without effect as long as maxmemory is not set", remedy)
    return Finding("eviction", "problem", f"{policy}: a full Redis deletes accepted requests and results", remedy)


def persistence(server: RedisServerInfo) -> Finding:
    """What was accepted survives a crash."""
    if server.info is None:
        return hidden("persistence", "INFO")
    if server.info.get("aof_enabled"):
        return _append_only(server)
    remedy = "redis-cli CONFIG SET appendonly yes, and appendonly yes in redis.conf"
    if server.config is None:
        return Finding(
            "persistence",
            "warning",
            "no append-only file: a crash loses what was queued since the last snapshot, if there are any",
            remedy,
        )
    if server.config.get("save"):
        return Finding(
            "persistence",
            "warning",
            "snapshots only: a crash loses what was queued and answered since the last one",
            remedy,
        )
    return Finding("persistence", "warning", "none: a restart of Redis loses every request and result", remedy)


def _append_only(server: RedisServerInfo) -> Finding:
    assert server.info is not None
    if server.info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            "persistence",
            "problem",
            "the last write to the append-only file failed: Redis refuses writes",
            "make room on the disk of its data folder; see its log",
        )
    synced = {
        "always": Finding("persistence", "ok", "append-only file, synced at each write: nothing accepted is lost"),
        "everysec": Finding("persistence", "ok", "append-only file, synced each second: a crash of the machine may lose the last second"),
        "no": Finding("persistence", "warning", "append-only file, synced when the kernel likes: a crash of the machine may lose 30 s", "redis-cli CONFIG SET appendfsync everysec"),
    }  # fmt: skip
    unseen = Finding("persistence", "ok", "append-only file; how often it is synced, this user may not ask (CONFIG)")
    return synced.get((server.config or {}).get("appendfsync", ""), unseen)


def memory(server: RedisServerInfo) -> Finding:
    """There is room."""
    if server.info is None:
        return hidden("memory", "INFO")
    used, limit = int(server.info.get("used_memory", 0)), int(server.info.get("maxmemory", 0))
    if not limit:
        return Finding("memory", "ok", f"{_size(used)} used, no limit but the machine's")
    found = f"{_size(used)} of {_size(limit)} used"
    remedy = "raise maxmemory, let results go sooner (MUTIRAO_RESULT_TTL_S), or add workers; a full Redis refuses requests, and a worker may lose one that it takes"
    if used > FULL * limit:
        return Finding("memory", "problem", found, remedy)
    return Finding("memory", "warning", found, remedy) if used > NEARLY_FULL * limit else Finding("memory", "ok", found)


def connections(server: RedisServerInfo) -> Finding:
    """There is room for more clients."""
    if server.info is None:
        return hidden("connections", "INFO")
    open_, limit = int(server.info.get("connected_clients", 0)), int(server.info.get("maxclients", 0))
    found = f"{open_} open" + (f" of at most {limit}" if limit else "")
    if limit and open_ > NEARLY_FULL * limit:
        return Finding(
            "connections", "warning", found, "raise maxclients; share a Client among threads instead of making many"
        )
    return Finding("connections", "ok", found)


def clock(server: RedisServerInfo) -> Finding:
    """Its clock and this machine's agree: deadlines count by its clock, the age of an id by this machine's."""
    apart = abs(server.ahead_s)
    if apart <= APART_S:
        return Finding("clock", "ok", f"{apart:.2f} s apart from this machine's")
    way = "ahead of" if server.ahead_s > 0 else "behind"
    return Finding(
        "clock",
        "warning",
        f"Redis is {apart:.1f} s {way} this machine",
        "set both clocks by NTP: timedatectl set-ntp true",
    )


def password(server: RedisServerInfo) -> Finding:
    """Beyond this machine nobody comes in without a password."""
    parts, has_one = urlsplit(server.url), "***" in server.url
    if parts.scheme in SOCKETS:
        return Finding("password", "ok", "reached through a socket of this machine" + WITHOUT * (not has_one))
    if _is_loopback(parts.hostname or ""):
        return Finding("password", "ok", "reached over loopback" + WITHOUT * (not has_one))
    if not has_one:
        return Finding(
            "password",
            "warning",
            f"none, though {parts.hostname} is another machine: whoever reaches it reads and changes every request",
            "set requirepass or ACL users, and redis://user:password@... in MUTIRAO_BROKER_URL",
        )
    if parts.scheme == "redis":
        return Finding(
            "password", "ok", "needed; it travels in the clear: use rediss:// unless the network is your own"
        )
    return Finding("password", "ok", "needed, and encrypted")


WITHOUT = ", without a password"

CHECKS: tuple[Callable[[RedisServerInfo], Finding], ...] = (
    reachable,
    version,
    role,
    eviction,
    persistence,
    memory,
    connections,
    clock,
    password,
)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
