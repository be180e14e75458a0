"""One stack for all tests of this folder: it takes a minute to come up, and minutes to build the first time."""

import pytest

from compose.stack import Stack, missing
from support import sample_models


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    if reason := missing():
        pytest.skip(f"the containers cannot be run here: {reason}")
    folder = tmp_path_factory.mktemp("compose")
    sample_models.repository(folder / "models", *sample_models.GOOD, "slow")
    with Stack(folder) as stack:
        yield stack


@pytest.fixture
def two_workers(stack):
    """The stack, all of it healthy, with two workers."""
    stack.up(workers=2)
    return stack
