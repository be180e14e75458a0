"""A process that has imported a command's libraries once, and forks a process for each start that it is asked for; see forked_processes.py.

python fork_server.py SOCKET SCRIPT PACKAGE ...
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import pkgutil
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any

BYTES = 1 << 20
PIPE = 3  # to the watchdog, after standard input, output and error
HIGH = 100
# What reads the settings, or names its process, when it is imported; and what imports it.
SETTLED = {"mutirao_worker.app", "mutirao_worker.heartbeat"}


def serve(control: socket.socket) -> None:
    """Fork for each start asked for; return only in such a process."""
    while True:
        asked, fds, _, _ = socket.recv_fds(control, BYTES, 8)
        if not asked:
            os._exit(0)
        read, write = os.pipe()
        middle = os.fork()
        if not middle:
            own = os.getpid()
            child = os.fork()
            if not child:
                _become(json.loads(asked), fds, own)
                return
            os.write(write, str(child).encode())
            os._exit(0)
        # Whoever asked is the nearest that takes in orphans: once the one in the middle has ended, the child is theirs.
        os.waitpid(middle, 0)
        control.send(os.read(read, 32))
        for fd in (read, write, *fds):
            os.close(fd)


def _become(asked: dict[str, Any], fds: list[int], middle: int) -> None:
    """Take on everything that a process has from its start: session, descriptors, folder, environment."""
    os.setsid()
    while os.getppid() == middle:  # it is about to end
        time.sleep(0.0005)
    if os.getppid() != asked["parent"]:
        os._exit(1)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH) for fd in fds]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < PIPE)
    os.closerange(PIPE + 1, os.sysconf("SC_OPEN_MAX"))
    os.write(PIPE, f"{asked['line']} {os.getpid()}\n".encode())
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[:] = asked["argv"]
    sys.path[1:1] = [path for path in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def main() -> None:
    number, script, *modules = sys.argv[1:]
    sys.path[0] = str(Path(script).parent)
    for name in modules:
        package = importlib.import_module(name)
        for each in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{name}."):
            if each.name not in SETTLED:
                importlib.import_module(each.name)
    gc.collect()
    gc.freeze()  # the collector writes to what it looks at, and what is written to is no longer shared
    serve(socket.socket(fileno=int(number)))


if __name__ == "__main__":
    main()
    from mutirao.cli import main as command

    command()
