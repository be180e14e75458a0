"""model.toml: what is written is read back, and what cannot be is refused with its path, key, value and rule."""

from pathlib import PurePath

import msgspec
import pytest

from mutirao import errors
from mutirao_worker.models import manifest_file
from support import sample_models

PATH = PurePath("models/iris") / manifest_file.FILE


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The text of a model.toml that `mutirao models add` has written."""
    repository = sample_models.repository(tmp_path_factory.mktemp("manifest") / "models", "iris")
    return (repository.root / "iris" / manifest_file.FILE).read_text()


def test_a_manifest_survives_being_written(written):
    """What is written is read back the same: names of columns with quotes, newlines, emoji, DEL and dots."""
    found = manifest_file.parse(written.encode(), PATH)
    odd = ['a "b"', "c\nd\te\\", "🏡 área", "\x7f\x01", "a.b", "", "="]
    version = msgspec.structs.replace(
        found.version,
        frame=True,
        inputs=tuple(msgspec.structs.replace(found.version.inputs[0], name=name) for name in odd),
    )
    changed = msgspec.structs.replace(
        found, soft_time_limit_s=1.5, strict_version=True, versions={"1": version, "1.0": version}, active="1.0"
    )
    assert manifest_file.parse(manifest_file.dump(changed), PATH) == changed


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "iris"', 'name = "lily"', "name is 'lily': it must be 'iris', as its folder"),
        ('active = "1"', 'active = "4"', "active is '4': it must be one of the versions 1"),
        ('active = "1"', "active = 1", "active is 1: expected text, got a whole number"),
        ('active = "1"', "", "object missing required field `active`"),
        ("max_rows = 10000", "max_rows = 0", "max_rows is 0: it must be at least 1"),
        ("time_limit_s = 60.0", "time_limit_s = inf", "time_limit_s is inf: it must be more than 0"),
        ("# soft_time_limit_s =  (none)", "soft_time_limit_s = 60.0", "soft_time_limit_s is 60.0: it must be more than 0 and less than time_limit_s"),
        ("max_batch_rows = 512", "max_batch_rows = 0", "max_batch_rows is 0: it must be at least 1"),
        ("max_batch_bytes = 8388608", "max_batch_bytes = -1", "max_batch_bytes is -1: it must be at least 1"),
        ("max_batch_rows = 512", "max_batch_rows = 2.5", "max_batch_rows is 2.5: expected a whole number"),
        ("max_attempts = 3", "max_attempts = 0", "max_attempts is 0: it must be at least 1"),
        ("max_wait_ms = 0.0", "max_wait_ms = -1", "max_wait_ms is -1.0: it must be 0 or more milliseconds"),
        ("max_wait_ms = 0.0", "max_wait_ms = nan", "max_wait_ms is nan: it must be 0 or more milliseconds"),
        ("max_wait_ms = 0.0", "max_wait_ms = 60000", "max_wait_ms is 60000.0: it must be 0 or more milliseconds, and less than time_limit_s, 60.0 s"),
        ("latency_target_ms = 0.0", "latency_target_ms = 1e9", "latency_target_ms is 1000000000.0: it must be 0 or more milliseconds, and less than time_limit_s, 60.0 s"),
        ("max_wait_ms = 0.0\nlatency_target_ms = 0.0", "max_wait_ms = 20\nlatency_target_ms = 20", "max_wait_ms is 20.0: it must be less than latency_target_ms, 20.0"),
        ("strict_version = false", 'strict_version = "no"', "strict_version is 'no': expected true or false, got text"),
        ('datatype = "INT64"', 'datatype = "INT65"', "versions.1.outputs.predict.datatype is 'INT65': it must be one of BOOL"),
        ("shape = [-1, 4]", "shape = [4]", "versions.1.inputs.X.shape is [4]: it must begin with -1, the rows"),
        ("default = true", "default = false", "versions.1.outputs is ['predict', 'predict_proba', "),
        ('file = "model.joblib"', 'file = "other.joblib"', "versions.1.steps[0].file is 'other.joblib': it must be one of files: model.joblib"),
        ('runtime = "sklearn", ', "", "object missing required field `runtime`"),
        ("format = 2", "format = 3", "format is 3: this mutirão reads the formats 1 to 2: update it here, or add the model again with this one"),
        ('"model.joblib" = "sha256:', '"../model.joblib" = "sha256:', "versions.1.files is '../model.joblib': it must be the name of a file"),
        ('"model.joblib" = "sha256:', '"model.joblib" = "md5:', "it must be sha256: and 64 hexadecimal digits"),
        ('"1"', '"../1"', "versions is '../1': a version is 1 to 64 of"),
        ('[versions."1"]', "[[", "it is not TOML"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_is_refused(written, old, new, says):
    """A model.toml that was edited wrongly is refused with its path, the key, its value and the rule."""
    assert old in written
    with pytest.raises(errors.ManifestError) as caught:
        manifest_file.parse(written.replace(old, new).encode(), PATH)
    assert (str(caught.value).startswith(f"{PATH}: "), caught.value.path) == (True, str(PATH))
    assert says in str(caught.value)


def test_a_manifest_that_is_not_text_is_refused():
    """Bytes that are not UTF-8 are a ManifestError too."""
    with pytest.raises(errors.ManifestError, match="it is not TOML: 'utf-8' codec"):
        manifest_file.parse(b"\xff\xfe", PATH)


def test_a_deeply_nested_manifest_is_refused_in_a_line():
    """Brackets without end are a manifest that is wrong, and no traceback."""
    for text in (b"a = " + b"[" * 5_000, b"a = " + b"{a=" * 5_000):
        with pytest.raises(errors.ManifestError, match=r"m/model\.toml: it is nested too deeply"):
            manifest_file.parse(text, PurePath("m/model.toml"))
