"""What a manifest may say: each violation with its key, its value and the rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from mutirao import errors, keyspace
from mutirao.wire import tensors
from mutirao.wire.signature import PARAMETER_TYPES, RESERVED_PARAMETERS, TensorSpec
from mutirao_worker.models import atomic_files
from mutirao_worker.models.manifest import Manifest, Version

_DIGEST = re.compile(atomic_files.ALGORITHM + "[0-9a-f]{64}", re.ASCII)
_NAME_MAX = 255
# What the texts of a tensor may hold, as its spec says.
FORMATS = ("json", "binary", "date-time")


def violations(manifest: Manifest, folder: str) -> Iterator[tuple[str, object, str]]:
    """Return each violation of a manifest that lies in a folder of this name."""
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
        if not is_file_name(file):
            yield "files", file, "it must be the name of a file in the version's own folder, or below it"
        if not _DIGEST.fullmatch(digest):
            yield f"files.{file}", digest, f"it must be {atomic_files.ALGORITHM} and 64 hexadecimal digits"
    if not version.steps:
        yield "steps", [], "there must be at least one"
    steps = {f"steps[{at}].file": step.file for at, step in enumerate(version.steps)}
    for key, file in {
        **steps,
        "labels.file": version.labels.file if version.labels else "",
        "example": version.example,
    }.items():
        if file and file not in version.files:
            yield key, file, f"it must be one of files: {', '.join(version.files) or '(none)'}"
    yield from _spec_violations("inputs", version.inputs)
    yield from _spec_violations("outputs", version.outputs)
    yield from _parameter_violations(version)
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
        format = getattr(spec, "format", "")
        if format and (format not in FORMATS or spec.datatype != "BYTES"):
            yield f"{key}.{spec.name}.format", format, f"it must be one of {', '.join(FORMATS)}, of a BYTES tensor"


def _parameter_violations(version: Version) -> Iterator[tuple[str, object, str]]:
    names = [spec.name for spec in version.parameters]
    for spec in version.parameters:
        key = f"parameters.{spec.name}"
        if spec.name in RESERVED_PARAMETERS or names.count(spec.name) > 1:
            yield key, spec.name, "it must be a name of its own, and none of the protocol's"
        kinds, rule = PARAMETER_TYPES.get(spec.datatype, ((), ""))
        if not kinds:
            yield f"{key}.datatype", spec.datatype, f"it must be one of {', '.join(PARAMETER_TYPES)}"
        elif isinstance(spec.default, bool) != (bool in kinds) or not isinstance(spec.default, kinds):
            yield f"{key}.default", spec.default, f"it must be {rule}"


def is_file_name(name: str) -> bool:
    """Whether this may be the name of a file of a version: relative, with / between folders, and never out of it."""
    parts = name.split("/")
    return len(name) <= _NAME_MAX and name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def is_model_name(name: str) -> bool:
    """Whether this may be a model's name."""
    return _allowed(keyspace.model_name, name)


def _allowed(check: Callable[[str], str], name: str) -> bool:
    try:
        return bool(check(name))
    except errors.InvalidRequest:
        return False
