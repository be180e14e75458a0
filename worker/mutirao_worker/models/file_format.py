"""The format of a file that is no pickle, by its first bytes: a sentence with what to do."""

from __future__ import annotations

import io
import zipfile

_ONLY_SKLEARN = "only scikit-learn estimators, saved with joblib or pickle, are served"
_SAVE_ESTIMATOR = "fit its scikit-learn estimator ({}) and save that with joblib.dump"
# First bytes, what the file is, and what to do.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, and not the file itself", "fetch it with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves models", _ONLY_SKLEARN),
    (b"CBM1", "a CatBoost model", _SAVE_ESTIMATOR.format("CatBoostClassifier or CatBoostRegressor")),
    (b"tree\nversion=", "a LightGBM model in text", _SAVE_ESTIMATOR.format("LGBMClassifier or LGBMRegressor")),
    (b"binf", "an XGBoost model in its old binary form", _SAVE_ESTIMATOR.format("XGBClassifier or XGBRegressor")),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file", _ONLY_SKLEARN),
    (b"\x93NUMPY", "a numpy array", _ONLY_SKLEARN),
    (b"PAR1", "a Parquet table", _ONLY_SKLEARN),
    (b"GGUF", "a GGUF model", _ONLY_SKLEARN),
    (b"SQLite format 3\0", "an SQLite database", _ONLY_SKLEARN),
    (b"%PDF", "a PDF document", _ONLY_SKLEARN),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "save it again with joblib.dump(model, path, compress=3)"),
)
_HEAD_BYTES = 64 * 1024


def foreign_format(raw: bytes) -> str:
    """Describe a file that is no pickle, and what to do; "" where it may be one."""
    if not raw:
        return "is empty: save the model again, or copy the file again"
    kind = next(((what, do) for start, what, do in _MAGIC if raw.startswith(start)), None) or _by_content(raw)
    return f"is {kind[0]}: {kind[1]}" if kind else ""


def _by_content(raw: bytes) -> tuple[str, str] | None:
    text = raw[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return _markup(text)
    if text.startswith(b"{"):
        return _json(text)
    if raw.startswith(b"PK\x03\x04"):
        return _zip_archive(raw)
    signatures = {
        "a tar archive": raw[257:262] == b"ustar",
        "a TensorFlow Lite model": raw[4:8] == b"TFL3",
        "a safetensors file": raw[8:10] == b'{"' and int.from_bytes(raw[:8], "little") <= len(raw),
        # A protocol buffer whose first field is the version of ONNX, and its second one of the next.
        "an ONNX model": raw[:1] == b"\x08" and raw[1:2] < b"\x20" and raw[2:3] in {b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42"},
    }  # fmt: skip
    kind = next((what for what, is_one in signatures.items() if is_one), None)
    return (kind, "unpack it first" if "archive" in kind else _ONLY_SKLEARN) if kind else None


def _markup(text: bytes) -> tuple[str, str] | None:
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a failed download leaves it", "download the file again"
    if b"<pmml" in text:
        return "a PMML document", _ONLY_SKLEARN
    return ("an XML document", _ONLY_SKLEARN) if text.startswith(b"<?xml") else None


def _json(text: bytes) -> tuple[str, str]:
    """Tell XGBoost's JSON from other JSON, and from UBJSON, which begins alike."""
    if b"learner" not in text:
        return "JSON", _ONLY_SKLEARN
    form = "JSON" if b'"learner"' in text else "UBJSON"
    return f"an XGBoost model in {form}", _SAVE_ESTIMATOR.format("XGBClassifier or XGBRegressor")


def _zip_archive(raw: bytes) -> tuple[str, str]:
    try:
        names = zipfile.ZipFile(io.BytesIO(raw)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a zip archive, as PyTorch and Keras save models", _ONLY_SKLEARN
    if any(name.endswith("model.weights.h5") for name in names):
        return "a Keras model", _ONLY_SKLEARN
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file", _ONLY_SKLEARN
    if names and all(name.endswith(".npy") for name in names):
        return "numpy arrays in an npz archive", _ONLY_SKLEARN
    return "a zip archive", "unpack it first, or save the fitted estimator with joblib.dump"
