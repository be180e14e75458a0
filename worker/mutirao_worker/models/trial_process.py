"""Where a version is tried before it is added: a throwaway process, so that files that crash, hang or take all memory hurt nothing else.

A process with threads cannot be forked safely: it starts one that has none, which it keeps, and which forks for each trial.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from mutirao import errors
from mutirao_worker.models import runtimes, step_loading, trial
from mutirao_worker.models.manifest import LabelFile, Step
from mutirao_worker.models.trial import Trial
from mutirao_worker.process import native_threads, throwaway

_LIMITS = "MUTIRAO_LOAD_S and MUTIRAO_LOAD_MEMORY are the limits"
_LENGTH = struct.Struct("<Q")
_server: subprocess.Popen[bytes] | None = None
_owner = 0  # the process that started it; a fork of that one starts its own
_lock = threading.Lock()


class TrialRequest(msgspec.Struct, frozen=True):
    """A version to be tried; the attributes are those of `trial.run`, and the limits.

    Attributes:
        seconds: how long it may take.
        max_bytes: how much memory; see `throwaway.run`.
    """

    folder: Path
    names: Sequence[str]
    steps: tuple[Step, ...]
    labels: LabelFile | None
    origins: dict[str, str]
    example: Any
    seconds: float
    max_bytes: int = 0


class _Answer(msgspec.Struct, frozen=True):
    """What comes back: a trial, or why there is none."""

    trial: Trial | None = None
    error: str = ""
    message: str = ""


def run(request: TrialRequest) -> Trial:
    """Try a version in a throwaway process.

    Raises:
        RepositoryError, ModelUnavailable: as `trial.run`; or it ended its process, or was over a limit.
    """
    answer = _forked(request) if native_threads.may_fork() else _asked(request)
    if answer.trial is not None:
        return answer.trial
    raise (errors.class_named(answer.error) or errors.RepositoryError)(answer.message)


def run_here(request: TrialRequest) -> Trial:
    """Try a version in this process, which its files may end, hang or change.

    Raises:
        RepositoryError, ModelUnavailable: as `trial.run`.
    """
    contents = {name: (request.folder / name).read_bytes() for name in request.names}
    return trial.run(request.folder, contents, request.steps, request.labels, request.origins, request.example)


def load(function: Callable[[], None], limits: tuple[float, int]) -> None:
    """Load a model in a throwaway fork of this process, which must have no thread.

    Args:
        function: what loads it.
        limits: seconds and bytes; see `throwaway.run`.

    Raises:
        RepositoryError: as the function; or it ended its process, or was over a limit.
    """

    def loaded() -> bytes:
        try:
            function()
            answer = _Answer()
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the model's own code runs here
            answer = _Answer(message=step_loading.describe_error(exc))
        return _encoded(answer)

    try:
        answer = _decoded(throwaway.run(loaded, seconds=limits[0], max_bytes=limits[1]))
    except throwaway.Ended as exc:
        raise errors.RepositoryError(f"while it was loaded, it {exc}; {_LIMITS}") from exc
    if answer.message:
        raise errors.RepositoryError(answer.message)


def _forked(request: TrialRequest) -> _Answer:
    first = request.origins.get(request.steps[0].file, str(request.folder))
    try:
        return _decoded(throwaway.run(lambda: _tried(request), seconds=request.seconds, max_bytes=request.max_bytes))
    except throwaway.Ended as exc:
        return _Answer(message=f"{first} cannot be served: while it was loaded and tried, it {exc}; {_LIMITS}")


def _tried(request: TrialRequest) -> bytes:
    try:
        with native_threads.one(then=1):
            answer = _Answer(trial=run_here(request))
    except errors.MutiraoError as exc:
        answer = _Answer(error=type(exc).__name__, message=str(exc))
    return _encoded(answer)


def _encoded(answer: _Answer) -> bytes:
    # A message may quote the name of a file that is no UTF-8.
    message = answer.message.encode(errors="backslashreplace").decode()
    return msgspec.json.encode(msgspec.structs.replace(answer, message=message))


def _decoded(raw: bytes) -> _Answer:
    """Return an answer.

    Raises:
        Ended: something else was written where it belongs.
    """
    try:
        return msgspec.json.decode(raw, type=_Answer)
    except msgspec.MsgspecError as exc:
        raise throwaway.Ended("wrote to a file descriptor that it did not open") from exc


def _asked(request: TrialRequest) -> _Answer:
    """Let the process that has no threads try it.

    Raises:
        RepositoryError: it has ended, or the example cannot be sent to it.
    """
    surroundings = (sys.path, str(Path.cwd()), dict(os.environ))
    try:
        content = pickle.dumps((surroundings, pickle.dumps(request)))
    except Exception as exc:
        text = f"the example, a {type(request.example).__name__}, cannot be pickled: give a DataFrame, an array, a list or a file"
        raise errors.RepositoryError(f"{text} ({step_loading.describe_error(exc)})") from exc
    with _lock:
        server = _running_server()
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            _send(server.stdin, content)
            return msgspec.json.decode(_receive(server.stdout), type=_Answer)
        except BaseException as exc:  # an interrupt, too: what it answers later belongs to no other request
            server.kill()
            server.wait()
            if not isinstance(exc, OSError | EOFError | msgspec.MsgspecError):
                raise
            raise errors.RepositoryError(f"the process that tries models has ended: {exc}") from exc


def _running_server() -> subprocess.Popen[bytes]:
    global _server, _owner  # noqa: PLW0603 - one for the life of this process
    if _server is None or _owner != os.getpid() or _server.poll() is not None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        environment = {
            **os.environ,
            **dict.fromkeys(native_threads.VARIABLES, "1"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)  # noqa: S603
        _owner = os.getpid()
        atexit.register(_end, _server)
    return _server


def _end(server: subprocess.Popen[bytes]) -> None:
    if _owner != os.getpid():
        return
    assert server.stdin is not None
    with contextlib.suppress(OSError):
        server.stdin.close()  # it reads the end, and ends
    server.wait()


def serve() -> None:
    """Try what is asked for on standard input, until that ends."""
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(EOFError):
        while True:
            # From the process that started this one.
            (path, folder, environment), content = pickle.loads(_receive(source))  # noqa: S301
            sys.path[:] = path
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            try:
                request = pickle.loads(content)  # noqa: S301
            except Exception as exc:  # noqa: BLE001 - a class of the example, which only that process has
                text = f"the example cannot be read in another process: give a DataFrame, an array, a list or a file ({step_loading.describe_error(exc)})"
                _send(answers, _encoded(_Answer(message=text)))
                continue
            if any(step.runtime == "sklearn" for step in request.steps):
                with contextlib.suppress(errors.MutiraoError):
                    runtimes.find("sklearn")  # imported once, not by each fork; other libraries may start threads
            _send(answers, msgspec.json.encode(_forked(request)))


def _send(stream: Any, content: bytes) -> None:
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("it closed its pipe")
    return stream.read(_LENGTH.unpack(head)[0])
