"""The kinds of models: one module each, imported only when a manifest names it."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import NamedTuple, cast

from mutirao import errors
from mutirao_worker.models.runtimes.predictor import Predictor


class _Runtime(NamedTuple):
    module: str
    name: str
    library: str


_RUNTIMES = {
    "sklearn": _Runtime("mutirao_worker.models.runtimes.sklearn.predictor", "SklearnPredictor", "scikit-learn")
}


def find(name: str) -> type[Predictor]:
    """Import a runtime.

    Raises:
        ModelUnavailable: it is not known, or its library is not installed.
    """
    installed(name)
    try:
        module = importlib.import_module(_RUNTIMES[name].module)
    except ImportError as exc:
        raise _unavailable(f"runtime {name!r} cannot be imported: {exc}") from exc
    return cast("type[Predictor]", getattr(module, _RUNTIMES[name].name))


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
