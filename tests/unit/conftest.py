"""What unit tests share: a host of all samples, for those of batches; and none of them starts a process."""

import os
import subprocess

import pytest


@pytest.fixture(autouse=True)
def _in_one_process(monkeypatch):
    """Fail a test that starts a process: it belongs into tests/integration, and `make test-fast` is to stay fast."""

    begin = subprocess.Popen.__init__

    def refuse(*args, **options):
        if args[1:] and args[1][0] == "lscpu":  # joblib counts cores with it
            return begin(*args, **options)
        pytest.fail("a unit test starts no process: move it to tests/integration")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """All samples, as a worker holds them."""
    from mutirao_worker.models.model_host import ModelHost
    from support import sample_models

    root = tmp_path_factory.mktemp("host") / "models"
    sample_models.repository(root)
    repository = sample_models.repository(root, *sample_models.BAD, time_limit_s=600.0)
    made = ModelHost()
    made.load(repository, repository.names())
    return made


@pytest.fixture
def ran(host):
    """Run a batch; return its answers."""
    from mutirao_worker.inference import execution
    from mutirao_worker.inference.execution import ResultLimits

    def run(*asked, inline_bytes=65536, **bounds):
        return execution.run(host.find, asked, ResultLimits(inline_bytes, **bounds)).results

    return run
