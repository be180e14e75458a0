"""One step of a version: loaded by its runtime; why its file does not load, with what to do."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib

from mutirao import errors
from mutirao_worker.models import file_format, runtimes
from mutirao_worker.models.runtimes.predictor import ModelFiles, Predictor

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"]\x00\x00")
_MISSING_ATTRIBUTE = re.compile(r"Can't get attribute '([^']+)' on <module '([\w.]+)'")
_MODULE_NAME = re.compile(r"\w+(\.\w+)*")
_VERSION = re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+(?:\.\w+)*)", re.DOTALL)
_DECOMPRESSED_MAX = 64 * 1024 * 1024


def load(runtime: str, files: ModelFiles) -> Predictor:
    """Load a step.

    Raises:
        RepositoryError: its file has another format, or does not load; says what it is, and what to do.
        ModelUnavailable: as `runtimes.find`.
    """
    if files.file and runtimes.has_known_formats(runtime) and (wrong := file_format.mismatch(files.raw, runtime)):
        raise errors.RepositoryError(f"{files.path} {wrong}")
    kind = runtimes.find(runtime)
    try:
        return kind.load(files)
    except errors.RepositoryError as exc:
        raise errors.RepositoryError(f"{files.path} cannot be served: {exc}") from exc
    except (Exception, SystemExit) as exc:
        raw, installed = files.contents.get(files.file, b""), runtimes.installed(runtime)
        reason = _load_failure(raw, exc, installed) if runtime == "sklearn" else _native_failure(exc, installed)
        raise errors.RepositoryError(f"{files.path} does not load: {reason}") from exc


def describe_error(exc: BaseException) -> str:
    """Return an error of ours in its own words, another one with its class."""
    return str(exc) if isinstance(exc, errors.MutiraoError) else f"{type(exc).__name__}: {exc}"


def _load_failure(raw: bytes, exc: BaseException, installed: str) -> str:
    """Explain why a file does not load, and what to do.

    Args:
        raw: the file.
        exc: what loading it raised.
        installed: the library that loads it, and its version: scikit-learn 1.9.1.
    """
    attribute = _MISSING_ATTRIBUTE.search(str(exc)) if isinstance(exc, AttributeError) else None
    if attribute and attribute[2] in {"__main__", "__mp_main__", "builtins"}:
        return (
            f"its {attribute[1]!r} was defined in the script or notebook that saved it ({attribute[2]}), which no worker has: write a "
            f"folder with mutirao models init NAME --from FILE, and put {attribute[1]!r} into its model.py; or move it into a module, and fit and "
            "save the model again"
        )
    library, _, version = installed.partition(" ")
    match = _VERSION.search(_decompressed(raw))
    saved = match[1].decode() if match else ""  # the version that saved it, as far as the file shows it
    if saved and saved != version:
        remedy = "install that version for its worker, or save it again"
        said = describe_error(exc).splitlines()[0].rstrip(":")
        return f"saved with {library} {saved}, this is {version}: {remedy} ({said})"
    if attribute:
        return f"the module {attribute[2]!r} has no {attribute[1]!r} here: put the one that it was saved with on the workers' PYTHONPATH"
    if isinstance(exc, ModuleNotFoundError) and _MODULE_NAME.fullmatch(exc.name or ""):
        return f"it needs the module {exc.name!r}: install it where the workers run, or put it on their PYTHONPATH"
    return _damage(raw, exc) or describe_error(exc)


def _native_failure(exc: BaseException, installed: str) -> str:
    text = describe_error(exc).partition("\n")[0]
    return f"it is damaged, or of a version that {installed} does not read: copy or save it again ({text})"


def _damage(raw: bytes, exc: BaseException) -> str:
    """Explain how a file is damaged, or no pickle; "" where it seems to be one."""
    if not raw.startswith((b"\x80", *_COMPRESSED)):
        return f"it is neither joblib's nor pickle's, it begins with {raw[:8]!r}: save the fitted estimator with joblib.dump"
    if isinstance(exc, EOFError) or any(word in str(exc) for word in ("truncated", "exhausted")):
        return f"it is cut short, {len(raw)} bytes of it are here: copy it again"
    return ""


def _decompressed(raw: bytes) -> bytes:
    """Undo joblib's compression, as far as the file is whole and within bounds."""
    try:
        if raw.startswith((b"\x1f\x8b", b"\x78")):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, _DECOMPRESSED_MAX)
        if raw.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(raw, _DECOMPRESSED_MAX)
        if raw.startswith((b"\xfd7zXZ", b"]\x00\x00")):
            return lzma.LZMADecompressor().decompress(raw, _DECOMPRESSED_MAX)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return b""
    return raw
