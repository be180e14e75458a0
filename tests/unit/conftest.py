"""A host of all samples, for the tests of batches."""

import pytest


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """All samples, as a worker holds them."""
    import samples

    from mutirao_worker.models.host import ModelHost

    root = tmp_path_factory.mktemp("host") / "models"
    samples.repository(root)
    repository = samples.repository(root, *samples.BAD, time_limit_s=600.0)
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
