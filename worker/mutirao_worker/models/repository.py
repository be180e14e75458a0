"""The model repository: a folder that holds `<model>/model.toml` and `<model>/<version>/<files>`.

A reader never sees a half-written change: files are complete before the manifest that names them replaces the old one.
What is loaded are the very bytes whose digest was checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mutirao import errors, keyspace
from mutirao.registry import ModelInfo
from mutirao.wire import tensors
from mutirao.wire.messages import PredictRequest
from mutirao_worker.models import atomic_files, manifest, model_file, runtimes
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.manifest import Manifest, Version

__all__ = ["Finding", "LoadedModel", "Repository"]

MODEL_FILE = "model.joblib"
EXAMPLE_FILE = "example.json"
# Every client reads the catalogue: a longer row stays out of it.
_ROW_BYTES = 2048


class Finding(msgspec.Struct, frozen=True):
    """Something that `verify` has to say; a note does not keep the model from being served."""

    version: str
    text: str
    note: bool = False


class Repository:
    """A folder of models.

    Args:
        root: the folder; the first `add` makes it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def names(self) -> tuple[str, ...]:
        """List the models, sorted, by their folders alone; none where there is no such folder.

        Raises:
            RepositoryError: the folder cannot be read.
        """
        try:
            return tuple(sorted(entry.name for entry in self.root.iterdir() if self._holds_model(entry)))
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise errors.RepositoryError(f"the model repository {self.root} cannot be read: {exc.strerror}") from exc

    def manifest(self, name: str) -> Manifest:
        """Read a model's manifest.

        Raises:
            InvalidRequest: this is no model's name.
            ModelNotFound: there is no such model.
            ManifestError: the manifest does not say what it must.
        """
        path = self._folder(name) / manifest.FILE
        try:
            return manifest.parse(path.read_bytes(), path)
        except OSError as exc:
            raise errors.ManifestError(f"{path} cannot be read: {exc.strerror}", path=str(path)) from exc

    def load(self, name: str) -> LoadedModel:
        """Verify and load the active version.

        Raises:
            ModelNotFound, ManifestError: as `manifest`.
            DigestMismatch: a file is not the one that the manifest names.
            ModelUnavailable: a file is missing, the runtime is not there, or the model cannot be loaded.
        """
        found = self.manifest(name)
        info = _info(found, _version_note(found))
        files = self._files(found, found.active)
        runtime = runtimes.find(found.runtime)
        try:
            model, _ = _loaded(self._path(found, found.version.model), files[found.version.model], found.runtime)
        except errors.RepositoryError as exc:
            raise _unavailable(name, str(exc)) from exc
        example = files.get(found.version.example, b"")
        return LoadedModel(msgspec.structs.replace(info, example=_row(example)), found, runtime, model, example)

    def info(self, name: str) -> ModelInfo:
        """Tell what is known of a model without loading it; what keeps it from being served becomes its state.

        Raises:
            InvalidRequest, ModelNotFound: as `manifest`.
        """
        self._folder(name)
        try:
            found = self.manifest(name)
            note = _version_note(found)
            self._files(found, found.active)
        except errors.MutiraoError as exc:
            return self.unavailable(name, exc)
        return _info(found, note)

    def unavailable(self, name: str, error: Exception) -> ModelInfo:
        """Describe a model that could not be loaded, as far as its manifest can be read."""
        try:
            known = _info(self.manifest(name))
        except errors.MutiraoError:
            known = ModelInfo(name=name, version="")
        return msgspec.structs.replace(known, state="unavailable", reason=str(error))

    def verify(self, name: str) -> list[Finding]:
        """Check every version's files, and load and try the active one; nothing found means that it can be served.

        Raises:
            InvalidRequest, ModelNotFound: as `manifest`.
        """
        try:
            found = self.manifest(name)
        except errors.ManifestError as exc:
            return [Finding("", str(exc))]
        findings = [*self._unlisted(found), *self._verify_files(found)]
        broken = any(finding.version == found.active and not finding.note for finding in findings)
        return findings if broken else [*findings, *self._verify_active(found)]

    def add(
        self,
        name: str,
        file: str | Path,
        *,
        version: str | None = None,
        example: Any = None,
        runtime: str = "sklearn",
        **settings: Any,
    ) -> ModelInfo:
        """Add a version of a model, and make it the active one. The file is loaded for that: add only what you trust.

        Args:
            name: the model's name.
            file: the saved model; it is copied.
            version: its name; one more than the highest number by default.
            example: rows as the model takes them: a DataFrame, an array, or the path of a .csv, .json or .npy file.
            runtime: what loads it.
            settings: max_rows, time_limit_s, max_batch_rows, ..., as in `Manifest`; those not given (or None) stay as they are.

        Raises:
            InvalidRequest: the name or the version is not allowed.
            ModelExists: there is such a version.
            ManifestError: a setting has a value that cannot be.
            RepositoryError: the file cannot be read, or is no model; what it takes cannot be known without an example.
        """
        keyspace.model_name(name)
        if version is not None:
            self._check_free(name, keyspace.version_name(version))
        new, files = _described(Path(file), runtime, example)
        given = {key: value for key, value in settings.items() if value is not None}
        with atomic_files.locked(self.root):
            return self._add(name, version, new, files, {"runtime": runtime, **given})

    def activate(self, name: str, version: str) -> ModelInfo:
        """Make another version the one that is served.

        Raises:
            ModelNotFound: there is no such model or version.
            ManifestError: as `manifest`.
        """
        with atomic_files.locked(self.root):
            found = self.manifest(name)
            _check_version(found, version)
            changed = msgspec.structs.replace(found, active=version)
            self._write(changed)
            return self.info(name)

    def remove(self, name: str, version: str | None = None) -> None:
        """Remove a model, or one version of it; the last version takes the model with it.

        Raises:
            ModelNotFound: there is no such model or version.
            RepositoryError: the version is the active one of several.
        """
        folder = self._folder(name)
        with atomic_files.locked(self.root):
            rest = self._rest(name, version) if version is not None else None
            if rest is None:
                atomic_files.remove(folder)
                return
            self._write(rest)
            atomic_files.remove(folder / str(version))

    def _add(
        self, name: str, version: str | None, new: Version, files: Mapping[str, bytes], settings: dict[str, Any]
    ) -> ModelInfo:
        self._check_free(name, version)
        old = self.manifest(name) if name in self.names() else None
        versions = dict(old.versions) if old else {}
        version = version or _next({*versions, *self._folders(name)})
        base = msgspec.structs.asdict(old) if old else {"name": name}
        path = self.root / name / manifest.FILE
        changed = Manifest(**{**base, **settings, "active": version, "versions": {**versions, version: new}})
        manifest.parse(manifest.dump(changed), path)
        atomic_files.make(self.root / name / version, files)
        self._write(changed)
        return self.info(name)

    def _check_free(self, name: str, version: str | None) -> None:
        if version in self._folders(name):
            raise errors.ModelExists(
                f"version {version} of model {name!r} is already there ({self.root / name / version}): choose another, or remove it first"
            )

    def _rest(self, name: str, version: str) -> Manifest | None:
        """Make the manifest without a version; None where it was the only one."""
        found = self.manifest(name)
        _check_version(found, version)
        rest = {key: value for key, value in found.versions.items() if key != version}
        if rest and version == found.active:
            hint = f"first run: mutirao models activate {name} {next(reversed(rest))}"
            raise errors.RepositoryError(f"version {version} of model {name!r} is the active one: {hint}")
        return msgspec.structs.replace(found, versions=rest) if rest else None

    def _write(self, changed: Manifest) -> None:
        atomic_files.replace(self.root / changed.name / manifest.FILE, manifest.dump(changed))

    def _folder(self, name: str) -> Path:
        # A name is looked up among the folders that are there; it never makes a path of its own.
        names = self.names()
        if keyspace.model_name(name) in names:
            return self.root / name
        if (self.root / name).is_symlink():
            raise errors.RepositoryError(f"{self.root / name} is a link out of the repository: copy the model into it")
        hint = f"it has {', '.join(names)}" if names else "it has none yet"
        raise errors.ModelNotFound(
            f"model {name!r} is not in the repository {str(self.root)!r}: {hint}", model=name, known=names
        )

    def _holds_model(self, folder: Path) -> bool:
        file = folder / manifest.FILE
        return manifest.is_model(folder.name) and file.is_file() and self._inside(file)

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _folders(self, name: str) -> tuple[str, ...]:
        folder = self.root / name
        return (
            tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
            if folder.is_dir()
            else ()
        )

    def _path(self, found: Manifest, file: str) -> Path:
        return self.root / found.name / found.active / file

    def _files(self, found: Manifest, version: str) -> dict[str, bytes]:
        return {file: self._file(found, version, file) for file in found.versions[version].files}

    def _file(self, found: Manifest, version: str, file: str) -> bytes:
        path = self.root / found.name / version / file
        if not self._inside(path):
            raise _unavailable(found.name, f"{path} is a link out of the repository: copy the file into it")
        if not path.is_file():
            raise _unavailable(found.name, f"{path} is missing: put it back, or add the model again")
        try:
            raw = path.read_bytes()
        except OSError as exc:
            raise _unavailable(found.name, f"{path} cannot be read: {exc.strerror}") from exc
        wanted, got = found.versions[version].files[file], atomic_files.digest(raw)
        if got != wanted:
            says = f"its digest is {got[:15]}..., {manifest.FILE} names {wanted[:15]}..."
            raise errors.DigestMismatch(
                f"{path} is not the file that was added: {says}; put it back, or add it as a new version",
                path=str(path),
            )
        return raw

    def _unlisted(self, found: Manifest) -> Iterator[Finding]:
        for folder in self._folders(found.name):
            if folder not in found.versions:
                yield Finding(
                    folder,
                    f"{self.root / found.name / folder} is not in {manifest.FILE}: it is never served",
                    note=True,
                )

    def _verify_files(self, found: Manifest) -> Iterator[Finding]:
        for version, listed in found.versions.items():
            for file in listed.files:
                try:
                    self._file(found, version, file)
                except errors.MutiraoError as exc:
                    yield Finding(version, str(exc))

    def _verify_active(self, found: Manifest) -> Iterator[Finding]:
        try:
            loaded = self.load(found.name)
        except errors.MutiraoError as exc:
            yield Finding(found.active, str(exc))
            return
        if loaded.info.reason:
            yield Finding(found.active, loaded.info.reason, note=True)
        try:
            loaded.warm_up()
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the model's own code runs here
            yield Finding(
                found.active,
                f"{self._path(found, found.version.model)} loads, but does not answer its example as it should: {_said(exc)}",
            )


