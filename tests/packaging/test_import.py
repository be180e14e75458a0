"""What `import mutirao` costs a producer, seen from a fresh interpreter."""

import os
import subprocess
import sys

import pytest

HEAVY = ("celery", "joblib", "kombu", "mutirao_worker", "pandas", "scipy", "sklearn")
CPU_S = 0.4


def python(code, cwd):
    ran = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def cpu_s(code):
    """The least user and system time of five runs: what others do on the machine only adds to it."""
    return min(_once(code) for _ in range(5))


def _once(code):
    pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-c", code], os.environ)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


# The clients are loaded at their first use, so `import mutirao` alone would show little.
CLIENTS = "from mutirao import AsyncClient, Client"


@pytest.mark.parametrize("code", ["import mutirao", CLIENTS, "import mutirao.cli.main"])
def test_the_light_half_imports_nothing_heavy(tmp_path, code):
    """Importing the clients, or the command line, loads no Celery, scikit-learn, pandas or worker."""
    loaded = python(f"import sys\n{code}\nprint(*sys.modules)", tmp_path).split()
    assert set(HEAVY).isdisjoint(loaded)


def test_the_light_half_works_where_the_heavy_one_is_not_installed(tmp_path):
    """Client, errors and command line can be imported on a machine that has only the base dependencies."""
    absent = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    python(f"{absent}; import mutirao, mutirao.cli; mutirao.Client, mutirao.AsyncClient", tmp_path)


@pytest.mark.parametrize("code", ["import mutirao", CLIENTS])
def test_the_import_is_cheap(code):
    """`import mutirao`, and its clients too, use less than 0.4 s of CPU over the start of the interpreter."""
    cost = cpu_s(code) - cpu_s("pass")
    assert cost < CPU_S, f"{cost:.3f} s"


@pytest.mark.parametrize("folder", ["producer", "worker"])
def test_the_folders_are_no_packages(tmp_path, folder):
    """An installed project makes neither `producer` nor `worker` importable."""
    assert python(f"import importlib.util as u; print(u.find_spec({folder!r}))", tmp_path).strip() == "None"
