"""The model repository: a folder that holds `<model>/model.toml` and `<model>/<version>/<files>`.

A reader never sees a half-written change: files are complete before the manifest that names them replaces the old one.
The bytes that are loaded are those whose digest was checked.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mutirao import errors, keyspace
from mutirao.registry import ModelInfo
from mutirao_worker.models import (
    announcement,
    atomic_files,
    manifest_changes,
    manifest_file,
    manifest_rules,
    model_source,
    steps,
    trial_process,
    verification,
    version_files,
)
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.manifest import Manifest, Version
from mutirao_worker.models.trial import Trial
from mutirao_worker.models.trial_process import TrialRequest
from mutirao_worker.models.verification import Finding

EXAMPLE_FILE = "example.json"


class Repository:
    """A folder of models.

    Args:
        root: the folder; the first `add` makes it.
        load_s: how long `add` lets files load and predict, in seconds.
        load_memory: how many bytes of memory they may take for that; 0 for four fifths of what is free.
    """

    def __init__(self, root: str | Path, *, load_s: float = 60.0, load_memory: int = 0) -> None:
        self.root = Path(root)
        self._limits = load_s, load_memory

    def names(self) -> tuple[str, ...]:
        """List the models, sorted, by their folders alone; none where there is no such folder.

        Raises:
            RepositoryError: the folder cannot be read.
        """
        try:
            return tuple(sorted(entry.name for entry in self.root.iterdir() if self._is_model_folder(entry)))
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise errors.RepositoryError(f"the model repository {self.root} cannot be read: {exc.strerror}") from exc

    def manifest(self, name: str) -> Manifest:
        """Read a model's manifest.

        Raises:
            InvalidRequest: the name is not allowed for a model.
            ModelNotFound: there is no such model.
            ManifestError: the manifest is not valid.
        """
        path = self._folder(name) / manifest_file.FILE
        try:
            return manifest_file.parse(path.read_bytes(), path)
        except OSError as exc:
            raise errors.ManifestError(f"{path} cannot be read: {exc.strerror}", path=str(path)) from exc

    def load(self, name: str, *, trial: bool = False) -> LoadedModel:
        """Verify the active version, and load it where its runtimes allow that before a fork.

        Args:
            name: the model.
            trial: load it in a throwaway process first, so that its files can hurt nobody: this process must have no thread then.

        Raises:
            ModelNotFound, ManifestError: as `manifest`.
            DigestMismatch: a file is not the one that the manifest names.
            ModelUnavailable: a file is missing, the runtime is not there, or the model cannot be loaded within the limits.
        """
        manifest = self.manifest(name)
        loaded = self._open(manifest)
        try:
            before_fork = steps.is_loaded_before_fork(manifest.version.steps)
            if trial:
                trial_process.load(loaded.load, self._limits)
            if before_fork:
                loaded.load()
        except errors.RepositoryError as exc:
            hint = (
                f"; mutirao models env {name} prints how to serve it"
                if announcement.other_versions(manifest.version)
                else ""
            )
            raise version_files.unavailable_error(name, f"{exc}{hint}") from exc
        return loaded

    def info(self, name: str) -> ModelInfo:
        """Describe a model without loading it; what keeps it from being served becomes its state.

        Raises:
            InvalidRequest, ModelNotFound: as `manifest`.
        """
        self._folder(name)
        try:
            manifest = self.manifest(name)
            note = announcement.version_note(self.root, manifest)
            version_files.read_all(self.root, manifest, manifest.active)
        except errors.MutiraoError as exc:
            return self.unavailable(name, exc)
        return announcement.model_info(manifest, note)

    def unavailable(self, name: str, error: Exception) -> ModelInfo:
        """Describe a model that could not be loaded, as far as its manifest can be read."""
        try:
            info = announcement.model_info(self.manifest(name))
        except errors.MutiraoError:
            info = ModelInfo(name=name, version="")
        return msgspec.structs.replace(info, state="unavailable", reason=str(error))

    def verify(self, name: str) -> list[Finding]:
        """Check every version's files, and load and try the active one; an empty list means that it can be served.

        Raises:
            InvalidRequest, ModelNotFound: as `manifest`.
        """
        try:
            manifest = self.manifest(name)
        except errors.ManifestError as exc:
            return [Finding("", str(exc))]
        return verification.find(self.root, manifest, self._version_folders(name), lambda: self.load(name))

    def add(
        self,
        name: str,
        *files: str | Path,
        version: str | None = None,
        example: Any = None,
        runtime: str | None = None,
        picks: Sequence[str] = (),
        labels: str | Path | None = None,
        trust: Sequence[str] = (),
        **settings: Any,
    ) -> ModelInfo:
        """Add a version of a model, and make it the active one. That loads its files: add only what you trust.

        Args:
            name: the model's name.
            files: the saved model; or one file for each of its steps, of which all but the last transform. They are copied.
            version: its name; one more than the highest number by default.
            example: rows as the model takes them: a DataFrame, an array, or the path of a .csv, .json or .npy file.
            runtime: the kind of model; found by the file's content by default.
            picks: the keys or places of the steps within what the only file holds: a dict, a list or a tuple.
            labels: the file of the names for what it predicts: a fitted encoder, or a list or dict of names (pickle, .json, .txt).
            trust: the types that a skops file may hold.
            settings: max_rows, time_limit_s, max_batch_rows, ..., as in `Manifest`; those not given (or None) stay as they are.

        Raises:
            InvalidRequest: the name or the version is not allowed.
            ModelExists: there is such a version.
            ManifestError: a setting has a value that is not allowed.
            RepositoryError: a file cannot be read, or is no model; what it takes cannot be known without an example.
        """
        keyspace.model_name(name)
        if version is not None:
            self._check_free(name, keyspace.version_name(version))
        source = model_source.read(
            list(map(Path, files)), runtime=runtime, picks=picks, labels=Path(labels) if labels else None, trust=trust
        )
        changed = {key: value for key, value in settings.items() if value is not None}
        example = source.example if example is None else example
        with atomic_files.draft_folder(self.root, source.contents) as draft:
            # Tried without the lock: it may take a minute, and must not hold up those who change other models.
            tried = trial_process.run(
                TrialRequest(
                    draft, list(source.contents), source.steps, source.labels, source.origins, example, *self._limits
                )
            )
            example_file = source.free_name(EXAMPLE_FILE)
            atomic_files.write(draft / example_file, tried.description.example)
            new = _new_version(tried, {**source.contents, example_file: tried.description.example}, example_file)
            changed = ({} if tried.description.by_row else {"max_batch_rows": 1}) | changed
            with atomic_files.exclusive_lock(self.root):
                atomic_files.remove_stale_drafts(self.root)
                return self._add(name, version, draft, new, changed)

    def activate(self, name: str, version: str) -> ModelInfo:
        """Make a version the one that is served.

        Raises:
            ModelNotFound: there is no such model or version.
            ManifestError: as `manifest`.
        """
        with atomic_files.exclusive_lock(self.root):
            manifest = self.manifest(name)
            _check_version(manifest, version)
            changed = msgspec.structs.replace(manifest, active=version)
            self._write(changed)
            return self.info(name)

    def change(self, name: str, changes: Mapping[str, str]) -> ModelInfo:
        """Change settings of a model, or what is known of the inputs of its active version.

        Args:
            name: the model's name.
            changes: see `manifest_changes.apply`.

        Raises:
            ModelNotFound: there is no such model.
            ManifestError: a key or value is not allowed, or the example does not fit any more.
        """
        with atomic_files.exclusive_lock(self.root):
            manifest = self.manifest(name)
            changed = manifest_changes.apply(manifest, changes)
            manifest_file.parse(manifest_file.dump(changed), self.root / name / manifest_file.FILE)
            if changed.version != manifest.version:
                _check_example(self._open(changed))
            self._write(changed)
            return self.info(name)

    def remove(self, name: str, version: str | None = None) -> None:
        """Remove a model, or one version of it; the last version takes the model with it.

        Raises:
            ModelNotFound: there is no such model or version.
            RepositoryError: the version is the active one of several.
        """
        folder = self._folder(name)
        with atomic_files.exclusive_lock(self.root):
            rest = self._manifest_without(name, version) if version is not None else None
            if rest is None:
                atomic_files.remove_folder(folder)
                return
            self._write(rest)
            atomic_files.remove_folder(folder / str(version))

    def _add(self, name: str, version: str | None, draft: Path, new: Version, settings: dict[str, Any]) -> ModelInfo:
        self._check_free(name, version)
        old = self.manifest(name) if name in self.names() else None
        versions = dict(old.versions) if old else {}
        version = version or _next_version({*versions, *self._version_folders(name)})
        base = {**(msgspec.structs.asdict(old) if old else {"name": name}), **settings, "active": version}
        changed = Manifest(**{**base, "versions": {**versions, version: new}})
        manifest_file.parse(manifest_file.dump(changed), self.root / name / manifest_file.FILE)
        atomic_files.publish(draft, self.root / name / version)
        self._write(changed)
        return self.info(name)

    def _open(self, manifest: Manifest) -> LoadedModel:
        """Verify the active version; it is not loaded yet."""
        version = manifest.version
        info = announcement.model_info(manifest, announcement.version_note(self.root, manifest))
        contents = version_files.read_all(self.root, manifest, manifest.active)
        example = contents.get(version.example, b"")
        info = msgspec.structs.replace(info, example=announcement.example_row(example))
        folder = self.root / manifest.name / manifest.active
        make = functools.partial(steps.load, folder, contents, version.steps, version.labels)
        return LoadedModel(info, manifest, make, example)

    def _check_free(self, name: str, version: str | None) -> None:
        if version in self._version_folders(name):
            raise errors.ModelExists(
                f"version {version} of model {name!r} is already there ({self.root / name / version}): choose another, or remove it first"
            )

    def _manifest_without(self, name: str, version: str) -> Manifest | None:
        """Return the manifest without a version; None where it was the only one."""
        manifest = self.manifest(name)
        _check_version(manifest, version)
        rest = {key: value for key, value in manifest.versions.items() if key != version}
        if rest and version == manifest.active:
            hint = f"first run: mutirao models activate {name} {next(reversed(rest))}"
            raise errors.RepositoryError(f"version {version} of model {name!r} is the active one: {hint}")
        return msgspec.structs.replace(manifest, versions=rest) if rest else None

    def _write(self, changed: Manifest) -> None:
        atomic_files.replace_file(self.root / changed.name / manifest_file.FILE, manifest_file.dump(changed))

    def _folder(self, name: str) -> Path:
        # A name is looked up among the existing folders; no path is made of it.
        names = self.names()
        if keyspace.model_name(name) in names:
            return self.root / name
        if (self.root / name).is_symlink():
            raise errors.RepositoryError(f"{self.root / name} is a link out of the repository: copy the model into it")
        hint = f"it has {', '.join(names)}" if names else "it has none yet"
        raise errors.ModelNotFound(
            f"model {name!r} is not in the repository {str(self.root)!r}: {hint}", model=name, known=names
        )

    def _is_model_folder(self, folder: Path) -> bool:
        file = folder / manifest_file.FILE
        return manifest_rules.is_model_name(folder.name) and file.is_file() and version_files.is_inside(self.root, file)

    def _version_folders(self, name: str) -> tuple[str, ...]:
        folder = self.root / name
        return (
            tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
            if folder.is_dir()
            else ()
        )


def _check_example(loaded: LoadedModel) -> None:
    try:
        loaded.example_inputs()
    except errors.InvalidRequest as exc:
        raise errors.ManifestError(f"its example, which it was tried with, does not fit so: {exc}") from exc


def _new_version(tried: Trial, contents: Mapping[str, bytes], example_file: str) -> Version:
    description = tried.description
    return Version(
        steps=tried.steps,
        labels=tried.labels,
        example=example_file,
        frame=description.frame,
        inputs=description.inputs,
        outputs=description.outputs,
        parameters=description.parameters,
        files={name: atomic_files.digest(content) for name, content in contents.items()},
    )


def _check_version(manifest: Manifest, version: str) -> None:
    if version not in manifest.versions:
        has = ", ".join(manifest.versions)
        raise errors.ModelNotFound(
            f"model {manifest.name!r} has no version {version!r}: it has {has}",
            model=manifest.name,
            known=tuple(manifest.versions),
        )


def _next_version(taken: set[str]) -> str:
    return str(max((int(version) for version in taken if version.isascii() and version.isdecimal()), default=0) + 1)
