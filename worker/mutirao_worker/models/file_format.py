"""What a file is by its first bytes: the runtime that serves it, or what to do where none does."""

from __future__ import annotations

import io
import zipfile
from typing import NamedTuple

_OWN_CODE = "write a model.py of ten lines that loads it: mutirao models init NAME"
_NO_MODEL = "it holds no model: name the file of the fitted one"


class FileFormat(NamedTuple):
    """The format of a file.

    Attributes:
        name: what the file is: an ONNX model.
        runtime: the kind of models that it belongs to; "" where there is none for it.
        remedy: what to do where there is none.
    """

    name: str
    runtime: str = ""
    remedy: str = ""


# First bytes, and what the file is.
_MAGIC: tuple[tuple[bytes, FileFormat], ...] = (
    (b"version https://git-lfs", FileFormat("a Git LFS pointer, and not the file itself", "", "fetch it with git lfs pull")),
    (b"\x89HDF\r\n\x1a\n", FileFormat("an HDF5 file, as Keras saves models", "", _OWN_CODE)),
    (b"CBM1", FileFormat("a CatBoost model", "", _OWN_CODE)),
    (b"tree\nversion=", FileFormat("a LightGBM model in text", "lightgbm")),
    (b"tree\r\nversion=", FileFormat("a LightGBM model in text", "lightgbm")),
    (b"binf", FileFormat("an XGBoost model in its old binary form", "", "load it with the xgboost that saved it (before 3.1), and save it again with save_model('model.ubj')")),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", FileFormat("a PyTorch file", "", f"export it with torch.export.save, or {_OWN_CODE}")),
    (b"\x93NUMPY", FileFormat("a numpy array", "", _NO_MODEL)),
    (b"PAR1", FileFormat("a Parquet table", "", _NO_MODEL)),
    (b"GGUF", FileFormat("a GGUF model", "", _OWN_CODE)),
    (b"SQLite format 3\0", FileFormat("an SQLite database", "", _NO_MODEL)),
    (b"%PDF", FileFormat("a PDF document", "", _NO_MODEL)),
    (b"7z\xbc\xaf\x27\x1c", FileFormat("a 7z archive", "", "unpack it first")),
    (b"Rar!", FileFormat("a RAR archive", "", "unpack it first")),
    (b"\x28\xb5\x2f\xfd", FileFormat("compressed with zstd", "", "unpack it first")),
    (b"\x04\x22\x4d\x18", FileFormat("compressed with lz4", "", "save it again with joblib.dump(model, path, compress=3)")),
)  # fmt: skip
_HEAD_BYTES = 64 * 1024
# It is what most files are, and its runtime says what is wrong with the others.
_PICKLE = FileFormat("a pickle", "sklearn")


def recognise(raw: bytes) -> FileFormat:
    """Return what a file is; what is not known counts as a pickle."""
    if not raw:
        return FileFormat("empty", "", "save the model again, or copy the file again")
    by_start = (file_format for start, file_format in _MAGIC if raw.startswith(start))
    return next(by_start, None) or _by_content(raw) or _PICKLE


def mismatch(raw: bytes, runtime: str) -> str:
    """Describe a file that is not of a runtime of this project, and what to do; "" where it may be."""
    found = recognise(raw)
    if not found.runtime:
        return f"is {found.name}: {found.remedy}"
    return (
        ""
        if found.runtime == runtime
        else f"is {found.name}, which the runtime {found.runtime!r} loads, not {runtime!r}"
    )


def _by_content(raw: bytes) -> FileFormat | None:
    text = raw[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return _markup(text)
    if text.startswith(b"{"):
        return _json(text)
    if raw.startswith(b"PK\x03\x04"):
        return _zip_archive(raw)
    formats = {
        # A protocol buffer whose first field is the version of ONNX, and its second one of the next.
        FileFormat("an ONNX model", "onnx"): raw[:1] == b"\x08" and raw[1:2] < b"\x20" and raw[2:3] in {b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42"},
        FileFormat("a tar archive", "", "unpack it first"): raw[257:262] == b"ustar",
        FileFormat("a TensorFlow Lite model", "", _OWN_CODE): raw[4:8] == b"TFL3",
        FileFormat("a safetensors file", "", _OWN_CODE): raw[8:10] == b'{"' and int.from_bytes(raw[:8], "little") <= len(raw),
    }  # fmt: skip
    return next((file_format for file_format, is_one in formats.items() if is_one), None)


def _markup(text: bytes) -> FileFormat | None:
    if text.startswith((b"<!doctype html", b"<html")):
        return FileFormat("a web page, as a failed download leaves it", "", "download the file again")
    if b"<pmml" in text:
        return FileFormat("a PMML document", "", _OWN_CODE)
    return FileFormat("an XML document", "", _NO_MODEL) if text.startswith(b"<?xml") else None


def _json(text: bytes) -> FileFormat:
    """Tell XGBoost's JSON from other JSON, and from UBJSON, which begins alike."""
    if b"learner" not in text:
        return FileFormat("JSON", "", _NO_MODEL)
    form = "JSON" if b'"learner"' in text else "UBJSON"
    return FileFormat(f"an XGBoost model in {form}", "xgboost")


def _zip_archive(raw: bytes) -> FileFormat:
    try:
        names = zipfile.ZipFile(io.BytesIO(raw)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return FileFormat("a zip archive that is cut short or damaged", "", "copy it again")
    last = {name.rpartition("/")[2] for name in names}
    formats = {
        FileFormat("a skops file", "skops"): "schema.json" in last,
        FileFormat("a program of torch.export", "torch"): bool({"archive_format", "serialized_exported_program.json"} & last),
        FileFormat("a Keras model", "", _OWN_CODE): "model.weights.h5" in last,
        FileFormat("a TorchScript program", "", f"export it with torch.export.save, or {_OWN_CODE}"): "constants.pkl" in last,
        FileFormat("a PyTorch file, of weights or of a module", "", f"export the module with torch.export.save, or {_OWN_CODE}"): "data.pkl" in last,
        FileFormat("numpy arrays in an npz archive", "", _NO_MODEL): bool(names) and all(name.endswith(".npy") for name in names),
    }  # fmt: skip
    other = FileFormat("a zip archive", "", "unpack it first, or save the fitted estimator with joblib.dump")
    return next((file_format for file_format, is_one in formats.items() if is_one), other)
