"""What every test may count on: nothing of the machine's own system, and a Redis of its own for the asking."""

import os

import hypothesis
import pytest

with pytest.MonkeyPatch.context() as patch:
    # Tests share the cores: threads of BLAS that wait for one another in this process cost more than what they compute. Its
    # libraries read this when they are loaded; processes that tests start are not told.
    patch.setenv("OPENBLAS_NUM_THREADS", "1")
    import scipy.linalg  # noqa: F401

from support import brokers
from support.client_kinds import KINDS
from support.forked_processes import ForkedProcesses
from support.redis_servers import RedisServer
from support.stock_client import StockClient

# Time per example says nothing on a machine that runs several tests at once.
hypothesis.settings.register_profile("mutirao", deadline=None)
hypothesis.settings.load_profile("mutirao")
brokers.install()

# The dearest first: those who share the run out end together if what is left at the end is short.
FOLDERS = ("faults", "acceptance", "integration", "security", "contract", "packaging", "unit")
# Fixtures that start processes.
STARTING = {"fleet", "redis_server"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Order the files by their folders, and mark what starts processes."""
    root = config.rootpath / "tests"
    places = {name: place for place, name in enumerate(FOLDERS)}
    items.sort(key=lambda item: places.get(item.path.relative_to(root).parts[0], -1))
    for item in items:
        if STARTING & set(item.fixturenames):
            item.add_marker(pytest.mark.processes)


@pytest.fixture(autouse=True, scope="session")
def _not_the_system_that_runs_here(tmp_path_factory):
    """Keep MUTIRAO_... of the caller, and a `mutirao up` that runs in this checkout, away from the tests and their processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MUTIRAO_") and name != "MUTIRAO_TEST_BROKER"]:
            patch.delenv(name)
        patch.setenv("MUTIRAO_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _trials_here():
    """Try versions of models in the test's own process, which takes a hundredth of the time; see integration/test_trial_process.py."""
    from mutirao_worker.models import trial_process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_process, "run", trial_process.run_here)
        patch.setattr(trial_process, "load", lambda function, limits: function())  # noqa: ARG005
        yield


@pytest.fixture(autouse=True, scope="module")
def _executed(request):
    """Execute the workers and gateways of modules that are marked so, as an operator does; elsewhere they are forked, much faster."""
    executed = request.node.get_closest_marker("executed") or request.config.option.markexpr == "long"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForkedProcesses, "executing", bool(executed))
        yield


@pytest.fixture
def redis_server():
    """A private redis-server (0.3 s); see redis_servers.RedisServer for one with options, and for stop, kill, pause and restart."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    """A Redis and one worker of two processes that serves good and bad models, for all tests of this session to share."""
    from support import sample_models
    from support.worker_process import Fleet, WorkerProcess

    root = tmp_path_factory.mktemp("fleet") / "models"
    sample_models.repository(root, "iris", "houses", "gaps", "slow")
    repository = sample_models.repository(root, *(sample_models.BAD.keys() - {"slow"}), time_limit_s=2.0)
    with RedisServer() as server, WorkerProcess(server.url, repository.root, concurrency=2) as worker:
        yield Fleet(server, repository, worker)


@pytest.fixture(scope="session")
def stock(fleet):
    """A stock Celery client of the fleet, in a process that cannot import this project."""
    with StockClient(fleet.url) as client:
        yield client


@pytest.fixture(scope="session")
def gateway(fleet):
    """A gateway in front of the fleet, for all tests of this session to share."""
    from support.gateway_process import GatewayProcess

    with GatewayProcess(fleet.url, max_request_bytes=2_000_000) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def http(gateway):
    """An HTTP client of that gateway."""
    with gateway.client() as client:
        yield client


@pytest.fixture(params=KINDS)
def connect(request):
    """Make a client of either kind: connect(url, **settings)."""
    return KINDS[request.param]


@pytest.fixture
def client(connect, fleet):
    """A client of the fleet, of either kind."""
    with connect(fleet.url) as made:
        yield made
