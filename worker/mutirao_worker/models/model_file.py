"""What a file is that was given as a model, by its first bytes, and why one does not load: a sentence each, with what to do."""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zipfile
import zlib

_ONLY = "only scikit-learn estimators, saved with joblib or pickle, are served"
_ESTIMATOR = "fit its scikit-learn estimator ({}) and save that with joblib.dump"
# First bytes, what the file is, and what to do.
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, and not the file itself", "fetch it with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves models", _ONLY),
    (b"CBM1", "a CatBoost model", _ESTIMATOR.format("CatBoostClassifier or CatBoostRegressor")),
    (b"tree\nversion=", "a LightGBM model in text", _ESTIMATOR.format("LGBMClassifier or LGBMRegressor")),
    (b"binf", "an XGBoost model in its old binary form", _ESTIMATOR.format("XGBClassifier or XGBRegressor")),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file", _ONLY),
    (b"\x93NUMPY", "a numpy array", _ONLY),
    (b"PAR1", "a Parquet table", _ONLY),
    (b"GGUF", "a GGUF model", _ONLY),
    (b"SQLite format 3\0", "an SQLite database", _ONLY),
    (b"%PDF", "a PDF document", _ONLY),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "save it again with joblib.dump(model, path, compress=3)"),
)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"]\x00\x00")
_LOST = re.compile(r"Can't get attribute '([^']+)' on <module '([\w.]+)'")
_MODULE = re.compile(r"\w+(\.\w+)*")
_VERSION = re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+(?:\.\w+)*)", re.DOTALL)
_HEAD = 64 * 1024
_UNPACKED_MAX = 64 * 1024 * 1024


def foreign(raw: bytes) -> str:
    """Say what a file is that is no pickle, and what to do; "" where it may be one."""
    if not raw:
        return "is empty: save the model again, or copy the file again"
    found = next(((what, do) for start, what, do in _STARTS if raw.startswith(start)), None) or _looked_into(raw)
    return f"is {found[0]}: {found[1]}" if found else ""


def saved_version(raw: bytes) -> str:
    """Find the version of scikit-learn that saved a file, without loading it; "" where it is not to be seen."""
    found = _VERSION.search(_unpacked(raw))
    return found[1].decode() if found else ""


def not_loaded(raw: bytes, exc: BaseException, installed: str) -> str:
    """Say why a file does not load, and what to do.

    Args:
        raw: the file.
        exc: what loading it raised.
        installed: the library that loads it, and its version: scikit-learn 1.9.1.
    """
    lost = _LOST.search(str(exc)) if isinstance(exc, AttributeError) else None
    if lost and lost[2] in {"__main__", "__mp_main__", "builtins"}:
        return (
            f"its {lost[1]!r} was defined in the script or notebook that saved it ({lost[2]}), which no worker has: move it into a "
            "module of its own, import it from there, and fit and save the model again"
        )
    library, _, version = installed.partition(" ")
    saved = saved_version(raw)
    if saved and saved != version:
        said = f"saved with {library} {saved}, this is {version}: install that version for its worker, or save it again"
        return f"{said} ({_plain(exc)})"
    if lost:
        return f"the module {lost[2]!r} has no {lost[1]!r} here: put the one that it was saved with on the workers' PYTHONPATH"
    if isinstance(exc, ModuleNotFoundError) and _MODULE.fullmatch(exc.name or ""):
        return f"it needs the module {exc.name!r}: install it where the workers run, or put it on their PYTHONPATH"
    return _damage(raw, exc) or _plain(exc)


def _damage(raw: bytes, exc: BaseException) -> str:
    """Say how a file is not whole, or no pickle; "" where it seems to be one."""
    if not raw.startswith((b"\x80", *_COMPRESSED)):
        return f"it is neither joblib's nor pickle's, it begins with {raw[:8]!r}: save the fitted estimator with joblib.dump"
    if isinstance(exc, EOFError) or any(word in str(exc) for word in ("truncated", "exhausted")):
        return f"it is cut short, {len(raw)} bytes of it are here: copy it again"
    return ""


def _plain(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def _looked_into(raw: bytes) -> tuple[str, str] | None:
    text = raw[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return _marked_up(text)
    if text.startswith(b"{"):
        return _json(text)
    if raw.startswith(b"PK\x03\x04"):
        return _zipped(raw)
    signs = {
        "a tar archive": raw[257:262] == b"ustar",
        "a TensorFlow Lite model": raw[4:8] == b"TFL3",
        "a safetensors file": raw[8:10] == b'{"' and int.from_bytes(raw[:8], "little") <= len(raw),
        # A protocol buffer whose first field is the version of ONNX, and its second one of the next.
        "an ONNX model": raw[:1] == b"\x08" and raw[1:2] < b"\x20" and raw[2:3] in {b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42"},
    }  # fmt: skip
    found = next((what for what, is_one in signs.items() if is_one), None)
    return (found, "unpack it first" if "archive" in found else _ONLY) if found else None


def _marked_up(text: bytes) -> tuple[str, str] | None:
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a failed download leaves it", "download the file again"
    if b"<pmml" in text:
        return "a PMML document", _ONLY
    return ("an XML document", _ONLY) if text.startswith(b"<?xml") else None


def _json(text: bytes) -> tuple[str, str]:
    """Tell XGBoost's JSON from other, and from UBJSON, which begins alike."""
    if b"learner" not in text:
        return "JSON", _ONLY
    form = "JSON" if b'"learner"' in text else "UBJSON"
    return f"an XGBoost model in {form}", _ESTIMATOR.format("XGBClassifier or XGBRegressor")


def _zipped(raw: bytes) -> tuple[str, str]:
    try:
        names = zipfile.ZipFile(io.BytesIO(raw)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a zip archive, as PyTorch and Keras save models", _ONLY
    if any(name.endswith("model.weights.h5") for name in names):
        return "a Keras model", _ONLY
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file", _ONLY
    if names and all(name.endswith(".npy") for name in names):
        return "numpy arrays in an npz archive", _ONLY
    return "a zip archive", "unpack it first, or save the fitted estimator with joblib.dump"


def _unpacked(raw: bytes) -> bytes:
    """Undo joblib's compression, as far as the file is whole and within bounds."""
    try:
        if raw.startswith((b"\x1f\x8b", b"\x78")):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, _UNPACKED_MAX)
        if raw.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(raw, _UNPACKED_MAX)
        if raw.startswith((b"\xfd7zXZ", b"]\x00\x00")):
            return lzma.LZMADecompressor().decompress(raw, _UNPACKED_MAX)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return b""
    return raw