def _described(file: Path, runtime: str, example: Any) -> tuple[Version, dict[str, bytes]]:
    raw = atomic_files.read(file)
    model, saved_with = _loaded(file, raw, runtime)
    try:
        found = runtimes.find(runtime).describe(model, example)
    except (Exception, SystemExit) as exc:
        said = str(exc) if isinstance(exc, errors.MutiraoError) else f"{file} cannot be looked at: {_said(exc)}"
        installed = runtimes.installed(runtime)
        if saved_with and saved_with != installed:
            said = f"{said}; it was saved with {saved_with}, this is {installed}: install that version for its worker, or save it again"
        raise errors.RepositoryError(said) from exc
    files = {MODEL_FILE: raw, EXAMPLE_FILE: found.example}
    version = Version(
        model=MODEL_FILE,
        example=EXAMPLE_FILE,
        saved_with=saved_with or runtimes.installed(runtime),
        frame=found.frame,
        inputs=found.inputs,
        outputs=found.outputs,
        files={name: atomic_files.digest(content) for name, content in files.items()},
    )
    return version, files


def _loaded(file: Path, raw: bytes, runtime: str) -> tuple[Any, str]:
    """Load a model's file.

    Raises:
        RepositoryError: it is another format's, or it does not load; says what it is, and what to do.
        ModelUnavailable: as `runtimes.find`.
    """
    if said := model_file.foreign(raw):
        raise errors.RepositoryError(f"{file} {said}")
    module = runtimes.find(runtime)
    try:
        return module.load(raw)
    except errors.RepositoryError as exc:
        raise errors.RepositoryError(f"{file} cannot be served: {exc}") from exc
    except (Exception, SystemExit) as exc:
        said = model_file.not_loaded(raw, exc, runtimes.installed(runtime))
        raise errors.RepositoryError(f"{file} does not load: {said}") from exc


