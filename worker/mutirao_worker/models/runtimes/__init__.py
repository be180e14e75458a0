"""The kinds of models: one module each, its heavy imports inside, found by the name that a manifest gives."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from mutirao import errors
from mutirao.wire.signature import InputSpec, OutputSpec
from mutirao.wire.tensors import Array


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime found out of a model when it was added; the example is a V2 request in JSON."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    frame: bool
    example: bytes


class Runtime(Protocol):
    """What a runtime's module offers."""

    def load(self, raw: bytes) -> tuple[Any, str]:
        """Make a model of a file's bytes; beside it, the version of the library that saved it, "" where it is the installed one."""

    def describe(self, model: Any, example: Any) -> Description:
        """Find out what a model takes and gives, by a trial run."""

    def predict(
        self, model: Any, inputs: Mapping[str, Array], outputs: tuple[OutputSpec, ...], *, frame: bool
    ) -> dict[str, Array]:
        """Compute the outputs."""

    def check(self, model: Any, answers: Mapping[str, Array]) -> None:
        """Raise InvalidOutput where the answers to a trial, the default outputs, cannot be right."""

    def set_threads(self, model: Any, threads: int) -> None:
        """Let the model use no more than this many threads."""


class _Kind(NamedTuple):
    module: str
    library: str


_KINDS = {"sklearn": _Kind("mutirao_worker.models.runtimes.sklearn", "scikit-learn")}


def find(name: str) -> Runtime:
    """Import a runtime.

    Raises:
        ModelUnavailable: it is not known, or its library is not installed.
    """
    installed(name)
    try:
        return cast("Runtime", importlib.import_module(_KINDS[name].module))
    except ImportError as exc:
        raise _unavailable(f"runtime {name!r} cannot be imported: {exc}") from exc


def installed(name: str) -> str:
    """Name the library of a runtime and its installed version, without importing it: scikit-learn 1.9.1.

    Raises:
        ModelUnavailable: the runtime is not known, or its library is not installed.
    """
    if name not in _KINDS:
        raise _unavailable(f"runtime {name!r} is not known: this worker has {', '.join(_KINDS)}")
    library = _KINDS[name].library
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        raise _unavailable(f"runtime {name!r} needs {library}, which is not installed") from None


def _unavailable(reason: str) -> errors.ModelUnavailable:
    return errors.ModelUnavailable(reason, reason=reason)
