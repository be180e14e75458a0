"""The embedded system: a private Redis, worker processes, the HTTP gateway and Flower, as one thing that starts and ends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import redis

from mutirao import errors, keyspace, settings, webhook_policy
from mutirao.embedded import redis_binary, redis_server
from mutirao.embedded.process_group import ProcessGroup
from mutirao.embedded.state_dir import StateDir, write_private
from mutirao.embedded.supervisor import ChildExit, ChildSpec, Supervisor
from mutirao.redisdb import failure
from mutirao.redisdb.connection import connect
from mutirao.redisdb.drivers import options
from mutirao.registry import Registry, decode_registry

WORKERS, FLOWER, REDIS = range(3)
GATEWAY_PORT, FLOWER_PORT = 8000, 5555
GRACE_S = {WORKERS: 20.0, FLOWER: 3.0, REDIS: 10.0}

_MUTIRAO = (sys.executable, "-m", "mutirao")
# These would override the children's options: Celery and Flower read them by themselves. Models must not see the secret.
FOREIGN = ("CELERY_", "FLOWER_", "MUTIRAO_RESULT_URL", "MUTIRAO_WEBHOOK_SECRET")


class Embedded:
    """A whole system in one folder, for one machine, without Docker or root. Prints nothing.

    Use it as a context manager; at its end workers finish their batch, then Flower ends, then Redis, with its data on disk.
    However this process ends, its children end too: a watchdog sees to it.

    Args:
        home: the folder of data, logs and passwords; MUTIRAO_HOME by default.
        workers: how many worker processes, 0 for none; each has `concurrency` children.
        concurrency: None for the worker's own default.
        models: the model repository; MUTIRAO_MODELS by default.
        flower: whether Flower runs; it is left out, too, where it is not installed.
        port: Redis's port; by default the one of the last run in this folder, or any that is free.
        flower_port: Flower's port; by default 5555, or any that is free.
        gateway: whether the HTTP gateway runs; it is left out, too, where its libraries are not installed.
        gateway_port: the gateway's port; by default 8000, or any that is free.
        worker_command: what starts one worker; options are added to it.
        report: called with each child's death, from another thread.

    Raises:
        EmbeddedError: the system cannot start (a port that was named is in use, say); the message names the remedy.
        SettingsError: webhooks are on, and their hosts or their secret cannot be used.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        *,
        workers: int = 2,
        concurrency: int | None = None,
        models: Path | str | None = None,
        flower: bool = True,
        port: int | None = None,
        flower_port: int | None = None,
        gateway: bool = False,
        gateway_port: int | None = None,
        worker_command: Sequence[str] = (sys.executable, "-m", "mutirao", "worker"),
        report: Callable[[ChildExit], None] = lambda _: None,
    ) -> None:
        self._overrides: dict[str, Any] = {
            "home": str(home) if home else None,
            "models": str(models) if models else None,
        }
        self._names = [f"worker{number}" for number in range(1, workers + 1)]
        self._concurrency = concurrency
        self._port = port
        self._named_ports = {"--gateway-port": gateway_port, "--flower-port": flower_port}
        self._flower = flower and importlib.util.find_spec("flower") is not None
        self._gateway = gateway and importlib.util.find_spec("litestar") is not None
        self._flower_port = self._gateway_port = 0
        self._worker_command = worker_command
        self._report = report
        self._lock = -1
        self.started = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def broker_url(self) -> str:
        """The address of Redis, with its password."""
        return self.server.url

    @property
    def flower_url(self) -> str | None:
        """The address of Flower, without its password; None where it does not run."""
        return f"http://{redis_server.HOST}:{self._flower_port}" if self._flower_port else None

    @property
    def gateway_url(self) -> str | None:
        """The address of the HTTP gateway and of its console; None where it does not run."""
        return f"http://{redis_server.HOST}:{self._gateway_port}" if self._gateway_port else None

    @property
    def moved_from(self) -> dict[str, int]:
        """The usual ports that other programs have, by the addresses at which the gateway and Flower listen instead."""
        usual = (
            (self.gateway_url, "--gateway-port", GATEWAY_PORT),
            (self.flower_url, "--flower-port", FLOWER_PORT),
        )
        return {
            url: port
            for url, option, port in usual
            if url and self._named_ports[option] is None and not url.endswith(f":{port}")
        }

    @property
    def flower_user(self) -> str:
        """The user name with which Flower is opened."""
        return "mutirao"

    @property
    def flower_password(self) -> str:
        """The password with which Flower is opened; the same at each run in this folder."""
        return self._secrets.flower_password

    @property
    def pids(self) -> dict[str, int]:
        """The children by name: redis, worker1, ..., flower."""
        return self._supervisor.pids()

    def start(self) -> None:
        """Start all processes; return when Redis answers. Workers and Flower may take longer: see `wait_ready`."""
        local = settings.load(**self._overrides, broker_url="redis://127.0.0.1")
        if webhook_policy.allowed_hosts(local.webhook_hosts):
            webhook_policy.signing_keys(local.webhook_secret)
        self.home = StateDir(Path(local.home))
        self.binary = redis_binary.find(written_by=redis_server.written_by(self.home.redis))
        self.home.prepare()
        self._lock = self.home.lock()
        self._secrets = self.home.secrets()
        self._choose_ports()
        self._processes = ProcessGroup(self.home.log("watchdog"), state=str(self.home.state), keep=[self._lock])
        self._supervisor = Supervisor(self._processes, self._report)
        self.started = True
        self._start_redis()
        self.settings = settings.load(
            {**os.environ, "MUTIRAO_RESULT_URL": ""},
            broker_url=self.broker_url,
            home=str(self.home.path),
            models=str(Path(local.models).resolve()),
        )
        self._expire_leases()
        self._start_others()
        self._write_state()
        self._supervisor.watch()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every worker has announced itself, and the gateway answers.

        Raises:
            EmbeddedError: a process is not ready; the text names it and quotes the last line of its log.
        """
        deadline = time.monotonic() + timeout_s
        with self._connected() as client:
            while missing := self._unannounced(client):
                self.check()
                dying = [name for name in missing if self._supervisor.deaths(name) >= 3]
                if dying or time.monotonic() > deadline:
                    raise self._not_ready((dying or missing)[0], timeout_s, died=bool(dying))
                time.sleep(0.05)
        while self._gateway_port and not self._gateway_answers():
            self.check()
            died = self._supervisor.deaths("gateway") >= 3
            if died or time.monotonic() > deadline:
                raise self._not_ready("gateway", timeout_s, died=died)
            time.sleep(0.05)

    def fleet(self) -> Registry:
        """Read which workers live and which models they have announced.

        Raises:
            BrokerUnavailable: Redis does not answer, or refuses.
        """
        with self._connected() as client:
            return self._fleet(client)

    def check(self) -> None:
        """Raise if the system cannot go on.

        Raises:
            EmbeddedError: Redis died again and again, or the watchdog was killed; the caller should close the system.
        """
        if self._supervisor.failure:
            raise errors.EmbeddedError(f"the system stops: {self._supervisor.failure}; logs are in {self.home.logs}")

    def close(self) -> None:
        """End all processes, in order, in bounded time. May be called again."""
        if self.started:
            self._supervisor.stop()
            self._processes.end()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def kill(self) -> None:
        """Do not wait for workers, the gateway and Flower; Redis still ends as it should. May be called by a signal's handler."""
        if self.started:
            self._processes.kill(below=REDIS)

    def _choose_ports(self) -> None:
        """Choose the ports before anything starts; a port that the user named is used, or refused, but never replaced."""
        named = [port for port in (self._port, *self._named_ports.values()) if port]
        if twice := next((port for port in named if named.count(port) > 1), None):
            raise errors.EmbeddedError(
                f"port {twice} is named twice: Redis, the gateway and Flower each need their own"
            )
        if self._gateway:
            self._gateway_port = self._choose_port("--gateway-port", GATEWAY_PORT)
        if self._flower:
            self._flower_port = self._choose_port("--flower-port", FLOWER_PORT)

    def _choose_port(self, option: str, usual: int) -> int:
        return redis_server.chosen_port(self._named_ports[option], usual, option)

    def _start_redis(self) -> None:
        # Where the last parent and its watchdog were both killed, their Redis still runs on the same data.
        redis_server.stop_leftover(
            redis_server.RedisEndpoint(self.home.redis, self._secrets.redis_port, self._secrets.redis_password)
        )
        for usual in (self._secrets.redis_port, 0, 0):
            port = redis_server.chosen_port(self._port, usual, "--port")
            self.server = redis_server.RedisEndpoint(self.home.redis, port, self._secrets.redis_password)
            command = redis_server.command(self.binary, self.server)
            self._supervisor.start(self._spec("redis", command, REDIS, dict(os.environ), deaths=5))
            if redis_server.wait_ready(self.server, ended=lambda: self._supervisor.ended("redis")):
                self.home.keep(msgspec.structs.replace(self._secrets, redis_port=port))
                return
            # Another program may have taken the port between its choice and Redis's start.
            if self._port or not self._supervisor.ended("redis") or redis_server.free_port(port) == port:
                break
        raise errors.EmbeddedError(
            f"{self.binary} did not start: {self.home.last_line('redis')} ({self.home.log('redis')})"
        )

    def _expire_leases(self) -> None:
        """Expire the leases of the last run: none of its workers lives, so the requests they held are taken at once."""
        # A Redis that refuses this, perhaps because it is full, still serves requests: leases expire by themselves.
        with contextlib.suppress(errors.BrokerUnavailable), self._connected() as client:
            client.zunionstore(keyspace.LEASES, {keyspace.LEASES: 0})

    @contextlib.contextmanager
    def _connected(self) -> Iterator[redis.Redis]:
        configured = settings.Settings(broker_url=self.broker_url, result_url=self.broker_url)
        with connect(self.broker_url, configured, **options(configured)) as client:
            try:
                yield client
            except redis.RedisError as exc:
                raise failure.unavailable(exc, self.broker_url) from exc

    def _start_others(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | {
            "MUTIRAO_BROKER_URL": self.broker_url,
            "MUTIRAO_HOME": self.settings.home,
            "MUTIRAO_MODELS": self.settings.models,
        }
        options = [] if self._concurrency is None else ["--concurrency", str(self._concurrency)]
        for name in self._names:
            self._supervisor.start(
                self._spec(
                    name, [*self._worker_command, "--name", f"{name}@{socket.gethostname()}", *options], WORKERS, env
                )
            )
        if self.settings.webhook_hosts:
            own_env = env | {"MUTIRAO_WEBHOOK_SECRET": self.settings.webhook_secret}
            self._supervisor.start(
                self._spec("webhooks", [sys.executable, "-m", "mutirao", "webhooks"], FLOWER, own_env)
            )
        if self._gateway_port:
            # The workers have ended by then, so there is nothing left to wait for.
            own_env = env | {"MUTIRAO_GRACE_S": "2"}
            self._supervisor.start(
                self._spec("gateway", self._gateway_command(), FLOWER, own_env, restart=self._restart_gateway)
            )
        if self._flower_port:
            env["FLOWER_BASIC_AUTH"] = f"{self.flower_user}:{self.flower_password}"
            self._supervisor.start(
                self._spec("flower", self._flower_command(), FLOWER, env, restart=self._restart_flower)
            )

    def _gateway_command(self) -> list[str]:
        return [*_MUTIRAO, "gateway", "--host", redis_server.HOST, "--port", str(self._gateway_port)]

    def _flower_command(self) -> list[str]:
        return [*_MUTIRAO, "flower", "--port", str(self._flower_port)]

    def _restart_gateway(self) -> tuple[list[str], str]:
        self._gateway_port, moved = self._port_to_restart_on("--gateway-port", self._gateway_port)
        if moved:
            self._write_state()
        return self._gateway_command(), moved

    def _restart_flower(self) -> tuple[list[str], str]:
        self._flower_port, moved = self._port_to_restart_on("--flower-port", self._flower_port)
        if moved:
            self._write_state()
        return self._flower_command(), moved

    def _port_to_restart_on(self, option: str, port: int) -> tuple[int, str]:
        """Return the port to restart on, and a remark: another one where another program took it and the user named none."""
        free = port if self._named_ports[option] else redis_server.free_port(port)
        if free == port:
            return port, ""
        return free, f"at http://{redis_server.HOST}:{free}, since another program has port {port} now"

    def _spec(self, name: str, command: Sequence[str], stage: int, env: dict[str, str], **options: Any) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=command,
            stage=stage,
            grace_s=GRACE_S[stage],
            log=self.home.log(name),
            env=env,
            **options,
        )

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "broker_url": self.broker_url,
            "flower_url": self.flower_url,
            "gateway_url": self.gateway_url,
            "started_at": time.time(),
        }
        write_private(self.home.state, state)

    def _gateway_answers(self) -> bool:
        """Whether our own gateway listens: another program may have taken its port since that was chosen."""
        import psutil  # noqa: PLC0415 - the heavy half has it, and nothing here runs without

        with contextlib.suppress(psutil.Error, KeyError):
            open_now = psutil.Process(self.pids["gateway"]).net_connections("inet")
            return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self._gateway_port for each in open_now)
        return False

    def _unannounced(self, client: redis.Redis) -> list[str]:
        """Return the workers that have not announced themselves since they were started; entries of an earlier run are older."""
        try:
            announced: Any = client.hgetall(keyspace.WORKERS)
        except redis.RedisError:
            return self._names
        seen_at: dict[str, float] = {}
        for info in map(msgspec.json.decode, announced.values()):
            name = info["name"].partition("@")[0]
            seen_at[name] = max(info["seen_at"], seen_at.get(name, 0.0))
        return [name for name in self._names if seen_at.get(name, 0.0) < self._supervisor.started_at(name)]

    def _fleet(self, client: redis.Redis) -> Registry:
        models: Any = client.hgetall(keyspace.MODELS)
        workers: Any = client.hgetall(keyspace.WORKERS)
        now = time.time()
        leases: Any = client.zrangebyscore(keyspace.LEASES, now, "+inf")
        return decode_registry(models, workers, now, leases)

    def _not_ready(self, name: str, timeout_s: float, *, died: bool) -> errors.EmbeddedError:
        what = "died each time it was started" if died else f"is not ready after {timeout_s:g} s"
        line = self.home.last_line(name) or "(its log is empty)"
        return errors.EmbeddedError(f"{name} {what}: {line} (whole log: {self.home.log(name)})", worker=name)
