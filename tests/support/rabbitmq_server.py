"""A private, real RabbitMQ for tests: on free ports, in a folder of its own, gone when the test is, however it ends.

with RabbitServer() as server:
    server.url                # amqp://guest:guest@127.0.0.1:.../%2F
    server.restart()          # the same port, with all that was persistent
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from subprocess import Popen
from typing import Self

import kombu
import msgspec

from mutirao.embedded import redis_server
from mutirao.embedded.process_group import ProcessGroup
from support import waiting

# Debian's wrapper on the path insists on the system's own node; what it wraps does not.
PROGRAM = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', '')}")
EPMD = shutil.which("epmd")
MISSING = "" if PROGRAM and EPMD else "RabbitMQ is not installed (apt-get install rabbitmq-server)"
READY_S = 90.0
# One scheduler that does not spin: tests share the machine.
ERLANG = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"


class RabbitServer:
    """Starts in the constructor; use it as a context manager.

    Args:
        hosts: how many virtual hosts there are beside "/"; each makes a start longer.
    """

    def __init__(self, hosts: int = 0) -> None:
        assert PROGRAM, MISSING
        assert EPMD, MISSING
        self.folder = Path(tempfile.mkdtemp(prefix="mutirao-rabbitmq-"))
        self.port, self._names_port, nodes_port = (redis_server.free_port() for _ in range(3))
        self.hosts = hosts
        (self.folder / "definitions.json").write_bytes(_definitions(hosts))
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {redis_server.HOST}:{self.port}\n"
            f"load_definitions = {self.folder}/definitions.json\n"
            "disk_free_limit.absolute = 50MB\n",
            encoding="utf-8",
        )
        (self.folder / "plugins").write_text("[].\n", encoding="utf-8")
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "ERL_EPMD_ADDRESS": redis_server.HOST,
            "ERL_EPMD_PORT": str(self._names_port),
            "HOME": str(self.folder),  # Erlang keeps a cookie there
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(nodes_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_NODENAME": f"mutirao{self.port}@localhost",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        }
        self._processes = ProcessGroup(self.folder / "watchdog.log")
        # Erlang would start one by itself, and leave it behind.
        names = [EPMD, "-port", str(self._names_port), "-address", redis_server.HOST]
        self._processes.start(names, stage=1, grace_s=5, log=self.folder / "names.log")
        self.start()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{redis_server.HOST}:{self.port}//"

    def host(self, number: int) -> str:
        """The URL of a virtual host, whose queues are its own."""
        assert number < self.hosts, f"there are {self.hosts} virtual hosts: make more of them"
        return f"{self.url[:-1]}test{number}"

    @property
    def log(self) -> str:
        return (self.folder / "rabbitmq.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start, or start again, and wait until it takes connections."""
        assert PROGRAM
        self.process: Popen[bytes] = self._processes.start(
            [PROGRAM], stage=0, grace_s=20, log=self.folder / "rabbitmq.log", env=self._env
        )
        try:
            waiting.until(
                lambda: self._answers() or self.process.poll() is not None, timeout_s=READY_S, what=lambda: self.log
            )
            assert self.process.poll() is None, self.log
        except BaseException:
            self.close()
            raise

    def connect(self) -> kombu.Connection:
        """Open a connection; the caller closes it."""
        return kombu.Connection(self.url, connect_timeout=2)

    def depth(self, queue: str) -> int:
        """How many messages wait in a queue; 0 where there is none."""
        with self.connect() as connection:
            try:
                return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors:
                return 0

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill -9) and start on the same port with the same data."""
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.process.wait(timeout=30)
        self._processes.forget(self.process)
        self.start()

    def close(self) -> None:
        self._processes.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            with self.connect() as connection:
                connection.connect()
        except OSError:
            return False
        return True


def _definitions(hosts: int) -> bytes:
    """Write the virtual hosts that a node begins with, and a guest who may do anything in all of them."""
    salt = os.urandom(4)
    password = base64.b64encode(salt + hashlib.sha256(salt + b"guest").digest()).decode()
    names = ["/", *(f"test{number}" for number in range(hosts))]
    anything = {"configure": ".*", "read": ".*", "write": ".*"}
    return msgspec.json.encode(
        {
            "users": [{"name": "guest", "password_hash": password, "tags": "administrator"}],
            "vhosts": [{"name": name} for name in names],
            "permissions": [{"user": "guest", "vhost": name, **anything} for name in names],
        }
    )
