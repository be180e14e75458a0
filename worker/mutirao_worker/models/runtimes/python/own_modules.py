"""The modules of a model's own folder, which are there while its code runs, and under their plain names only for that time.

Two models may both have a utils.py. Modules are made of the bytes whose digests were checked: a file that is dropped into the folder
later is never imported, and no bytecode is written.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType

_lock = threading.RLock()


class OwnModules(MetaPathFinder, InspectLoader):
    """Finds and loads the modules of one folder.

    Args:
        folder: where the files lie, for tracebacks.
        contents: the files, by name relative to it.
    """

    def __init__(self, folder: Path, contents: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._sources = {name: content for name, content in contents.items() if name.endswith(".py")}
        self._packages = {str(parent).replace("/", ".") for name in self._sources for parent in Path(name).parents}
        self._tops = {name.partition("/")[0].removesuffix(".py") for name in self._sources}
        self._modules: dict[str, ModuleType] = {}
        self._found: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """The names of its modules and packages, without those inside packages."""
        return frozenset(self._tops)

    def used(self) -> set[str]:
        """Return the top-level modules from which its modules have names, besides their own."""
        values = [value for module in self._modules.values() for value in vars(module).values()]
        names = (
            value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "") for value in values
        )
        return {str(name).partition(".")[0] for name in names} - self._tops

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Let the modules be imported by their plain names, by the model's code and for as long as it runs."""
        with _lock:
            hidden = self._hidden()
            sys.modules.update(self._modules)
            sys.meta_path.insert(0, self)
            try:
                yield
            finally:
                sys.meta_path.remove(self)
                self._modules = {name: sys.modules.pop(name) for name in self._found if name in sys.modules}
                sys.modules.update(hidden)

    @contextlib.contextmanager
    def standing_in_for_main(self, module: ModuleType) -> Iterator[None]:
        """Let a module stand in for the script whose classes and functions a pickle names (`__main__`)."""
        with _lock:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = module
            try:
                yield
            finally:
                sys.modules["__main__"] = script

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find an own module; one that the folder did not have when it was added is not found, whatever lies there."""
        del path, target
        if not self._is_own(fullname):
            return None
        file = self._file(fullname)
        is_package = fullname in self._packages
        if file is None and not is_package:
            raise ModuleNotFoundError(f"the model's folder has no module {fullname!r}", name=fullname)
        self._found.add(fullname)
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=is_package)
        if is_package:
            spec.submodule_search_locations = [str(self._folder / fullname.replace(".", "/"))]
        if file is not None:
            spec.origin, spec.has_location = str(self._folder / file), True
        return spec

    def is_package(self, fullname: str) -> bool:
        """Return whether a module is a folder."""
        return fullname in self._packages

    def get_source(self, fullname: str) -> str:
        """Return a module's text."""
        file = self._file(fullname)
        return "" if file is None else importlib.util.decode_source(self._sources[file])

    def get_code(self, fullname: str) -> CodeType:
        """Compile a module."""
        file = self._file(fullname)
        source = b"" if file is None else self._sources[file]
        return compile(source, str(self._folder / (file or fullname)), "exec", dont_inherit=True)

    def _hidden(self) -> dict[str, ModuleType]:
        """Take other modules of the same names out of the way; there hardly are any, and this runs with each call of the model."""
        if self._tops.isdisjoint(sys.modules):
            return {}
        return {name: sys.modules.pop(name) for name in list(sys.modules) if self._is_own(name)}

    def _is_own(self, fullname: str) -> bool:
        return fullname.partition(".")[0] in self._tops

    def _file(self, fullname: str) -> str | None:
        path = fullname.replace(".", "/")
        return next((name for name in (f"{path}/__init__.py", f"{path}.py") if name in self._sources), None)