def _info(found: Manifest, note: str = "") -> ModelInfo:
    return ModelInfo(
        name=found.name,
        version=found.active,
        versions=tuple(found.versions),
        runtime=found.runtime,
        signature=found.signature,
        reason=note,
        digest=_copy_digest(found),
    )


def _row(example: bytes) -> dict[str, list[Any]]:
    """Return the first row of an example, for forms to begin with."""
    if not example:
        return {}
    request = msgspec.json.decode(example, type=PredictRequest)
    row = {tensor.name: np.ravel(tensors.decode(tensor)[:1]).tolist() for tensor in request.inputs}
    return row if len(msgspec.json.encode(row)) <= _ROW_BYTES else {}


def _copy_digest(found: Manifest) -> str:
    """Digest a version's files, and what it takes and gives: the same for every true copy."""
    version = found.version
    told = (sorted(version.files.items()), version.frame, version.inputs, version.outputs)
    return hashlib.blake2b(msgspec.json.encode(told), digest_size=8).hexdigest()


def _version_note(found: Manifest) -> str:
    """Say where the library is not of the version that saved the model."""
    installed, saved_with = runtimes.installed(found.runtime), found.version.saved_with
    if not saved_with or saved_with == installed:
        return ""
    text = f"saved with {saved_with}, loaded with {installed}"
    if found.strict_version:
        raise _unavailable(
            found.name,
            f"{text}, which its strict_version = true refuses: install {saved_with}, or save the model again",
        )
    return text


def _check_version(found: Manifest, version: str) -> None:
    if version not in found.versions:
        has = ", ".join(found.versions)
        raise errors.ModelNotFound(
            f"model {found.name!r} has no version {version!r}: it has {has}",
            model=found.name,
            known=tuple(found.versions),
        )


def _next(taken: set[str]) -> str:
    return str(max((int(version) for version in taken if version.isascii() and version.isdecimal()), default=0) + 1)


def _unavailable(name: str, reason: str) -> errors.ModelUnavailable:
    return errors.ModelUnavailable(reason, model=name, reason=reason)


def _said(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, errors.MutiraoError) else f"{type(exc).__name__}: {exc}"
