"""What a worker announces of a model: its manifest, a row of its example, and a remark on the libraries that saved it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mutirao.registry import ModelInfo
from mutirao.wire import tensors
from mutirao_worker.models import runtimes, version_files
from mutirao_worker.models.manifest import Manifest, Version
from mutirao_worker.models.runtimes import example_request
from mutirao_worker.models.runtimes.python import requirements

# Every client reads the registry: a longer row stays out of it.
_EXAMPLE_ROW_BYTES = 2048


def model_info(manifest: Manifest, note: str = "") -> ModelInfo:
    """Describe a model by its manifest.

    Args:
        manifest: the manifest.
        note: a remark on it.
    """
    return ModelInfo(
        name=manifest.name,
        version=manifest.active,
        versions=tuple(manifest.versions),
        runtime=manifest.version.runtime,
        signature=manifest.signature,
        reason=note,
        digest=_version_digest(manifest),
    )


def example_row(example: bytes) -> dict[str, list[Any]]:
    """Return the first row of an example, for forms to begin with."""
    if not example:
        return {}
    request = example_request.decode(example)
    row = {tensor.name: np.ravel(tensors.decode(tensor)[:1]).tolist() for tensor in request.inputs}
    return row if len(msgspec.json.encode(row)) <= _EXAMPLE_ROW_BYTES else {}


def _version_digest(manifest: Manifest) -> str:
    """Return a digest of a version's files, inputs and outputs: the same for every true copy."""
    version = manifest.version
    content: tuple[Any, ...] = (sorted(version.files.items()), version.frame, version.inputs, version.outputs)
    content += (version.parameters,) if version.parameters else ()
    return hashlib.blake2b(msgspec.json.encode(content), digest_size=8).hexdigest()


def version_note(root: Path, manifest: Manifest) -> str:
    """Return a note where a library has another version than the one that saved a step, or than its own code requires.

    Raises:
        ModelUnavailable: the manifest is strict about it.
    """
    for saved_with, installed in other_versions(manifest.version):
        text = f"saved with {saved_with}, loaded with {installed}"
        if manifest.strict_version:
            remedy = (
                f"install {saved_with} for its worker (mutirao models env {manifest.name}), or save the model again"
            )
            text = f"{text}, which its strict_version = true refuses: {remedy}"
            raise version_files.unavailable_error(manifest.name, text)
        return text
    has_code = any(step.runtime == "python" for step in manifest.version.steps)
    if has_code and requirements.FILE in manifest.version.files:
        required = version_files.read(root, manifest, manifest.active, requirements.FILE)
        return "; ".join(requirements.compare(required).other)
    return ""


def other_versions(version: Version) -> list[tuple[str, str]]:
    """Return what saved a step and what is installed, where these differ."""
    libraries = ((step.saved_with, runtimes.installed(step.runtime)) for step in version.steps)
    return [(saved, installed) for saved, installed in libraries if saved and saved != installed]
