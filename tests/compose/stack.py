"""The containers of docker-compose.yml, under a project name of their own, with random passwords and free ports.

with Stack(folder) as stack:
    stack.up(workers=2)
    stack.client()            # a producer outside the containers
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any, Self

from mutirao import Client
from mutirao.embedded.redis_server import free_port
from support import waiting

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "deploy/publish-redis.yml", "tests/compose/override.yml")
BUILD_S = 1200.0
HEALTHY_S = 240.0


class Stack:
    """Nothing runs before `up`; use it as a context manager.

    Args:
        folder: for the passwords and for `models`, the repository that the workers serve.
    """

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.project = f"mutirao-test-{os.getpid()}"
        self.tag = f"{zlib.crc32(os.fsencode(ROOT)):08x}"
        self.redis_port, self.flower_port, self.webhook_port = free_port(), free_port(), free_port()
        self._env_file = folder / "compose.env"
        subprocess.run([ROOT / "deploy" / "make-env", self._env_file], check=True, capture_output=True)
        self.passwords = dict(line.split("=") for line in self._env_file.read_text().splitlines())
        with self._env_file.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in self._settings().items())

    def up(self, *, workers: int) -> None:
        """Bring this many workers up, or take the others down, and wait until all that is there is healthy."""
        self.compose("up", "--detach", "--no-recreate", "--scale", f"worker={workers}")
        for service, count in {"redis": 1, "flower": 1, "worker": workers}.items():
            self.wait_health(service, "healthy", count)

    def compose(self, *args: str, timeout_s: float = 300.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run docker compose on this project."""
        files = [part for name in FILES for part in ("--file", str(ROOT / name))]
        command = [*compose(), "--project-name", self.project, "--env-file", str(self._env_file), *files, *args]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0 or not check, (
            f"{' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What the engine knows of the running containers of a service, or of all."""
        labels = {"project": self.project} | ({"service": service} if service else {})
        chosen = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        ids = docker("ps", "--quiet", *chosen).split()
        return json.loads(docker("inspect", *ids)) if ids else []

    def health(self, service: str) -> list[str]:
        """The health of each container of a service: starting, healthy or unhealthy."""
        return [container["State"]["Health"]["Status"] for container in self.containers(service)]

    def wait_health(self, service: str, state: str, count: int = 1) -> None:
        """Wait until so many containers of a service run, all in this state."""
        waiting.until(
            lambda: self.health(service) == [state] * count, timeout_s=HEALTHY_S, what=lambda: self.told(service)
        )

    def told(self, service: str) -> str:
        """What a service's containers and health checks said."""
        checks = [
            entry["Output"] for container in self.containers(service) for entry in container["State"]["Health"]["Log"]
        ]
        return self.compose("logs", "--no-color", "--tail=40", service).stdout + "\n".join(checks)

    def redis(self, user: str, *commands: str) -> list[str]:
        """Run commands as a Redis user, inside Redis's container; return the lines of the replies."""
        (container,) = self.containers("redis")
        auth = f"REDISCLI_AUTH={self.passwords[f'MUTIRAO_REDIS_{user.upper()}_PASSWORD']}"
        cli = ["redis-cli", "--user", user, "--no-auth-warning"]
        said = docker("exec", "--interactive", "--env", auth, container["Id"], *cli, given="\n".join(commands))
        return [line for line in said.splitlines() if line]

    def refused(self) -> list[str]:
        """What Redis refused to its users since the last look; see ACL LOG."""
        return self.redis("admin", "ACL LOG", "ACL LOG RESET")[:-1]

    def client(self, role: str = "producer") -> Client:
        """A client outside the containers."""
        password = self.passwords[f"MUTIRAO_REDIS_{role.upper()}_PASSWORD"]
        return Client(f"redis://{role}:{password}@127.0.0.1:{self.redis_port}/0")

    def __enter__(self) -> Self:
        self.compose("--profile", "example", "build", timeout_s=BUILD_S)
        return self

    def __exit__(self, *exc: object) -> None:
        self.compose("--profile", "webhooks", "down", "--volumes", "--remove-orphans", "--timeout", "5")

    def _settings(self) -> dict[str, object]:
        return {
            "MUTIRAO_FLOWER_PORT": self.flower_port,
            "MUTIRAO_GATEWAY_PORTS": "18800-18815",
            "MUTIRAO_MODELS_DIR": self.models,
            "MUTIRAO_REDIS_PORT": self.redis_port,
            "MUTIRAO_TEST_FOLDER": ROOT / "tests",
            "MUTIRAO_TEST_TAG": self.tag,
            "MUTIRAO_WEBHOOK_HOSTS": f"http://receiver.test:{self.webhook_port}=0.0.0.0/0",
            "MUTIRAO_WORKER_CONCURRENCY": 1,
        }


def docker(*args: str, given: str | None = None) -> str:
    """Run a docker command; return what it printed."""
    done = subprocess.run(["docker", *args], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"docker {' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def assert_closed(container: dict[str, Any]) -> None:
    """Make sure that a container has no root, writable root file system, capability, unlimited memory, or port beyond loopback."""
    name, host = container["Name"], container["HostConfig"]
    assert container["Config"]["User"] in ("999:999", "10001:10001"), name
    assert docker("exec", container["Id"], "id", "-u").strip() in ("999", "10001"), name
    assert host["ReadonlyRootfs"], name
    assert host["CapDrop"] == ["ALL"], name
    assert not host["Privileged"], name
    assert any("no-new-privileges" in option for option in host["SecurityOpt"]), name
    assert host["Memory"] > 0, name
    assert host["PidsLimit"] == 256, name
    ports = [
        bound["HostIp"]
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for bound in bindings or []
    ]
    assert set(ports) <= {"127.0.0.1"}, name


@functools.cache
def compose() -> tuple[str, ...]:
    """The command of Compose v2, or that of v1."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",)


def missing() -> str:
    """What these tests would need and this machine has not; empty where it has all."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if compose() == ("docker-compose",) and shutil.which("docker-compose") is None:
        return "there is no Docker Compose, neither v2 nor v1"
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return "" if asked.returncode == 0 else f"no Docker engine answers: {asked.stderr.strip().splitlines()[-1]}"
