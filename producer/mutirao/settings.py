"""The settings: read once, checked as a whole, frozen.

Precedence: an argument, then the environment (MUTIRAO_...), then the embedded system that runs in this folder, then the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec

from mutirao import errors, urls

PREFIX = "MUTIRAO_"
_POSITIVE = (
    "expires_s", "result_ttl_s", "timeout_s", "inline_bytes", "max_request_bytes", "max_result_bytes", "queue_limit", "gateway_wait_s",
    "gateway_waits", "warm_up_s", "load_s", "lease_s", "max_deliveries",
)  # fmt: skip
# More seconds than this some clock, timer or socket does not take.
_SECONDS_MAX = 1e9
# Redis's proto-max-bulk-len, 512 MB by default, less the rest of a record.
RESULT_BYTES_MAX = 512 * 1024 * 1024 - 1024 * 1024
_SECRET = ("api_key", "webhook_secret")
_WANTED = {float: "a number", int: "a whole number", str: "text"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of clients, workers and gateways.

    Attributes:
        broker_url: where requests are queued: redis://, rediss://, sentinel://, or RabbitMQ's amqp://; a client's may be a
            gateway's http:// or https://.
        api_key: the token by which a client identifies itself to a gateway.
        result_url: where results are kept; the broker's own by default. It is always a Redis.
        sentinel_master: the name by which sentinels know the Redis, for URLs that begin with sentinel://.
        models: the folder that is the model repository.
        home: the folder of the embedded system (`mutirao up`).
        expires_s: the deadline, in seconds, of a request that names none; a request that has not started by then expires.
        result_ttl_s: how long a finished job's record is kept, in seconds.
        inline_bytes: tensors larger than this are offloaded from the message to a key of their own.
        max_request_bytes: a request larger than this is refused before it is queued.
        max_result_bytes: a request whose result is larger than this fails (workers); Redis takes 512 MB at most.
        queue_limit: the most requests that may wait in one model's queue, over all priorities; more are refused. Each tenant has a
            limit of its own.
        timeout_s: how long a single reply of Redis may take before it counts as unavailable.
        lease_s: after this long without a renewal a worker's reservations are adopted by other workers.
        max_deliveries: a request is given up once this many workers were lost while they held it.
        max_batches_per_process: a pool process is replaced after this many batches; 0 for never.
        max_memory_per_process: a pool process is replaced when its resident memory exceeds this many bytes, the models' shared pages
            included; 0 for never.
        load_s: how long a model may take to load; one that takes longer is unavailable there, or refused by `models add`.
        load_memory: how many bytes of memory it may take for that; 0 for four fifths of what is free.
        warm_up_s: a model whose warm-up takes longer in a pool process is unavailable there; the others are served.
        grace_s: how long a worker that is stopping lets running predictions go on before it requeues them.
        gateway_host: where the HTTP gateway listens; beyond loopback only once there are keys.
        gateway_port: its port.
        gateway_wait_s: the longest time for which `infer` holds a request open, in seconds; then it returns the job's address.
        gateway_waits: the most waits and streams that one gateway process holds open at once; more are refused.
        webhook_hosts: the hosts that webhooks may name, comma-separated, *.example.com for all below one; empty turns webhooks off.
        webhook_secret: the secret that signs webhooks: whsec_ and base64.
    """

    broker_url: str = "redis://127.0.0.1:6379/0"
    api_key: str = ""
    result_url: str = ""
    sentinel_master: str = "mymaster"
    models: str = "./models"
    home: str = "./.mutirao"
    expires_s: float = 86_400.0
    result_ttl_s: float = 86_400.0
    inline_bytes: int = 65_536
    max_request_bytes: int = 64 * 1024 * 1024
    max_result_bytes: int = 128 * 1024 * 1024
    queue_limit: int = 1_000_000
    timeout_s: float = 5.0
    lease_s: float = 6.0
    max_deliveries: int = 10
    max_batches_per_process: int = 0
    max_memory_per_process: int = 0
    load_s: float = 60.0
    load_memory: int = 0
    warm_up_s: float = 60.0
    grace_s: float = 30.0
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8000
    gateway_wait_s: float = 30.0
    gateway_waits: int = 10_000
    webhook_hosts: str = ""
    webhook_secret: str = ""

    @property
    def separate_results(self) -> bool:
        """Whether results are kept on another server than requests."""
        return self.result_url != self.broker_url

    @property
    def uses_gateway(self) -> bool:
        """Whether the system is reached through a gateway."""
        return urls.scheme(self.broker_url) in urls.HTTP

    @property
    def uses_amqp(self) -> bool:
        """Whether the broker is RabbitMQ, with which kombu exchanges messages."""
        return not urls.is_redis(self.broker_url)

    def direct(self) -> Settings:
        """Return these settings for use with Redis or the broker itself.

        Raises:
            SettingsError: the URL is a gateway's, which only clients can use.
        """
        if self.uses_gateway:
            rule = "this speaks with Redis itself, and only clients go through a gateway: name a redis:// URL"
            raise _refused("broker_url", self.broker_url, rule)
        return self

    def __repr__(self) -> str:
        """Show every setting without passwords and keys: `inspect conf` and Flower show this for a worker."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown |= dict.fromkeys((name for name in _SECRET if shown[name]), "***")
        urls = {name: without_password(url) for name, url in shown.items() if name.endswith("_url")}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in (shown | urls).items())})"


def load(env: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Read and check the settings.

    Args:
        env: the environment; the process's own by default.
        given: settings that win over the environment; None means not given.

    Raises:
        SettingsError: names the key, its value and the remedy.
    """
    env = os.environ if env is None else env
    types = get_type_hints(Settings)
    if unknown := sorted(given.keys() - types.keys()):
        raise errors.SettingsError(f"no setting is called {unknown[0]!r}: there are {', '.join(sorted(types))}")
    values = {
        name: _converted(name, env[PREFIX + name.upper()], types[name])
        for name in types
        if env.get(PREFIX + name.upper())
    }
    values |= {name: _converted(name, value, types[name]) for name, value in given.items() if value is not None}
    if "broker_url" not in values and (running := embedded_broker_url(values.get("home", Settings().home))):
        values["broker_url"] = running
    settings = Settings(**values)
    if settings.uses_gateway or not settings.result_url:
        settings = msgspec.structs.replace(settings, result_url=settings.broker_url)
    return _checked(settings)


