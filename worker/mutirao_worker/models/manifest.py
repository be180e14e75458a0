"""model.toml, a model's manifest: its settings, which a person may edit, and its versions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Any

import msgspec

from mutirao import errors, keyspace
from mutirao.wire import tensors
from mutirao.wire.signature import InputSpec, OutputSpec, Signature, TensorSpec
from mutirao_worker.models import atomic_files

FILE = "model.toml"

_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_DIGEST = re.compile(atomic_files.ALGORITHM + "[0-9a-f]{64}", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)

_HEADER = """\
# Read by the workers when they start. You may edit the settings above the first [versions...]; the versions are written by
# `mutirao models add`, which keeps your settings, but not your comments.
"""


class BatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A model's limits for batches.

    Attributes:
        max_rows: the most rows of one batch.
        max_bytes: the most bytes of one batch, as its requests came.
        max_wait_s: how long the first of a batch may wait for others while a slot is free.
        latency_s: what a batch may take by the fitted times; 0 for no such target.
    """

    max_rows: int = 512
    max_bytes: int = 8 * 1024 * 1024
    max_wait_s: float = 0.0
    latency_s: float = 0.0


class Version(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a model.

    Attributes:
        model: the file that the runtime loads.
        example: a V2 request with a few rows, for the warm-up; "" for none.
        saved_with: the library and its version that wrote the file.
        frame: the inputs are the columns of a DataFrame.
        inputs: what it takes.
        outputs: what it gives.
        files: the digest of each file, as sha256:<64 hex digits>; a file that is not listed is never read.
    """

    model: str
    example: str = ""
    saved_with: str = ""
    frame: bool = False
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    files: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and its versions.

    Attributes:
        name: the folder's name.
        runtime: the kind of model, which decides what loads it: sklearn, ...
        active: the version that is served.
        max_rows: the most rows that one request may hold.
        time_limit_s: a prediction that runs for longer is stopped with its process.
        soft_time_limit_s: a prediction that runs for longer is interrupted by an exception; None for never.
        max_batch_rows: the most rows of several requests in one prediction; a larger request is predicted alone, whole.
        max_batch_bytes: the most bytes of their inputs, as for the rows.
        max_wait_ms: how long a request may wait for others while a process is idle; 0 for not at all.
        latency_target_ms: batches are kept so small that a prediction takes no longer than this; 0 for any size.
        max_attempts: how often a request may be running when its process dies or is stopped; then it fails.
        strict_version: refuse to load with another version of the library than the one it was saved with.
        versions: by name.
    """

    name: str
    runtime: str
    active: str
    max_rows: int = 10_000
    time_limit_s: float = 60.0
    soft_time_limit_s: float | None = None
    max_batch_rows: int = 512
    max_batch_bytes: int = 8 * 1024 * 1024
    max_wait_ms: float = 0.0
    latency_target_ms: float = 0.0
    max_attempts: int = 3
    strict_version: bool = False
    versions: dict[str, Version]

    @property
    def version(self) -> Version:
        """The active version."""
        return self.versions[self.active]

    @property
    def batch_limits(self) -> BatchLimits:
        """The limits for batches, times in seconds."""
        return BatchLimits(
            max_rows=self.max_batch_rows,
            max_bytes=self.max_batch_bytes,
            max_wait_s=self.max_wait_ms / 1000,
            latency_s=self.latency_target_ms / 1000,
        )

    @property
    def signature(self) -> Signature:
        """What the active version takes and gives."""
        version = self.version
        return Signature(inputs=version.inputs, outputs=version.outputs, frame=version.frame, max_rows=self.max_rows)


def parse(text: bytes, path: PurePath) -> Manifest:
    """Parse a model.toml; the model has its folder's name.

    Raises:
        ManifestError: names the file, the key and its value.
    """
    try:
        document = tomllib.loads(text.decode())
        manifest = msgspec.convert(document, Manifest)
    except RecursionError as exc:
        raise _manifest_error(path, "it is nested too deeply: no key needs more than three levels") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise _manifest_error(path, f"it is not TOML: {exc}") from exc
    except msgspec.ValidationError as exc:
        raise _manifest_error(path, _plain_message(str(exc), document)) from exc
    for key, value, rule in _violations(manifest, path.parent.name):
        raise _manifest_error(path, f"{key} is {value!r}: {rule}")
    return manifest


def dump(manifest: Manifest) -> bytes:
    """Return a model.toml, laid out for people."""
    settings = msgspec.structs.asdict(manifest)
    versions = settings.pop("versions")
    lines = [_HEADER, *(_setting_line(key, value) for key, value in settings.items())]
    for name, version in versions.items():
        lines += ["", f"[versions.{_toml_value(name)}]", *_version_lines(version)]
        lines += [
            "",
            f"[versions.{_toml_value(name)}.files]",
            *(f"{_toml_value(file)} = {_toml_value(digest)}" for file, digest in version.files.items()),
        ]
    return ("\n".join(lines) + "\n").encode()


def _setting_line(key: str, value: Any) -> str:
    return f"# {key} =  (none)" if value is None else f"{key} = {_toml_value(value)}"


def _version_lines(version: Version) -> Iterator[str]:
    for key, value in msgspec.to_builtins(version).items():
        if key in {"inputs", "outputs"}:
            yield f"{key} = ["
            yield from (f"  {_toml_value(spec)}," for spec in value)
            yield "]"
        elif key != "files":
            yield f"{key} = {_toml_value(value)}"


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(each) for each in value) + "]"
    # A TOML basic string is a JSON string, but for DEL and for the pairs of \u escapes that JSON makes of an emoji.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key, re.ASCII) else _toml_value(key)


