"""The kinds of models: one module each, imported only when a manifest names it."""

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
    """What a model takes and gives, found by a trial when it was added; the example is a V2 request in JSON."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    frame: bool
    example: bytes


class Runtime(Protocol):
    """What the module of a kind of model offers."""

    def load(self, raw: bytes) -> tuple[Any, str]:
        """Load a model from a file's bytes; return it with the version of the library that saved it, "" for the installed one."""

    def describe(self, model: Any, example: Any) -> Description:
        """Return what a model takes and gives, by a trial run."""

    def predict(
        self, model: Any, inputs: Mapping[str, Array], outputs: tuple[OutputSpec, ...], *, frame: bool
    ) -> dict[str, Array]:
        """Return the outputs by name, computed from the inputs."""

    def check_outputs(self, model: Any, outputs: Mapping[str, Array]) -> None:
        """Raise InvalidOutput where the default outputs of a trial cannot be right."""

    def set_threads(self, model: Any, threads: int) -> None:
        """Cap the threads that the model itself starts."""


class _Runtime(NamedTuple):
    module: str
    library: str


_RUNTIMES = {"sklearn": _Runtime("mutirao_worker.models.runtimes.sklearn", "scikit-learn")}


def find(name: str) -> Runtime:
    """Import a runtime's module.

    Raises:
        ModelUnavailable: it is not known, or its library is not installed.
    """
    installed(name)
    try:
        return cast("Runtime", importlib.import_module(_RUNTIMES[name].module))
    except ImportError as exc:
        raise _unavailable(f"runtime {name!r} cannot be imported: {exc}") from exc


def installed(name: str) -> str:
    """Return the library of a runtime with its installed version, without importing it: scikit-learn 1.9.1.

    Raises:
        ModelUnavailable: the runtime is not known, or its library is not installed.
    """
    if name not in _RUNTIMES:
        raise _unavailable(f"runtime {name!r} is not known: this worker has {', '.join(_RUNTIMES)}")
    library = _RUNTIMES[name].library
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        raise _unavailable(f"runtime {name!r} needs {library}, which is not installed") from None


def _unavailable(reason: str) -> errors.ModelUnavailable:
    return errors.ModelUnavailable(reason, reason=reason)
