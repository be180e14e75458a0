"""The model repository on disk: what is added, served and removed, and what no link, name or kill can make of it."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from mutirao import errors
from mutirao_worker.models import manifest_file
from mutirao_worker.models.repository import Repository
from support import sample_models

ESCAPES = [
    "../iris",
    "..",
    ".",
    "",
    "/etc",
    "iris/../iris",
    "iris/1",
    "%2e%2e",
    "iris\0",
    "íris",
    "iris\u2025",
    "Iris",
    "-iris",
    "a" * 65,
]


@pytest.fixture
def repository(tmp_path):
    return sample_models.repository(tmp_path / "models", "iris")


def edit(repository, old, new, name="iris"):
    path = repository.root / name / manifest_file.FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def model_file(repository, version="1"):
    return repository.root / "iris" / version / "model.joblib"


def state(repository, name="iris"):
    info = repository.info(name)
    return info.state, info.reason


def test_an_added_model_loads_and_predicts(repository):
    """What was added is listed, verified, and predicts what the estimator itself predicts."""
    sample, info = sample_models.get("iris"), repository.info("iris")
    assert (repository.names(), repository.verify("iris")) == (("iris",), [])
    assert (info.version, info.versions, info.runtime, info.state, info.reason) == ("1", ("1",), "sklearn", "ready", "")
    loaded = repository.load("iris")
    assert loaded.info == msgspec.structs.replace(info, example={"X": [1.0, 1.0, 1.0, 1.0]})
    loaded.warm_up()
    outputs = loaded.predict({"X": sample.data}, info.signature.select_outputs(None))
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "predict": sample.expected().tolist(),
        "predict_proba": sample.expected("predict_proba").tolist(),
    }


def test_a_second_version_becomes_the_active_one_and_can_be_taken_back(repository):
    """Versions count up; the newest is served; an earlier one can be activated; the active one is not removed."""
    assert repository.add("iris", sample_models.saved("iris"), max_rows=7).version == "2"
    assert repository.add("iris", sample_models.saved("iris"), version="2025-06.b").versions == ("1", "2", "2025-06.b")
    assert repository.info("iris").signature.max_rows == 7
    assert repository.activate("iris", "1").version == repository.load("iris").info.version == "1"
    with pytest.raises(
        errors.RepositoryError, match=r"is the active one: first run: mutirao models activate iris 2025-06\.b"
    ):
        repository.remove("iris", "1")
    repository.remove("iris", "2")
    assert (repository.info("iris").versions, (repository.root / "iris" / "2").exists()) == (("1", "2025-06.b"), False)
    assert repository.add("iris", sample_models.saved("iris")).version == "2"
    for name, version in (("iris", "9"), ("nobody", "1")):
        with pytest.raises(errors.ModelNotFound):
            repository.activate(name, version)


def test_removing_the_last_version_removes_the_model(repository):
    """A model without a version is no model: nothing of it stays."""
    repository.remove("iris", "1")
    assert (repository.names(), sorted(path.name for path in repository.root.iterdir())) == ((), [".lock"])
    with pytest.raises(errors.ModelNotFound, match="it has none yet"):
        repository.load("iris")


def test_a_version_that_is_there_is_not_overwritten(repository):
    """Adding an existing version, listed or not, is refused and changes nothing."""
    before = model_file(repository).read_bytes()
    (repository.root / "iris" / "stray").mkdir()
    for version in ("1", "stray"):
        with pytest.raises(errors.ModelExists, match=f"version {version} of model 'iris' is already there"):
            repository.add("iris", sample_models.saved("forest"), version=version)
    assert (model_file(repository).read_bytes(), repository.info("iris").versions) == (before, ("1",))


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_never_becomes_a_path(repository, name):
    """Names that could lead elsewhere are refused before anything is looked up, read or written."""
    before = sorted(repository.root.parent.rglob("*"))
    for call in (repository.load, repository.manifest, repository.info, repository.verify, repository.remove):
        with pytest.raises(errors.InvalidRequest, match=r"model name .* is not allowed"):
            call(name)
    with pytest.raises(errors.InvalidRequest, match=r"model name .* is not allowed"):
        repository.add(name, sample_models.saved("iris"))
    assert sorted(repository.root.parent.rglob("*")) == before


@pytest.mark.parametrize("version", ["../2", "..", "", "a/b", "/etc", "2\0", "²"])
def test_a_version_never_becomes_a_path(repository, version):
    """Versions are held to their rule as names are."""
    with pytest.raises(errors.InvalidRequest, match=r"version .* is not allowed"):
        repository.add("iris", sample_models.saved("iris"), version=version)
    for call in (repository.activate, repository.remove):
        with pytest.raises(errors.ModelNotFound, match="has no version"):
            call("iris", version)
    assert repository.info("iris").versions == ("1",)


def test_a_folder_that_leaves_the_repository_is_not_served(repository, tmp_path):
    """A model folder or manifest that is a link to elsewhere is not listed, and says why when asked for."""
    shutil.copytree(repository.root / "iris", tmp_path / "outside")
    (repository.root / "outside").symlink_to(tmp_path / "outside")
    (repository.root / "half").mkdir()
    (repository.root / "half" / manifest_file.FILE).symlink_to(tmp_path / "outside" / manifest_file.FILE)
    assert repository.names() == ("iris",)
    with pytest.raises(errors.RepositoryError, match="is a link out of the repository: copy the model into it"):
        repository.load("outside")


def test_a_file_that_leaves_the_repository_is_not_read(repository, tmp_path):
    """A model file that is a link to elsewhere makes its model unavailable, even where the digest agrees."""
    model_file(repository).rename(tmp_path / "outside.joblib")
    model_file(repository).symlink_to(tmp_path / "outside.joblib")
    with pytest.raises(
        errors.ModelUnavailable, match=r"model.joblib is a link out of the repository: copy the file into it"
    ):
        repository.load("iris")


def test_a_link_within_the_repository_is_followed(repository):
    """Volumes that publish by links (..data -> timestamp) work, as long as all stays inside."""
    model_file(repository).rename(repository.root / "store.joblib")
    model_file(repository).symlink_to(repository.root / "store.joblib")
    assert repository.verify("iris") == []


def damage_digest(repository):
    with model_file(repository).open("ab") as file:
        file.write(b"x")


def damage_missing(repository):
    model_file(repository).unlink()


def damage_example(repository):
    (repository.root / "iris" / "1" / "example.json").unlink()


def damage_folder(repository):
    model_file(repository).unlink()
    model_file(repository).mkdir()


def damage_pipe(repository):
    model_file(repository).unlink()
    os.mkfifo(model_file(repository))


def damage_runtime(repository):
    edit(repository, 'runtime = "sklearn"', 'runtime = "other"')


def damage_strict(repository):
    edit(repository, "strict_version = false", "strict_version = true")
    path = repository.root / "iris" / manifest_file.FILE
    text = path.read_text()
    path.write_text(text.replace(repository.manifest("iris").version.saved_with, "scikit-learn 1.0.2"))


def damage_manifest(repository):
    edit(repository, "max_rows", "max_row")


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (
            damage_digest,
            errors.DigestMismatch,
            "iris/1/model.joblib is not the file that was added: its digest is sha256:",
        ),
        (
            damage_missing,
            errors.ModelUnavailable,
            "iris/1/model.joblib is missing: put it back, or add the model again",
        ),
        (damage_example, errors.ModelUnavailable, "iris/1/example.json is missing"),
        (damage_folder, errors.ModelUnavailable, "iris/1/model.joblib is missing"),
        (damage_pipe, errors.ModelUnavailable, "iris/1/model.joblib is missing"),
        (damage_runtime, errors.ModelUnavailable, "runtime 'other' is not known: this worker has python, sklearn, "),
        (damage_strict, errors.ModelUnavailable, "saved with scikit-learn 1.0.2, loaded with scikit-learn"),
        (damage_manifest, errors.ManifestError, "iris/model.toml: object contains unknown field `max_row`"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_damage_is_a_state_with_its_reason(repository, damage, error, says):
    """What keeps a model from being served is said the same by load, info and verify, and other models are not touched."""
    repository.add("forest", sample_models.saved("forest"))
    damage(repository)
    with pytest.raises(error) as caught:
        repository.load("iris")
    assert says in str(caught.value)
    assert state(repository) == ("unavailable", str(caught.value))
    assert repository.unavailable("iris", caught.value) == repository.info("iris")
    assert [finding.text for finding in repository.verify("iris") if not finding.note] == [str(caught.value)]
    assert (repository.names(), state(repository, "forest")) == (("forest", "iris"), ("ready", ""))
    repository.load("forest").warm_up()


def test_another_library_version_is_a_note(repository):
    """A model saved with another scikit-learn is served, and says so."""
    edit(repository, "scikit-learn ", "scikit-learn 0.")
    assert repository.load("iris").info.reason.startswith("saved with scikit-learn 0.")
    assert state(repository)[0] == "ready"
    assert [finding.note for finding in repository.verify("iris")] == [True]


def test_files_that_the_manifest_does_not_name_are_never_read(repository):
    """A pickle that lies in the repository is not loaded for lying there; verify notes the folder."""
    shutil.copytree(repository.root / "iris" / "1", repository.root / "iris" / "3")
    (repository.root / "iris" / "3" / "model.joblib").write_bytes(b"cos\nabort\n(tR.")
    assert state(repository) == ("ready", "")
    (finding,) = repository.verify("iris")
    assert (finding.version, finding.note) == ("3", True)
    assert finding.text.endswith("iris/3 is not in model.toml: it is never served")


def test_the_bytes_that_are_loaded_are_those_that_were_checked(repository, monkeypatch):
    """A file that is exchanged after its digest was checked is not what gets loaded."""
    from mutirao_worker.models import atomic_files

    checked = atomic_files.digest

    def exchange(content):
        model_file(repository).write_bytes(b"not a model")
        return checked(content)

    monkeypatch.setattr(atomic_files, "digest", exchange)
    repository.load("iris").warm_up()


def test_a_model_that_needs_what_is_not_there_is_unavailable(tmp_path, monkeypatch):
    """A pickle of a class that cannot be imported makes its model unavailable and names the module."""
    repository = sample_models.repository(tmp_path / "models", "raises")
    monkeypatch.setitem(sys.modules, "support.bad_models", None)
    with pytest.raises(
        errors.ModelUnavailable,
        match=r"model.joblib does not load: it needs the module 'support.bad_models': .*PYTHONPATH",
    ):
        repository.load("raises")


def test_an_add_that_fails_leaves_nothing(tmp_path):
    """A file that is no model, or a value that cannot be, leaves the repository without a trace of the model."""
    repository, junk = Repository(tmp_path / "models"), tmp_path / "junk.joblib"
    junk.write_bytes(b"hello")
    with pytest.raises(errors.RepositoryError, match=r"junk.joblib does not load: it is neither joblib's nor pickle's"):
        repository.add("iris", junk)
    with pytest.raises(errors.RepositoryError, match="there is no such file"):
        repository.add("iris", tmp_path / "nothing.joblib")
    with pytest.raises(errors.RepositoryError, match=r"is a folder that has no model\.py"):
        repository.add("iris", tmp_path)
    with pytest.raises(errors.ModelUnavailable, match="runtime 'other' is not known"):
        repository.add("iris", junk, runtime="other")
    with pytest.raises(errors.ManifestError, match=r"time_limit_s is -1.0: it must be more than 0"):
        repository.add("iris", sample_models.saved("iris"), time_limit_s=-1.0)
    assert repository.names() == ()
    assert [path.name for path in repository.root.rglob("*")] == [".lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_repository_that_cannot_be_written_says_so(repository):
    """A read-only repository is served, and refuses a change with its path."""
    repository.root.chmod(0o555)
    (repository.root / "iris").chmod(0o555)
    try:
        assert state(repository) == ("ready", "")
        with pytest.raises(errors.RepositoryError, match="cannot be written: Permission denied"):
            repository.add("iris", sample_models.saved("iris"))
    finally:
        repository.root.chmod(0o755)
        (repository.root / "iris").chmod(0o755)


def test_adds_at_the_same_time_each_get_a_version(repository):
    """Several adds of one model neither overwrite nor lose each other."""
    with ThreadPoolExecutor(8) as pool:
        infos = list(pool.map(lambda _: repository.add("iris", sample_models.saved("iris")), range(8)))
    assert sorted(info.version for info in infos) == [str(version) for version in range(2, 10)]
    assert len(repository.info("iris").versions) == 9
    assert repository.verify("iris") == []


def test_a_repository_that_is_not_there_is_empty(tmp_path):
    """No folder means no models; a file in its place is an error."""
    assert Repository(tmp_path / "nowhere").names() == ()
    (tmp_path / "file").touch()
    with pytest.raises(errors.RepositoryError, match="file cannot be read: Not a directory"):
        Repository(tmp_path / "file").names()


def test_a_change_of_a_setting_or_an_input_is_checked(repository):
    """`change` takes settings and an input's datatype or nullable, and refuses what cannot be with the key, its value and what may be."""
    repository.change(
        "iris", {"max_rows": "7", "time_limit_s": "2.5", "strict_version": "true", "inputs.X.datatype": "fp32"}
    )
    manifest = repository.manifest("iris")
    assert (manifest.max_rows, manifest.time_limit_s, manifest.strict_version) == (7, 2.5, True)
    assert manifest.version.inputs[0].datatype == "FP32"
    for key, value, says in (
        ("max_row", "7", "'max_row' is not a setting: there are max_rows, time_limit_s"),
        ("max_rows", "many", "max_rows is 'many': expected"),
        ("max_rows", "0", "max_rows is 0: it must be at least 1"),
        ("inputs.Y.datatype", "FP32", "NAME one of X"),
        ("inputs.X.nullable", "maybe", "inputs.X.nullable is 'maybe': it must be true or false"),
        ("inputs.X.datatype", "FP31", "datatype is 'FP31': it must be one of"),
        ("inputs.X.datatype", "BYTES", "its example, which it was tried with, does not fit so"),
        ("versions", "2", "'versions' is not a setting"),
    ):
        with pytest.raises(errors.ManifestError) as caught:
            repository.change("iris", {key: value})
        assert says in str(caught.value)
    assert repository.manifest("iris") == manifest
