"""The kinds of models: one module each, imported only when a manifest names it; others come with an entry point `mutirao.runtimes`."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import NamedTuple, cast

from mutirao import errors
from mutirao_worker.models.runtimes.predictor import Predictor

ENTRY_POINTS = "mutirao.runtimes"


class _Runtime(NamedTuple):
    """A runtime of this project.

    Attributes:
        module: where it is.
        name: its class.
        library: the distribution that loads a model, whose version the manifest notes.
        distributions: those that bring its import, one of which must be installed; the library's own where there are none.
        install: what to install.
    """

    module: str
    name: str
    library: str
    distributions: tuple[str, ...] = ()
    install: str = ""

    def version(self) -> str:
        """Return the library's version, or where it is not installed nothing."""
        if self.library == "Python":
            return f"{sys.version_info.major}.{sys.version_info.minor}"
        found = [version for each in self.distributions or (self.library,) if (version := _version(each))]
        return _version(self.library) or found[0] if found else ""


_FOLDER = "mutirao_worker.models.runtimes"
_RUNTIMES = {
    "python": _Runtime(f"{_FOLDER}.python.predictor", "PythonPredictor", "Python"),
    "sklearn": _Runtime(f"{_FOLDER}.sklearn.predictor", "SklearnPredictor", "scikit-learn"),
    "xgboost": _Runtime(
        f"{_FOLDER}.xgboost", "XGBoostPredictor", "xgboost", ("xgboost-cpu", "xgboost"), "mutirao[xgboost]"
    ),
    "skops": _Runtime(f"{_FOLDER}.skops", "SkopsPredictor", "scikit-learn", ("skops",), "mutirao[skops]"),
    "onnx": _Runtime(
        f"{_FOLDER}.onnx", "OnnxPredictor", "onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "mutirao[onnx]"
    ),
    "torch": _Runtime(f"{_FOLDER}.torch", "TorchPredictor", "torch"),
    "lightgbm": _Runtime(f"{_FOLDER}.lightgbm", "LightGBMPredictor", "lightgbm", install="mutirao[lightgbm]"),
}


def find(name: str) -> type[Predictor]:
    """Import a runtime.

    Raises:
        ModelUnavailable: it is not known, or its library is not installed.
    """
    if name not in _RUNTIMES:
        return _of_entry_point(name)
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
    runtime = _RUNTIMES.get(name)
    if runtime is None:
        library = _of_entry_point(name).library
        needs, version, install = library, _version(library), library
    else:
        needs, version = (*runtime.distributions, runtime.library)[0], runtime.version()
        library, install = runtime.library, runtime.install or runtime.library
    if not version:
        raise _unavailable(f'runtime {name!r} needs {needs}: pip install "{install}"')
    return f"{library} {version}"


def has_known_formats(name: str) -> bool:
    """Whether `file_format` knows what files a runtime loads: it does for those of this project."""
    return name in _RUNTIMES


def _of_entry_point(name: str) -> type[Predictor]:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        names = ", ".join([*_RUNTIMES, *sorted(found.names)])
        raise _unavailable(
            f"runtime {name!r} is not known: this worker has {names}; another one comes with a package that "
            f"announces it as an entry point of {ENTRY_POINTS}"
        )
    try:
        kind = found[name].load()
    except Exception as exc:
        raise _unavailable(f"runtime {name!r} ({found[name].value}) cannot be imported: {exc}") from exc
    if not (isinstance(kind, type) and issubclass(kind, Predictor)):
        raise _unavailable(f"runtime {name!r} ({found[name].value}) is no subclass of Predictor")
    return kind


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _unavailable(reason: str) -> errors.ModelUnavailable:
    return errors.ModelUnavailable(reason, reason=reason)
