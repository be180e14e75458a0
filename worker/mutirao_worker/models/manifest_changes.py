"""Changes of a manifest by key and value, as a person types them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mutirao import errors
from mutirao.wire.signature import InputSpec
from mutirao_worker.models.manifest import Manifest, Version

_NOT_SETTINGS = ("format", "name", "active", "versions")
_OF_INPUTS = {"datatype": str, "nullable": bool}
_WORDS = {"true": True, "false": False}


def apply(manifest: Manifest, changes: Mapping[str, str]) -> Manifest:
    """Return a manifest with changes; its rules are not checked.

    Args:
        manifest: the manifest.
        changes: values as text, by their keys: a setting, or inputs.<name>.datatype or .nullable of the active version.

    Raises:
        ManifestError: there is no such key or input, or a value is of another type.
    """
    settings = [field for field in msgspec.structs.fields(manifest) if field.name not in _NOT_SETTINGS]
    changed: dict[str, Any] = {}
    version = manifest.version
    for key, text in changes.items():
        if key.startswith("inputs."):
            version = _with_input(version, key, text)
            continue
        field = next((field for field in settings if field.name == key), None)
        if field is None:
            names = ", ".join(field.name for field in settings)
            raise _error(
                manifest, f"{key!r} is not a setting: there are {names}, inputs.NAME.datatype and inputs.NAME.nullable"
            )
        changed[key] = _converted(manifest, key, text, field.type)
    return msgspec.structs.replace(manifest, **changed, versions={**manifest.versions, manifest.active: version})


def _with_input(version: Version, key: str, text: str) -> Version:
    name, _, attribute = key.removeprefix("inputs.").rpartition(".")
    if attribute not in _OF_INPUTS or name not in {spec.name for spec in version.inputs}:
        names = ", ".join(spec.name for spec in version.inputs)
        raise errors.ManifestError(
            f"{key!r} cannot be set: it must be inputs.NAME.datatype or inputs.NAME.nullable, with NAME one of {names}"
        )
    value = text.upper() if attribute == "datatype" else _WORDS.get(text.lower())
    if value is None:
        raise errors.ManifestError(f"{key} is {text!r}: it must be true or false")

    def replaced(spec: InputSpec) -> InputSpec:
        if spec.name != name:
            return spec
        known = {"guessed": False} if attribute == "datatype" else {}
        return msgspec.structs.replace(spec, **{attribute: value}, **known)

    return msgspec.structs.replace(version, inputs=tuple(map(replaced, version.inputs)))


def _converted(manifest: Manifest, key: str, text: str, wanted: Any) -> Any:
    if text.lower() in {"none", ""} and key == "soft_time_limit_s":
        return None
    try:
        return msgspec.convert(_WORDS.get(text.lower(), text), wanted, strict=False)
    except msgspec.ValidationError as exc:
        raise _error(manifest, f"{key} is {text!r}: {str(exc).lower()}") from exc


def _error(manifest: Manifest, text: str) -> errors.ManifestError:
    return errors.ManifestError(f"model {manifest.name!r}: {text}")