def _violations(manifest: Manifest, folder: str) -> Iterator[tuple[str, object, str]]:
    yield from _setting_violations(manifest, folder)
    for name, version in manifest.versions.items():
        if not _allowed(keyspace.version_name, name):
            yield "versions", name, "a version is 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit"
        yield from ((f"versions.{name}.{key}", value, rule) for key, value, rule in _version_violations(version))


def _setting_violations(manifest: Manifest, folder: str) -> Iterator[tuple[str, object, str]]:
    if manifest.name != folder:
        yield "name", manifest.name, f"it must be {folder!r}, as its folder"
    if manifest.active not in manifest.versions:
        yield "active", manifest.active, f"it must be one of the versions {', '.join(manifest.versions) or '(none)'}"
    for key in ("max_rows", "max_batch_rows", "max_batch_bytes", "max_attempts"):
        if (count := getattr(manifest, key)) < 1:
            yield key, count, "it must be at least 1"
    if not 0 < manifest.time_limit_s < float("inf"):
        yield "time_limit_s", manifest.time_limit_s, "it must be more than 0"
    if manifest.soft_time_limit_s is not None and not 0 < manifest.soft_time_limit_s < manifest.time_limit_s:
        yield (
            "soft_time_limit_s",
            manifest.soft_time_limit_s,
            f"it must be more than 0 and less than time_limit_s, {manifest.time_limit_s}",
        )
    for key in ("max_wait_ms", "latency_target_ms"):
        # NaN is refused too: it is neither less nor more.
        if not 0 <= (wait := getattr(manifest, key)) / 1000 < manifest.time_limit_s:
            yield key, wait, f"it must be 0 or more milliseconds, and less than time_limit_s, {manifest.time_limit_s} s"
    if 0 < manifest.latency_target_ms <= manifest.max_wait_ms:
        yield (
            "max_wait_ms",
            manifest.max_wait_ms,
            f"it must be less than latency_target_ms, {manifest.latency_target_ms}",
        )


def _version_violations(version: Version) -> Iterator[tuple[str, object, str]]:
    for file, digest in version.files.items():
        if not _FILE_NAME.fullmatch(file):
            yield "files", file, "it must be the name of a file in the version's own folder"
        if not _DIGEST.fullmatch(digest):
            yield f"files.{file}", digest, f"it must be {atomic_files.ALGORITHM} and 64 hexadecimal digits"
    for key in ("model", "example"):
        if (file := getattr(version, key)) not in version.files and (file or key == "model"):
            yield key, file, f"it must be one of files: {', '.join(version.files) or '(none)'}"
    yield from _spec_violations("inputs", version.inputs)
    yield from _spec_violations("outputs", version.outputs)
    if not any(output.default for output in version.outputs):
        yield "outputs", [output.name for output in version.outputs], "at least one must have default = true"


def _spec_violations(key: str, specs: Iterable[TensorSpec]) -> Iterator[tuple[str, object, str]]:
    names = [spec.name for spec in specs]
    if not names or len(set(names)) != len(names):
        yield key, names, "there must be at least one, each with a name of its own"
    for spec in specs:
        if spec.datatype not in tensors.DTYPES:
            yield f"{key}.{spec.name}.datatype", spec.datatype, f"it must be one of {', '.join(tensors.DTYPES)}"
        if spec.shape[:1] != (-1,) or any(size < -1 for size in spec.shape):
            yield (
                f"{key}.{spec.name}.shape",
                list(spec.shape),
                "it must begin with -1, the rows; other sizes are -1 (any) or more",
            )


def is_model_name(name: str) -> bool:
    """Whether this may be a model's name."""
    return _allowed(keyspace.model_name, name)


def _allowed(check: Callable[[str], str], name: str) -> bool:
    try:
        return bool(check(name))
    except errors.InvalidRequest:
        return False


def _plain_message(text: str, document: dict[str, Any]) -> str:
    rule, _, place = text.partition(" - at `$.")
    path = place.removesuffix("`")
    value: Any = document
    for part in path.replace("[...]", "").split(".") if path else ():
        value = value.get(part) if isinstance(value, dict) else None
    for kind, words in _TYPE_WORDS.items():
        rule = rule.replace(f"`{kind}`", words)
    shown = f"{path} is {value!r}: " if path and isinstance(value, str | int | float) else f"{path}: " if path else ""
    return shown + rule[:1].lower() + rule[1:]


def _manifest_error(path: PurePath, text: str) -> errors.ManifestError:
    return errors.ManifestError(f"{path}: {text}", path=str(path))
