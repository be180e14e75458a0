"""Processes of `mutirao` that are forked instead of executed: importing Celery or the gateway costs seconds, a fork does not.

What a test sees is a child of its own: with its process id, session, environment, descriptors and exit code. Tests of what
happens when a program is executed are marked `executed`.

processes = ForkedProcesses(folder / "watchdog.log")
process = processes.start([str(BIN / "mutirao"), "worker"], stage=0, grace_s=5, log=folder / "worker.log", env=env)
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mutirao.embedded import watchdog
from mutirao.embedded.process_group import ProcessGroup, Started, open_log
from support import fork_server

SCRIPT = str(Path(sys.executable).parent / "mutirao")
# What is read before a program begins, or when a library is loaded: where it is not the suite's own, the program is executed.
EARLY = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_")
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a thread does not survive a fork
_SUBREAPER = 36


class ForkServer:
    """The process that forks for a command; it is started when it is first needed."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    def fork(self, asked: Mapping[str, Any], fds: Sequence[int]) -> int:
        """Have a process forked that is a child of this one; return its id."""
        with self._lock:
            control = self._control = self._control or self._started()
            prctl = ctypes.CDLL(None).prctl
            prctl(_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(control, [json.dumps(asked).encode()], fds)
                answer = control.recv(32)
            finally:
                prctl(_SUBREAPER, 0, 0, 0, 0)
        assert answer, "the process that forks has ended"
        return int(answer)

    def _started(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, fork_server.BYTES)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(theirs.fileno()), SCRIPT, *self._modules],
                env={**os.environ, **THREADS},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(process.wait)
        atexit.register(ours.close)
        return ours


class Forked(subprocess.Popen[bytes]):
    """A Popen whose process is forked by a fork server."""

    def __init__(self, command: Sequence[str], given: ForkServer, asked: Mapping[str, Any], fds: Sequence[int]) -> None:
        self._given = given, asked, fds
        super().__init__(command)

    def _execute_child(self, *_: Any) -> None:
        by, asked, fds = self._given
        self.pid = by.fork(asked, fds)
        self._child_created = True


FORK_SERVERS = {
    "worker": ForkServer(["mutirao_worker", "celery.bin.celery", "celery.apps.worker", "celery.concurrency.prefork"]),
    "gateway": ForkServer(["mutirao.gateway", "mutirao.cli.gateway", "uvloop"]),
}
FORK_SERVERS["webhooks"] = FORK_SERVERS["worker"]


class ForkedProcesses(ProcessGroup):
    """Processes, those of `mutirao` forked where nobody could tell.

    Attributes:
        executing: execute them all the same, as for modules that are marked `executed`.
    """

    executing: ClassVar[bool] = False

    def start(
        self, command: Sequence[str], *, stage: int, grace_s: float, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a child; see Processes.start."""
        env = dict(os.environ if env is None else env)
        by = FORK_SERVERS.get(command[1]) if command[0] == SCRIPT else None
        if self.executing or by is None or not sys.platform.startswith("linux") or _early(env) != _early(os.environ):
            return super().start(command, stage=stage, grace_s=grace_s, log=log, env=env)
        asked = {
            "argv": command,
            "cwd": str(Path.cwd()),
            "env": env,
            "line": f"+ {stage} {grace_s}",
            "parent": os.getpid(),
        }
        with open_log(log) as out, Path(os.devnull).open("rb") as nothing:
            fds = [nothing.fileno(), out.fileno(), out.fileno(), self._pipe]
            process = Forked(command, by, asked, fds)
        self._children[process.pid] = Started(process, watchdog.Member(stage, grace_s, process.pid))
        return process


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(EARLY) and name != "PYTHONPATH"}
