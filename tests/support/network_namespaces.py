"""Hosts of their own for worker processes: network namespaces, whose packets the kernel drops on request.

with Host(1) as host:
    COMMANDS["host"] = (*host.prefix, ...)
    host.drop("INPUT", "OUTPUT")
    host.heal()
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Self

import psutil


def missing() -> str:
    """Tell what keeps this machine from having hosts; "" for nothing."""
    if os.geteuid() != 0:
        return "only root may make a network namespace"
    if lacking := [name for name in ("ip", "iptables") if shutil.which(name) is None]:
        return f"not installed: {', '.join(lacking)}"
    name = f"mutirao-{os.getpid()}"
    if _run("ip", "netns", "add", name, check=False):
        return "this kernel makes no network namespace here"
    _run("ip", "netns", "del", name)
    return ""


class Host:
    """A host behind a wire of its own; made in the constructor; use it as a context manager.

    Args:
        number: 1 to 250, another one for each.

    Attributes:
        gateway: the address at which this machine is reached from there.
        prefix: what a command begins with that is to run there.
    """

    def __init__(self, number: int) -> None:
        self._name = f"mutirao-{os.getpid()}-{number}"
        self._wire = f"mut{os.getpid() % 100_000}{number:03}"  # 15 letters at most
        self.gateway, address = f"10.213.{number}.1", f"10.213.{number}.2"
        self.prefix = ("ip", "netns", "exec", self._name)
        _run("ip", "netns", "add", self._name)
        try:
            _run("ip", "link", "add", self._wire, "type", "veth", "peer", "name", "wire", "netns", self._name)
            _run("ip", "address", "add", f"{self.gateway}/30", "dev", self._wire)
            _run("ip", "link", "set", self._wire, "up")
            _run(*self.prefix, "ip", "address", "add", f"{address}/30", "dev", "wire")
            for link in ("lo", "wire"):
                _run(*self.prefix, "ip", "link", "set", link, "up")
        except BaseException:
            self.close()
            raise

    def drop(self, *chains: str) -> None:
        """Drop packets over the wire: INPUT for those that come to the host, OUTPUT for those that leave it."""
        for chain in chains:
            direction = "-i" if chain == "INPUT" else "-o"
            _run(*self.prefix, "iptables", "-A", chain, direction, "wire", "-j", "DROP")

    def forget(self, pid: int) -> None:
        """Drop for good, both ways, the packets of a process's open connections, and of no later ones."""
        for each in psutil.Process(pid).net_connections("tcp"):
            port = str(each.laddr.port)
            _run(*self.prefix, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP")
            _run(*self.prefix, "iptables", "-A", "OUTPUT", "-p", "tcp", "--sport", port, "-j", "DROP")

    def heal(self) -> None:
        """Let everything through again."""
        _run(*self.prefix, "iptables", "-F")

    def close(self) -> None:
        _run("ip", "netns", "del", self._name, check=False)
        _run("ip", "link", "del", self._wire, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _run(*command: str, check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not (check and done.returncode), f"{' '.join(command)}: {done.stderr}"
    return done.returncode
