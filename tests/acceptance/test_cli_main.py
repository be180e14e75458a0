"""The root command: what it lists, completes and refuses, and what the exit codes mean."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mutirao import errors
from mutirao.cli import console
from mutirao.cli.main import COMMANDS, root

HEAVY = ("celery", "joblib", "kombu", "numpy", "pandas", "redis", "rich", "sklearn")
COMMAND = str(Path(sys.executable).parent / "mutirao")


def names():
    return root.list_commands(click.Context(root))


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def completed(line, *, point=1, shell="bash"):
    env = {**os.environ, "_MUTIRAO_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(point)}
    done = subprocess.run([COMMAND], env=env, capture_output=True, text=True, check=False)
    return [item.partition(",")[2] for item in done.stdout.split()]


@pytest.mark.parametrize("name", names())
def test_the_list_of_commands_says_what_each_is(name):
    """Every command has its line in `mutirao --help`, and an example in its own help."""
    summary = COMMANDS[name][1]
    assert summary.endswith(".")
    assert len(summary) < 66
    found = root.get_command(click.Context(root), name)
    assert found is not None
    assert found.epilog is not None
    assert found.epilog.startswith("Example: mutirao ")
    assert f"mutirao {name}" in found.epilog


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_list_of_subcommands_fits_a_narrow_terminal(name, monkeypatch):
    """No line of a group's list of commands is cut short at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    says = CliRunner().invoke(root, [name, "--help"], terminal_width=80).output
    assert says.startswith("Usage: ")
    assert not [line for line in says.partition("\nCommands:")[2].splitlines() if line.endswith("...")]


def test_help_loads_nothing_heavy():
    """`mutirao --help` lists all commands without importing numpy, redis, rich or a model library."""
    done = python(
        "import sys\nfrom mutirao.cli.main import root\n"
        "root.main(['--help'], standalone_mode=False)\n"
        f"print(*sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)".replace(repr(HEAVY), repr(set(HEAVY)))
    )
    assert all(f"  {name} " in done.stdout for name in names())
    assert done.stderr.strip() == ""


def test_help_works_without_the_heavy_half():
    """Where only the base dependencies are installed, help lists everything and a worker names its extra."""
    absent = (
        "import sys; sys.modules.update(dict.fromkeys(('celery', 'joblib', 'kombu', 'pandas', 'psutil', 'sklearn')))"
    )
    run = f"{absent}; from mutirao.cli import main; sys.argv = ['mutirao', *sys.argv[1:]]"
    assert "predict" in python(f"{run}; sys.argv.append('--help'); main()").stdout
    done = python(f"{run}; sys.argv += ['worker']; main()")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install '.[worker]'" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["sub"], "error: No such command 'sub'. Did you mean 'submit'? See: mutirao --help"),
        (["statsu"], "error: No such command 'statsu'. Did you mean 'status'? See: mutirao --help"),
        (["status"], "error: Missing argument 'ID...'. See: mutirao status --help"),
        (["submit", "iris", "[[1]]", "--rows", "--id", "x"], "--id names one request, --rows makes many"),
        (["submit", "iris", "[[1]]", "--priority", "urgent"], "'urgent' is not one of 'high', 'normal', 'low'"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(args, says):
    """Wrong words on the line get one line that says what is wrong, and exit code 2."""
    done = subprocess.run([COMMAND, *args], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("shell", "says"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef mutirao"), ("fish", "complete --no-files --command mutirao")],
)
def test_completion_scripts_come_for_each_shell(shell, says):
    """`_MUTIRAO_COMPLETE=bash_source mutirao` prints what the shell is to evaluate."""
    env = {**os.environ, "_MUTIRAO_COMPLETE": f"{shell}_source"}
    assert says in subprocess.run([COMMAND], env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("line", "point", "words"),
    [("mutirao sub", 1, ["submit"]), ("mutirao res", 1, ["result"]), ("mutirao submit iris [[1]] --pri", 4, ["--priority"])],
)  # fmt: skip
def test_commands_and_options_complete(line, point, words):
    """`mutirao sub<TAB>` becomes submit; options complete too."""
    assert completed(line, point=point) == words


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash is not installed")
def test_bash_itself_completes():
    """A real bash that evaluated the script offers submit for `mutirao sub<TAB>`."""
    script = (
        'eval "$(_MUTIRAO_COMPLETE=bash_source mutirao)"; COMP_WORDS=(mutirao sub); COMP_CWORD=1; '
        '_mutirao_completion mutirao; echo "${COMPREPLY[@]}"'
    )
    env = {**os.environ, "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("submit", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ResultTimeout, 5),
        (errors.ResultExpired, 3),
        (errors.ModelNotFound, 3),
        (errors.BrokerUnavailable, 4),
        (errors.ModelUnavailable, 4),
        (errors.SignatureMismatch, 2),
        (errors.SettingsError, 2),
        (errors.ModelFailed, 1),
        (errors.IdTaken, 1),
    ],
)
def test_exit_codes_are_fixed(error, code):
    """Scripts rely on the codes: 1 failed, 2 usage, 3 not found, 4 unavailable, 5 timeout."""
    assert console.exit_of(error("x")) == code


def test_a_full_disk_behind_stdout_is_said():
    """Where the output cannot be written, the command fails and says so in one line."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["submit", "iris", "[[1]]", "--expires", "1h"], "'--expires': '1h' is not a number."),
        (["up", "--workers", "two"], "'--workers': 'two' is not a whole number."),
        (["--broker-url", "redis://h/0", "predict"], "--broker-url belongs to a command: write it after the"),
    ],
)
def test_a_wrong_option_is_told_in_plain_words(args, says):
    """What is no number is called that, and an option before its command is told where it goes."""
    done = subprocess.run([COMMAND, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize("module", ["click", "mutirao.cli.jobs", "mutirao.client.client"])
def test_ctrl_c_during_imports_is_quiet(module):
    """Ctrl-C while the command, or a subcommand, is imported prints nothing, and the exit code is 130."""
    done = python(
        f"""
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["mutirao", "status", "x", "--broker-url", "redis://127.0.0.1:1"]
from mutirao.cli import main
main()
"""
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (console.Exit.INTERRUPTED, "", "")