def without_password(url: str) -> str:
    """Return the URL as it may be shown: with *** for its password."""
    return urls.without_password(url)


def embedded_broker_url(home: str) -> str | None:
    """Return the broker URL of the embedded system that runs in this folder, so that none has to be typed with `mutirao up`."""
    try:
        state = msgspec.json.decode((Path(home) / "up.json").read_bytes(), type=dict[str, Any])
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, msgspec.DecodeError):
        return None
    return str(state["broker_url"])


def _converted(name: str, value: Any, kind: type) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        raise _refused(name, value, f"it must be {_WANTED[kind]}") from None


def _checked(settings: Settings) -> Settings:
    for name in ("broker_url", "result_url"):
        _check_url(name, getattr(settings, name))
    _check_numbers(settings)
    if settings.inline_bytes > settings.max_request_bytes:
        raise _refused(
            "inline_bytes",
            settings.inline_bytes,
            f"it must not be more than max_request_bytes, {settings.max_request_bytes}",
        )
    if settings.max_result_bytes > RESULT_BYTES_MAX:
        rule = f"it must not be more than {RESULT_BYTES_MAX}: Redis takes no larger value (proto-max-bulk-len)"
        raise _refused("max_result_bytes", settings.max_result_bytes, rule)
    if not all("!" <= sign <= "~" for sign in settings.api_key):
        text = f"{PREFIX}API_KEY holds what no key does: a space, an end of a line, or a letter that is not ASCII"
        raise errors.SettingsError(text, key=f"{PREFIX}API_KEY", value="***")
    if not 0 <= settings.gateway_port <= 65535:
        raise _refused(
            "gateway_port", settings.gateway_port, "it must be a port, 1 to 65535, or 0 for any that is free"
        )
    return settings


def _check_numbers(settings: Settings) -> None:
    for name in _POSITIVE:
        if not getattr(settings, name) > 0:
            raise _refused(name, getattr(settings, name), "it must be more than 0")
    if not settings.grace_s >= 0:
        raise _refused("grace_s", settings.grace_s, "it must be 0 or more")
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, float) and not value < _SECONDS_MAX:
            raise _refused(name, value, f"it must be less than {_SECONDS_MAX:g} seconds")
    for name in ("max_batches_per_process", "max_memory_per_process"):
        if getattr(settings, name) < 0:
            raise _refused(name, getattr(settings, name), "it must be 0, for never, or more")


def _check_url(name: str, url: str) -> None:
    if urls.scheme(url) in urls.HTTP:
        _check_gateway(name, url)
        return
    if urls.scheme(url) in urls.AMQP:
        if name == "result_url":
            raise _refused(name, url, "results are kept in Redis: set MUTIRAO_RESULT_URL=redis://... too")
        if _split(url).hostname is None:
            raise _refused(name, url, "it must look like amqp://user:password@127.0.0.1:5672//")
        return
    try:
        urls.parse(url)
    except ValueError as exc:
        raise _refused(name, url, str(exc)) from None


def _check_gateway(name: str, url: str) -> None:
    parts = _split(url)
    if parts.username is not None or parts.password is not None:
        raise _refused(name, url, "a gateway's key is given apart: MUTIRAO_API_KEY, or api_key of a client")
    if not parts.hostname or parts.query or parts.fragment:
        raise _refused(name, url, "it must look like http://127.0.0.1:8000")


def _split(url: str) -> SplitResult:
    """Split a URL; one that is malformed has no parts."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is none
    except ValueError:
        return urlsplit("")
    return parts


def _refused(name: str, value: object, rule: str) -> errors.SettingsError:
    shown = "***" if name in _SECRET else without_password(str(value)) if name.endswith("_url") else str(value)
    return errors.SettingsError(f"{PREFIX}{name.upper()} is {shown!r}: {rule}", key=PREFIX + name.upper(), value=shown)
