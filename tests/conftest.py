"""What every test may count on: nothing of the machine's own system, and a Redis of its own for the asking."""

import os

import hypothesis
import pytest
from servers import RedisServer

# Time per example says nothing on a machine that runs several tests at once.
hypothesis.settings.register_profile("mutirao", deadline=None)
hypothesis.settings.load_profile("mutirao")


@pytest.fixture(autouse=True, scope="session")
def _not_the_system_that_runs_here(tmp_path_factory):
    """Keep MUTIRAO_... of the caller, and a `mutirao up` that runs in this checkout, away from the tests and their processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MUTIRAO_")]:
            patch.delenv(name)
        patch.setenv("MUTIRAO_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def redis_server():
    """A private redis-server (0.3 s); see servers.RedisServer for one with options, and for stop, kill, pause and restart."""
    with RedisServer() as server:
        yield server
