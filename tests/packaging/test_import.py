"""What `import mutirao` costs a producer, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes
HEAVY = ("celery", "joblib", "kombu", "mutirao_worker", "pandas", "scipy", "sklearn")
# What a producer loads beside Python's own library: each is there for a reason, and a new one shows here.
LIGHT = {"hiredis", "msgspec", "mutirao", "numpy", "redis", "typing_extensions"}


def python(code, cwd):
    ran = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# The clients are loaded at their first use, so `import mutirao` alone would show little.
CLIENTS = "from mutirao import AsyncClient, Client"


@pytest.mark.parametrize("code", ["import mutirao", CLIENTS, "import mutirao.cli.main"])
def test_the_light_half_imports_nothing_heavy(tmp_path, code):
    """Importing the clients, or the command line, loads no Celery, scikit-learn, pandas or worker."""
    loaded = python(f"import sys\n{code}\nprint(*sys.modules)", tmp_path).split()
    assert set(HEAVY).isdisjoint(loaded)


def test_a_client_imports_no_more_than_it_uses(tmp_path):
    """What the clients load, beside Python's own library, is six packages."""
    loaded = python(f"import sys\n{CLIENTS}\nprint(*sys.modules)", tmp_path).split()
    tops = {name.partition(".")[0] for name in loaded if not name.startswith("_")}
    assert tops - sys.stdlib_module_names == LIGHT


def test_the_light_half_works_where_the_heavy_one_is_not_installed(tmp_path):
    """Client, errors and command line can be imported on a machine that has only the base dependencies."""
    absent = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    python(f"{absent}; import mutirao, mutirao.cli; mutirao.Client, mutirao.AsyncClient", tmp_path)


@pytest.mark.parametrize("folder", ["producer", "worker"])
def test_the_folders_are_no_packages(tmp_path, folder):
    """An installed project makes neither `producer` nor `worker` importable."""
    assert python(f"import importlib.util as u; print(u.find_spec({folder!r}))", tmp_path).strip() == "None"
