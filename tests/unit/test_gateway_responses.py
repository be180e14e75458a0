"""The gateway's small decisions: forms by Accept, paths of infer, headers, errors, events, examples."""

import msgspec
import pytest

from mutirao import errors
from mutirao.gateway.middleware import infer_path
from mutirao.gateway.openapi import document
from mutirao.gateway.responses import error_response, response, response_format
from mutirao.gateway.streams import job_stream
from mutirao.wire.messages import History, JobInfo, JobRecord
from mutirao.wire.signature import InputSpec, OutputSpec, Signature

ACCEPT = [
    (None, "application/json"),
    (b"*/*", "application/json"),
    (b"application/json", "application/json"),
    (b"application/*", "application/json"),
    (b"text/*", "text/csv"),
    (b"text/csv;q=0.9, application/json;q=1.0", "application/json"),
    (b"text/csv; q=0.9, application/json; q=0.1", "text/csv"),
    (b"text/html, application/octet-stream", "application/octet-stream"),
    (b"application/json;q=x, text/csv", "text/csv"),
    (b"APPLICATION/X-NPY", "application/x-npy"),
]


@pytest.mark.parametrize(("accept", "expected"), ACCEPT)
def test_the_form_is_chosen_by_accept(accept, expected):
    """The one that weighs most; the default where the client does not care."""
    assert response_format.accepted(accept) == expected


@pytest.mark.parametrize("accept", [b"text/html", b"application/json;q=0", b"", b";;,"])
def test_no_form_at_all_is_refused(accept):
    """Weights of 0 and other types leave none."""
    with pytest.raises(errors.NotAcceptable):
        response_format.accepted(accept)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/iris/infer", ("iris", "")),
        ("/v2/models/iris/versions/2/infer", ("iris", "2")),
        ("/v2/models/infer", None),
        ("/v2/models/iris/infer/", None),
        ("/v2/models/a/b/infer", None),
        ("/v2/models/iris/version/2/infer", None),
        ("/v1/models/iris/infer", None),
    ],
)
def test_infer_is_found_by_its_path(path, expected):
    """The short way takes these paths, and leaves all others to the router."""
    assert infer_path(path) == expected


def test_nothing_ends_a_headers_line():
    """What is put into a header is printable ASCII."""
    assert response.plain("a\r\nb\x00cé") == b"a??b?c?"


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (errors.QueueFull("full", model="m", depth=1, limit=1, retry_after_s=2.1), 429, b"3"),
        (errors.QueueFull("full", model="m"), 429, b"1"),
        (errors.TooLate("late", model="m", wait_s=5.0, retry_after_s=4.0), 429, b"4"),
        (errors.BrokerUnavailable("Redis at redis://10.0.0.7 is away", url="redis://10.0.0.7"), 503, b"1"),
        (errors.GatewayBusy("busy", retry_after_s=0.0), 503, b"1"),
        (errors.ModelNotFound("none", model="m", known=("a",)), 404, None),
        (errors.ModelFailed("raised", model="m", version="1", cause="ValueError"), 500, None),
        (errors.ResultTimeout("late", id="a"), 504, None),
    ],
)
def test_an_error_is_told_as_all_are(error, status, retry):
    """Status, sentence, class and data; Retry-After where trying again helps; nothing of the operator's machines."""
    made = error_response.answer(error)
    told = msgspec.json.decode(made.body)
    assert (made.status, told["type"]) == (status, type(error).__name__)
    assert dict(made.headers).get(b"retry-after") == retry
    assert b"10.0.0.7" not in made.body


def test_what_nobody_foresaw_says_nothing_of_itself(caplog):
    """A bug is 500 without its text, to the client and in the log, which may quote a request."""
    made = error_response.answer(ZeroDivisionError("secret"))
    assert made.status == 500
    assert b"secret" not in made.body
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


def record(status="QUEUED", **job):
    return JobRecord(status=status, task_id="a", job=JobInfo(model="m", queued_at=1.0, **job))


def test_a_step_keeps_its_number_whatever_is_known_later():
    """A job that was lost and ran elsewhere: each record continues the one before, and no number is given twice."""
    ran = {"started_at": 2.0, "worker": "w", "attempts": 1, "version": "1", "batch": 2, "place": 1}
    lost = {"history": (History("w", 3.0, "worker lost"),)}
    again = {**ran, "started_at": 4.0, "reserved_at": 3.5, "finished_at": 5.0, "attempts": 2}
    seen: dict[tuple[int, int], str] = {}
    for one in (record(), record("STARTED", **ran), record(**lost), record("SUCCESS", **lost, **again)):
        for mark, step in job_stream.steps(one):
            assert seen.setdefault(mark, step.step) == step.step
    assert [seen[mark] for mark in sorted(seen)] == [
        "submitted", "batched", "run", "lost", "reserved", "batched", "run", "committed",
    ]  # fmt: skip


@pytest.mark.parametrize("frame", [True, False])
def test_an_example_has_the_signatures_types_and_shapes(frame):
    """One row of each input, in the long form and the short."""
    inputs = (
        (InputSpec("a", "FP64", (-1,)), InputSpec("b", "BYTES", (-1,)))
        if frame
        else (InputSpec("X", "INT64", (-1, 2)),)
    )
    takes = Signature(inputs=inputs, outputs=(OutputSpec("predict", "FP64", (-1,), True),), frame=frame)
    told = document.example(takes)["inputs"]
    assert [(one["datatype"], one["shape"]) for one in told] == [
        (spec.datatype, [1, *spec.shape[1:]]) for spec in inputs
    ]
    assert document.row(takes) == ([{"a": 1.5, "b": "text"}] if frame else [[1, 1]])
