"""Which requests a worker hands over: those that its copy of their model refuses, and all of a model that it cannot serve."""

from types import SimpleNamespace
from typing import Any

import pytest

from mutirao import errors
from mutirao.registry import ModelInfo, WorkerInfo
from mutirao_worker.engine.model_copies import ModelCopies
from mutirao_worker.inference.execution import PackedRequest, ResultLimits, run
from mutirao_worker.models.model_host import ModelHost

OTHER = WorkerInfo(name="b", processes=1, models={"iris": "1"}, digests={"iris": "aa"})


def copies(*others, state="unavailable"):
    host = ModelHost()
    host._infos["iris"] = ModelInfo(
        name="iris", version="1", digest="aa", state=state, reason="no" * (state != "ready")
    )
    live: Any = SimpleNamespace(serving=lambda model: [each for each in others if model in each.models])
    return ModelCopies(host, live)


@pytest.mark.parametrize(
    ("others", "state", "refused_by", "may"),
    [
        ((OTHER,), "unavailable", set(), True),  # the same copy, in a worker that could load it
        ((OTHER,), "unavailable", {"aa"}, False),
        ((OTHER,), "ready", set(), False),  # the same copy would refuse it too
        ((), "unavailable", set(), False),
    ],
)
def test_a_request_goes_to_a_worker_that_may_answer_it(others, state, refused_by, may):
    """Where this worker cannot serve the model, an equal copy elsewhere can; where its copy refuses the request, only another copy may."""
    request: Any = SimpleNamespace(model="iris", refused_by=refused_by)
    assert copies(*others, state=state).another_may_take(request) is may


def test_what_an_unavailable_model_was_asked_may_be_answered_elsewhere():
    """The request fails with the reason, and says that another worker may accept it."""

    def find(name):
        raise errors.ModelUnavailable("gone", model=name, reason="gone")

    packed = PackedRequest("1", b'[["iris",{"inputs":[]}],{},null]', "application/json", False, None)
    (result,) = run(find, [packed], ResultLimits(1, 1)).results
    assert result.status == "failed"
    assert result.other_copy_may_accept
