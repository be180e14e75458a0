"""`mutirao models`, as a person or a script meets it: real processes, what they print, their exit codes."""

import json
import subprocess
import sys

import pytest
import sklearn

from mutirao.cli.console import Exit
from mutirao_worker.models.repository import Repository
from support import sample_models


class Shell:
    """Runs `mutirao models ...` in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, *args, stdin=""):
        command = [sys.executable, "-m", "mutirao", "models", *map(str, args)]
        return subprocess.run(command, cwd=self.folder, input=stdin, capture_output=True, text=True, check=False)

    def says(self, *args, **given):
        done = self.run(*args, **given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *args):
        return json.loads(self.says(*args, "--json"))

    def refused(self, *args, **given):
        """Exit code and the one line of the error."""
        done = self.run(*args, **given)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1
        return done.returncode, lines[0]

    def edit(self, path, old, new):
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new))


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


@pytest.fixture
def filled(shell):
    sample_models.repository(shell.folder / "models", "iris", "houses")
    return shell


def test_a_newcomer_adds_a_model_and_sees_it(shell):
    """From no repository at all: list says what to do, add shows inputs and outputs with their defaults, list and show know the model."""
    first = shell.run("list")
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr == "no models in models: add one with mutirao models add NAME FILE\n"
    sample_models.get("houses").data.to_csv(shell.folder / "houses.csv", index=False)
    said = shell.says(
        "add", "houses", sample_models.saved("houses"), "--example", "houses.csv", "--max-rows", 9, "--time-limit", 2.5
    )
    assert "added houses version 1, now the active one\n" in said
    assert "Running workers load it at their next start." in said
    words = [line.split() for line in said.splitlines()]
    assert ["city", "BYTES", "(text)", "rows", "no"] in words
    assert ["rooms", "INT64,", "guessed", "rows", "no"] in words
    assert ["predict_proba", "FP64", "rows", "x", "2", "yes"] in words
    assert ["decision_function", "FP64", "rows", "on", "request"] in words
    assert ["houses", "1"] in [line.split()[:2] for line in shell.says("list").splitlines()]
    shown = shell.says("show", "houses")
    assert shown.startswith("houses  ready\n")
    assert "limits   9 rows in a request, stopped after 2.5 s\n" in shown


def test_limits_of_batches_are_set_and_shown(shell):
    """Each setting of batches has its option; show says them, the next add keeps them, and a wait longer than the target is refused."""
    batches = ("--max-batch-rows", 64, "--max-batch-bytes", 4096, "--max-wait", 2.5, "--latency-target", 40)
    shell.says("add", "iris", sample_models.saved("iris"), *batches, "--max-attempts", 2)
    shell.says("add", "iris", sample_models.saved("iris"))
    shown = shell.says("show", "iris")
    assert (
        "batches  up to 64 rows or 4096 bytes of several requests, waiting 2.5 ms for them, done within 40 ms\n"
        in shown
    )
    assert "attempts 2, where the process dies or is stopped\n" in shown
    code, line = shell.refused("add", "iris", sample_models.saved("iris"), "--max-wait", 50)
    assert (code, line.endswith("max_wait_ms is 50.0: it must be less than latency_target_ms, 40.0")) == (
        Exit.FAILED,
        True,
    )


def test_versions_are_added_activated_and_removed(filled):
    """A second version is the active one, and says so; the first can be taken back; remove asks before it removes."""
    assert "added iris version 2, now the active one of 2\n" in filled.says("add", "iris", sample_models.saved("iris"))
    assert filled.refused("add", "iris", sample_models.saved("iris"), "--version", "2") == (
        Exit.FAILED,
        "error: version 2 of model 'iris' is already there (models/iris/2): choose another, or remove it first",
    )
    assert filled.refused("remove", "iris", "--version", "2", "--yes") == (
        Exit.FAILED,
        "error: version 2 of model 'iris' is the active one: first run: mutirao models activate iris 1",
    )
    assert "version 1 of iris is now the active one\n" in filled.says("activate", "iris", "1")
    assert filled.says("remove", "iris", "--version", "2", "--yes") == "removed version 2 of model iris\n"
    for answer, says in (
        ("n\n", "nothing was removed"),
        ("", "nothing was removed: standard input holds no answer; --yes"),
    ):
        done = filled.run("remove", "iris", stdin=answer)
        assert (done.returncode, says in done.stderr) == (Exit.INTERRUPTED, True)
    assert [info["name"] for info in filled.json("list")] == ["houses", "iris"]
    assert filled.says("remove", "iris", stdin="y\n") == "removed model iris with all its versions\n"
    assert [info["name"] for info in filled.json("list")] == ["houses"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (
            ("show", "nobody"),
            Exit.NOT_FOUND,
            "error: model 'nobody' is not in the repository 'models': it has houses, iris",
        ),
        (
            ("verify", "nobody"),
            Exit.NOT_FOUND,
            "error: model 'nobody' is not in the repository 'models': it has houses, iris",
        ),
        (
            ("remove", "nobody", "--yes"),
            Exit.NOT_FOUND,
            "error: model 'nobody' is not in the repository 'models': it has houses, iris",
        ),
        (
            ("remove", "nobody"),
            Exit.NOT_FOUND,
            "error: model 'nobody' is not in the repository 'models': it has houses, iris",
        ),
        (("remove", "iris", "--version", "9"), Exit.NOT_FOUND, "error: model 'iris' has no version '9': it has 1"),
        (("activate", "iris", "9"), Exit.NOT_FOUND, "error: model 'iris' has no version '9': it has 1"),
        (
            ("show", "../iris"),
            Exit.USAGE,
            "error: model name '../iris' is not allowed: it must be 1 to 64 of a-z 0-9 . _ -, the first a letter or digit",
        ),
        (("add", "x", "nothing.joblib"), Exit.FAILED, "error: nothing.joblib cannot be read: there is no such file"),
        (
            ("list", "--models", "model.toml"),
            Exit.FAILED,
            "error: the model repository model.toml cannot be read: Not a directory",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_error_is_one_line_and_a_code(filled, args, code, says):
    """What cannot be done is said in one line on stderr, with the exit code for its kind."""
    (filled.folder / "model.toml").touch()
    assert filled.refused(*args) == (code, says)


def test_what_keeps_a_model_from_being_served_is_shown(filled):
    """Wrong digest, missing file, unknown runtime and broken manifest: list and verify name each, and verify fails."""
    for name in ("digest", "missing", "runtime", "toml"):
        Repository(filled.folder / "models").add(name, sample_models.saved("iris"))
    with (filled.folder / "models/digest/1/model.joblib").open("ab") as file:
        file.write(b"x")
    (filled.folder / "models/missing/1/model.joblib").unlink()
    filled.edit("models/runtime/model.toml", 'runtime = "sklearn"', 'runtime = "other"')
    filled.edit("models/toml/model.toml", "max_rows = 10000", 'max_rows = "many"')
    reasons = {
        "digest": "models/digest/1/model.joblib is not the file that was added: its digest is sha256:",
        "missing": "models/missing/1/model.joblib is missing: put it back, or add the model again",
        "runtime": "runtime 'other' is not known: this worker has python, sklearn",
        "toml": "models/toml/model.toml: max_rows is 'many': expected a whole number, got text",
    }
    listed, verified = filled.says("list"), filled.run("verify")
    for name, reason in reasons.items():
        assert f"\n{name}: {reason}" in listed
        assert f"{name}  unavailable\n" in verified.stdout
        assert reason in verified.stdout
    assert (verified.returncode, verified.stderr) == (Exit.FAILED, "")
    assert "\niris  ok\n" in verified.stdout
    states = {info["name"]: info["state"] for info in filled.json("list")}
    assert states == {"houses": "ready", "iris": "ready"} | dict.fromkeys(reasons, "unavailable")
    assert json.loads(filled.run("verify", "--json").stdout).keys() == states.keys()


def test_another_scikit_learn_is_a_note_or_a_refusal(filled):
    """A model saved with another version is served with a note, or refused where the operator says strict."""
    filled.edit("models/iris/model.toml", "scikit-learn ", "scikit-learn 0.")
    assert "iris  ok\n  note: version 1: saved with scikit-learn 0." in filled.says("verify", "iris")
    assert "\niris: saved with scikit-learn 0." in filled.says("list")
    filled.edit("models/iris/model.toml", "strict_version = false", "strict_version = true")
    done = filled.run("verify", "iris")
    assert done.returncode == Exit.FAILED
    assert "which its strict_version = true refuses: install scikit-learn 0." in done.stdout


def test_the_environment_of_an_old_model_is_printed(filled):
    """Standard output is the commands alone; what no environment has is refused, with what to do."""
    installed = f"scikit-learn {sklearn.__version__}"
    filled.edit("models/iris/model.toml", installed, "scikit-learn 1.2.2")
    done = filled.run("env", "iris")
    assert done.stdout.splitlines() == [
        "python3.11 -m venv .venv-iris",
        ".venv-iris/bin/pip install '.[worker]' scikit-learn==1.2.2 'numpy<2' 'pandas<3' 'scipy<1.12'",
        f".venv-iris/bin/mutirao worker --models {filled.folder / 'models'} --only iris",
    ]
    assert "iris version 1 was saved with scikit-learn 1.2.2: wheels for Python 3.11" in " ".join(done.stderr.split())
    document = filled.json("env", "iris")
    assert (document["commands"], document["pythons"]) == (done.stdout.splitlines(), ["3.11"])
    assert document["requirements"] == ["scikit-learn==1.2.2", "numpy<2", "pandas<3", "scipy<1.12"]
    filled.edit("models/iris/model.toml", "scikit-learn 1.2.2", "scikit-learn 1.0.2")
    assert (
        "it was saved with scikit-learn 1.0.2, and a worker needs scikit-learn 1.2" in filled.refused("env", "iris")[1]
    )


def test_scripts_get_json(filled):
    """--json is one document on one line with the whole signature."""
    text = filled.says("show", "iris", "--json")
    info = json.loads(text)
    assert text.count("\n") == 1
    assert (info["name"], info["version"], info["state"], info["signature"]["inputs"]) == (
        "iris",
        "1",
        "ready",
        [{"name": "X", "datatype": "FP64", "shape": [-1, 4], "nullable": False}],
    )
    assert filled.json("remove", "iris", "--yes") == {"removed": "iris", "version": None}


@pytest.mark.parametrize("command", ["add", "list", "show", "verify", "activate", "remove"])
def test_help_ends_with_an_example(shell, command):
    """Every command's help ends with an example."""
    assert shell.says(command, "--help").splitlines()[-1].startswith("  Example: mutirao models " + command)


def test_the_folder_comes_from_the_environment_or_the_flag(filled, tmp_path):
    """MUTIRAO_MODELS is the default of --models."""
    command = [sys.executable, "-m", "mutirao", "models", "list", "--json"]
    done = subprocess.run(
        command, cwd="/", env={"MUTIRAO_MODELS": str(tmp_path / "models")}, capture_output=True, text=True, check=True
    )
    assert [info["name"] for info in json.loads(done.stdout)] == ["houses", "iris"]
    assert filled.json("list", "--models", tmp_path / "elsewhere") == []
