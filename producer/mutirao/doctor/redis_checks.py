"""Checks of a Redis server."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from mutirao.doctor.finding import Checks, Finding, hidden, ok, problem, warning
from mutirao.doctor.snapshot import RedisServerInfo
from mutirao.urls import SOCKETS, is_loopback

OLDEST = (6, 2)
APART_S = 2.0
SLOW_MS = 50.0
NEARLY_FULL = 0.8
FULL = 0.95

CHECKS = Checks[RedisServerInfo]()
Info = dict[str, Any]


@CHECKS.add("answer")
def reachable(server: RedisServerInfo) -> Finding:
    """It answers, and quickly."""
    text = f"{server.url} answers in {server.answered_ms:.1f} ms"
    if server.answered_ms > SLOW_MS:
        return warning(text, "put clients, workers and Redis into one network; look at redis-cli --latency")
    return ok(text)


@CHECKS.add_for("version", lambda server: server.info, "INFO")
def version(info: Info) -> Finding:
    """It is 6.2 or newer."""
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    shown = str(info.get("valkey_version") or info.get("redis_version", "?"))
    if tuple(int(part) for part in re.findall(r"\d+", shown)[:2]) < OLDEST:
        return problem(f"{name} {shown}", "use Redis 6.2 or newer, or Valkey")
    return ok(f"{name} {shown}")


@CHECKS.add_for("role", lambda server: server.info, "INFO")
def role(info: Info) -> Finding:
    """It is a primary of its own: replicas refuse writes, and kombu cannot use a cluster."""
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        return problem(f"a replica of {primary}: it refuses writes", "set MUTIRAO_BROKER_URL to the primary")
    if info.get("cluster_enabled"):
        return problem(
            "a cluster: Celery's transport cannot use it", "use a single server, with replicas if they are needed"
        )
    return ok("a primary, not a cluster")


@CHECKS.add_for("eviction", lambda server: server.info, "INFO")
def eviction(info: Info) -> Finding:
    """It never deletes what was accepted."""
    policy = info.get("maxmemory_policy", "?")
    remedy = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if policy == "noeviction":
        return ok("noeviction: a full Redis refuses new requests and keeps the accepted ones")
    if not info.get("maxmemory"):
        return warning(f"{policy}, without effect as long as maxmemory is not set", remedy)
    return problem(f"{policy}: a full Redis deletes accepted requests and results", remedy)


@CHECKS.add("persistence")
def persistence(server: RedisServerInfo) -> Finding:
    """What was accepted survives a crash."""
    if server.info is None:
        return hidden("INFO")
    if server.info.get("aof_enabled"):
        return _append_only(server.info, server.config or {})
    if server.config is None:
        text = "no append-only file: a crash loses what was queued since the last snapshot, if there are any"
    elif server.config.get("save"):
        text = "snapshots only: a crash loses what was queued and answered since the last one"
    else:
        text = "none: a restart of Redis loses every request and result"
    return warning(text, "redis-cli CONFIG SET appendonly yes, and appendonly yes in redis.conf")


def _append_only(info: Info, config: dict[str, str]) -> Finding:
    if info.get("aof_last_write_status", "ok") != "ok":
        return problem(
            "the last write to the append-only file failed: Redis refuses writes",
            "make room on the disk of its data folder; see its log",
        )
    match config.get("appendfsync"):
        case "always":
            return ok("append-only file, synced at each write: nothing accepted is lost")
        case "everysec":
            return ok("append-only file, synced each second: a crash of the machine may lose the last second")
        case "no":
            return warning(
                "append-only file, synced when the kernel chooses: a crash of the machine may lose 30 s",
                "redis-cli CONFIG SET appendfsync everysec",
            )
        case _:
            return ok("append-only file; this user may not ask how often it is synced (CONFIG)")


@CHECKS.add_for("memory", lambda server: server.info, "INFO")
def memory(info: Info) -> Finding:
    """There is room."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return ok(f"{_size(used)} used, no limit but the machine's")
    text = f"{_size(used)} of {_size(limit)} used"
    if used <= NEARLY_FULL * limit:
        return ok(text)
    return (problem if used > FULL * limit else warning)(
        text,
        "raise maxmemory, let results go sooner (MUTIRAO_RESULT_TTL_S), or add workers; a full Redis refuses requests, and a worker may lose one that it takes",
    )


@CHECKS.add_for("connections", lambda server: server.info, "INFO")
def connections(info: Info) -> Finding:
    """There is room for more clients."""
    connected, limit = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    text = f"{connected} open" + (f" of at most {limit}" if limit else "")
    if limit and connected > NEARLY_FULL * limit:
        return warning(text, "raise maxclients; share one Client among threads instead of creating many")
    return ok(text)


@CHECKS.add("clock")
def clock(server: RedisServerInfo) -> Finding:
    """Its clock and this machine's agree: deadlines count by its clock, the age of an id by this machine's."""
    apart_s = abs(server.ahead_s)
    if apart_s <= APART_S:
        return ok(f"{apart_s:.2f} s apart from this machine's")
    direction = "ahead of" if server.ahead_s > 0 else "behind"
    return warning(
        f"Redis is {apart_s:.1f} s {direction} this machine", "set both clocks by NTP: timedatectl set-ntp true"
    )


@CHECKS.add("password")
def password(server: RedisServerInfo) -> Finding:
    """From other machines it cannot be used without a password."""
    parts, has_one = urlsplit(server.url), "***" in server.url
    open_here = "" if has_one else ", without a password"
    if parts.scheme in SOCKETS:
        return ok("reached through a socket of this machine" + open_here)
    if is_loopback(parts.hostname or ""):
        return ok("reached over loopback" + open_here)
    if not has_one:
        return warning(
            f"none, though {parts.hostname} is another machine: whoever reaches it reads and changes every request",
            "set requirepass or ACL users, and redis://user:password@... in MUTIRAO_BROKER_URL",
        )
    if parts.scheme == "redis":
        return ok("needed; it is sent unencrypted: use rediss:// unless the network is your own")
    return ok("needed, and encrypted")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
