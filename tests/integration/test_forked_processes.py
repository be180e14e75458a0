"""What the suite forks instead of executing is a process like those that are executed."""

import os

import psutil
import pytest

from support.forked_processes import ForkedProcesses
from support.gateway_process import GatewayProcess


@pytest.mark.parametrize("executing", [True, False])
def test_exit_code_and_last_words(executing, monkeypatch):
    """A gateway that does not start says why, in its log and by its exit code."""
    monkeypatch.setattr(ForkedProcesses, "executing", executing)
    with GatewayProcess("http://127.0.0.1:1", wait=False) as gateway:
        assert gateway.process.wait(timeout=30) == 2
        assert "a gateway stands in front of Redis" in gateway.log


@pytest.mark.parametrize("executing", [True, False])
def test_child_and_leader(executing, monkeypatch, redis_server):
    """It is a child of whoever started it and leads a session; it holds its log and what it opened itself, and nothing else."""
    monkeypatch.setattr(ForkedProcesses, "executing", executing)
    with GatewayProcess(redis_server.url) as gateway:
        process = psutil.Process(gateway.pid)
        assert (process.ppid(), os.getsid(gateway.pid)) == (os.getpid(), gateway.pid)
        assert {file.path for file in process.open_files()} <= {str(gateway.folder / "gateway.log")}
        gateway.stop()
        assert gateway.process.returncode == 0
