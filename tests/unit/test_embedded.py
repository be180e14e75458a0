"""What the embedded system decides without a process: which folder it takes, when it starts a child again, how it tells an exit."""

import stat

import pytest

from mutirao import errors
from mutirao.embedded.state_dir import StateDir
from mutirao.embedded.supervisor import backoff_s, describe_exit


@pytest.mark.parametrize(("deaths", "wait_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (1000, 30.0)])
def test_the_wait_doubles_with_each_death(deaths, wait_s):
    """Half a second at first, 30 s at most."""
    assert backoff_s(deaths) == wait_s


@pytest.mark.parametrize(
    ("code", "words"), [(0, "ended with code 0"), (3, "ended with code 3"), (-9, "was ended by SIGKILL")]
)
def test_an_ending_is_told_in_words(code, words):
    """A signal is named, not numbered."""
    assert describe_exit(code) == words


def mode(folder):
    return stat.S_IMODE(folder.stat().st_mode)


@pytest.mark.parametrize("held", [[], ["demo"], ["lock", "secrets.json", "redis", "log", ".gitignore"]])
def test_a_folder_that_others_could_read_is_closed(held, tmp_path):
    """A home that an earlier run left open is closed before a password is written into it."""
    home = tmp_path / ".mutirao"
    home.mkdir()
    home.chmod(0o777)
    for name in held:
        (home / name).mkdir()
    if ".gitignore" in held:
        (home / ".gitignore").rmdir()
    StateDir(home).prepare()
    assert mode(home) == 0o700


def test_a_folder_of_somebody_s_own_is_not_closed_unasked(tmp_path):
    """A folder with other things in it keeps its mode, and the error says what to do; once it is closed it will do."""
    home = tmp_path / "project"
    home.mkdir(mode=0o755)
    (home / "thesis.tex").touch()
    with pytest.raises(errors.EmbeddedError, match=r"mode 755.*'thesis\.tex'.*chmod 700 it, or choose another"):
        StateDir(home).prepare()
    assert mode(home) == 0o755
    assert [entry.name for entry in home.iterdir()] == ["thesis.tex"]
    home.chmod(0o700)
    StateDir(home).prepare()


def test_a_file_system_that_keeps_no_modes_is_refused(tmp_path, monkeypatch):
    """Where chmod changes nothing, as on a mounted Windows disk, the error says why the folder will not do."""
    monkeypatch.setattr("pathlib.Path.chmod", lambda *_: None)
    (tmp_path / "home").mkdir(mode=0o755)
    with pytest.raises(errors.EmbeddedError, match=r"mode 755\); its file system keeps no modes: choose another"):
        StateDir(tmp_path / "home").prepare()


def test_a_file_of_ours_that_cannot_be_opened_is_named(tmp_path):
    """What keeps the lock or the secrets from being opened is said in one line, with the remedy."""
    home = StateDir(tmp_path / "home")
    home.prepare()
    (home.path / "lock").mkdir()
    with pytest.raises(errors.EmbeddedError, match=r"lock cannot be opened \(Is a directory\): choose another"):
        home.lock()
    (home.path / "secrets.json").mkdir()
    with pytest.raises(errors.EmbeddedError, match=r"secrets\.json cannot be read \(Is a directory\)"):
        home.secrets()
