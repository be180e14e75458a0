"""The folder of an embedded system: its lock, its secrets, its state and its logs."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any

import msgspec

from mutirao import errors

# A killed system's watchdog holds the lock until it has ended the workers, which may finish their batch first.
ENDING_S = 60.0

# What a home holds: the permissions of a folder with anything else in it are not changed unasked.
OURS = frozenset(
    (".gitignore", "demo", "lock", "log", "models", "redis", "secrets.json", "secrets.new", "up.json", "up.new")
)
ELSEWHERE = "choose another with MUTIRAO_HOME"


class Secrets(msgspec.Struct, frozen=True):
    """Ports and passwords that stay the same from run to run, so that a URL that a user has copied keeps working."""

    redis_password: str
    flower_password: str
    redis_port: int = 0


class StateDir:
    """A folder that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.redis = self.path / "redis"
        self.logs = self.path / "log"
        self.state = self.path / "up.json"

    def prepare(self) -> None:
        """Create the folder, or restrict an earlier one that others may read.

        Raises:
            EmbeddedError: it cannot be created or written, or its permissions not be restricted.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._restrict()
            # It is usually in a user's project, and its passwords must not be committed by chance.
            (self.path / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as exc:
            raise errors.EmbeddedError(
                f"the folder {self.path} cannot be written ({exc.strerror}): {ELSEWHERE}"
            ) from exc

    def _restrict(self) -> None:
        """Restrict the folder to its owner: it holds passwords, requests and results."""
        if (mode := _open_to_others(self.path)) is None:
            return
        what = f"the folder {self.path} is to hold passwords, and others may read it or write to it (mode {mode:o})"
        if strange := sorted(entry.name for entry in self.path.iterdir() if entry.name not in OURS):
            raise errors.EmbeddedError(
                f"{what}; it has {strange[0]!r} in it, so it is not closed unasked: chmod 700 it, or {ELSEWHERE}"
            )
        try:
            self.path.chmod(0o700)
        except OSError as exc:
            raise errors.EmbeddedError(f"{what}; it cannot be closed ({exc.strerror}): {ELSEWHERE}") from exc
        if _open_to_others(self.path) is not None:
            raise errors.EmbeddedError(f"{what}; its file system keeps no modes: {ELSEWHERE}")

    def lock(self) -> int:
        """Lock the folder for this process; the lock lasts as long as the descriptor, here and in every process that inherits it.

        Raises:
            EmbeddedError: a system runs in it; names the folder and the process.
        """
        descriptor = self._opened("lock")
        deadline = time.monotonic() + ENDING_S
        while not _locked(descriptor):
            holder = os.pread(descriptor, 20, 0).decode()
            if _runs(holder) or time.monotonic() > deadline:
                os.close(descriptor)
                raise errors.EmbeddedError(
                    f"a system already runs in {self.path} (process {holder or 'unknown'}): "
                    "use it as it is, end it with Ctrl-C, or start another with its own MUTIRAO_HOME",
                    home=str(self.path),
                    pid=int(holder or 0),
                )
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def _opened(self, name: str) -> int:
        try:
            return os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise errors.EmbeddedError(f"{self.path / name} cannot be opened ({exc.strerror}): {ELSEWHERE}") from exc

    def secrets(self) -> Secrets:
        """Read the secrets, or create them."""
        path = self.path / "secrets.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Secrets)
        except FileNotFoundError:
            created = Secrets(secrets.token_urlsafe(24), secrets.token_urlsafe(12))
        except msgspec.DecodeError as exc:
            raise errors.EmbeddedError(
                f"{path} cannot be read ({exc}): remove it: new passwords are then created"
            ) from exc
        except OSError as exc:
            raise errors.EmbeddedError(f"{path} cannot be read ({exc.strerror}): {ELSEWHERE}") from exc
        write_private(path, created)
        return created

    def keep(self, secrets: Secrets) -> None:
        """Keep the secrets for the next run."""
        write_private(self.path / "secrets.json", secrets)

    def log(self, name: str) -> Path:
        """Return the log file of one process."""
        return self.logs / f"{name}.log"

    def last_line(self, name: str) -> str:
        """Return the last line of a process's log that says something; "" where there is none."""
        try:
            lines = self.log(name).read_bytes()[-4096:].decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def write_private(path: Path, record: Any) -> None:
    """Write a record as JSON that only its owner can read, whole or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(record)))
    new.replace(path)


def _open_to_others(folder: Path) -> int | None:
    """Return the folder's mode where it gives anybody but its owner a right."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    return mode if mode & 0o077 else None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
