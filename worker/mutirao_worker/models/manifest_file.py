"""model.toml: a model's manifest as a file, read in this format and the earlier one, and written for people."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import msgspec

from mutirao import errors
from mutirao_worker.models import manifest_rules
from mutirao_worker.models.manifest import FORMAT, Manifest, Version

FILE = "model.toml"

_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_HEADER = """\
# Read by the workers when they start. You may edit the settings above the first [versions...]; the versions are written by
# `mutirao models add`, which keeps your settings, but not your comments.
"""


def parse(text: bytes, path: PurePath) -> Manifest:
    """Parse a model.toml; the model has its folder's name.

    Raises:
        ManifestError: names the file, the key and its value.
    """
    try:
        document = tomllib.loads(text.decode())
        manifest = msgspec.convert(_in_this_format(document, path), Manifest)
    except RecursionError as exc:
        raise _manifest_error(path, "it is nested too deeply: no key needs more than three levels") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise _manifest_error(path, f"it is not TOML: {exc}") from exc
    except msgspec.ValidationError as exc:
        raise _manifest_error(path, _plain_message(str(exc), document)) from exc
    for key, value, rule in manifest_rules.violations(manifest, path.parent.name):
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


def _in_this_format(document: dict[str, Any], path: PurePath) -> dict[str, Any]:
    """Return a document in the present format.

    Raises:
        ManifestError: it is of a later one.
    """
    number = document.get("format", 1)
    if number != 1:
        if number != FORMAT:
            rule = f"this mutirão reads the formats 1 to {FORMAT}: update it here, or add the model again with this one"
            raise _manifest_error(path, f"format is {number!r}: {rule}")
        return document
    rest = {key: value for key, value in document.items() if key not in {"runtime", "versions"}}
    versions = document.get("versions", {})
    if isinstance(versions, dict):
        runtime = document.get("runtime")
        versions = {name: _version_of_format_1(version, runtime) for name, version in versions.items()}
    return {**rest, "format": FORMAT, "versions": versions}


def _version_of_format_1(version: Any, runtime: Any) -> Any:
    if not isinstance(version, dict):
        return version
    step = {"runtime": runtime, "file": version.get("model"), "saved_with": version.get("saved_with", "")}
    rest = {key: value for key, value in version.items() if key not in {"model", "saved_with"}}
    return {**rest, "steps": [{key: value for key, value in step.items() if value is not None}]}


def _setting_line(key: str, value: Any) -> str:
    return f"# {key} =  (none)" if value is None else f"{key} = {_toml_value(value)}"


def _version_lines(version: Version) -> Iterator[str]:
    for key, value in msgspec.to_builtins(version).items():
        if key in {"steps", "inputs", "outputs"} or (key == "parameters" and value):
            yield f"{key} = ["
            yield from (f"  {_toml_value(spec)}," for spec in value)
            yield "]"
        elif key not in {"files", "parameters"} and value not in ("", False, None):
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
