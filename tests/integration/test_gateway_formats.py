"""What goes in and out: JSON rows, V2, CSV, npy and forms; JSON, raw tensors, CSV and npy."""

import asyncio
import csv
import gzip
import io
import json
import zlib
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from mutirao.gateway.responses import response_format, result_response
from mutirao.wire.messages import JobRecord
from support import sample_models

IRIS, HOUSES = sample_models.get("iris"), sample_models.get("houses")
ROWS = IRIS.data[:3]
LABELS = IRIS.expected()[:3].tolist()
FRAME = HOUSES.data[:3]
CLASSES = HOUSES.expected()[:3].tolist()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def predicted(answer):
    assert answer.status_code == 200, answer.text
    return next(output["data"] for output in answer.json()["outputs"] if output["name"] == "predict")


def text_of(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


IRIS_BODIES = {
    "bare rows": (json.dumps(ROWS.tolist()), "application/json"),
    "rows": (json.dumps({"rows": ROWS.tolist()}), "application/json; charset=utf-8"),
    "rows after spaces": ("\n  " + json.dumps(ROWS.tolist()), "application/json"),
    "no content type": (json.dumps(ROWS.tolist()), ""),
    "what curl -d says": (json.dumps(ROWS.tolist()), "application/x-www-form-urlencoded"),
    "V2": (
        json.dumps({"inputs": [{"name": "X", "datatype": "FP64", "shape": [3, 4], "data": ROWS.ravel().tolist()}]}),
        "application/json",
    ),
    "V2, FP32": (
        json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [3, 4], "data": ROWS.tolist()}]}),
        "application/json",
    ),
    "CSV": (text_of(ROWS), "text/csv"),
    "CSV with a header": ("a,b,c,d\r\n" + text_of(ROWS), "text/csv; charset=utf-8"),
    "CSV with a mark of its order": ("\ufeff" + text_of(ROWS), "text/csv"),
    "npy": (npy(ROWS), "application/x-npy"),
    "npy in Fortran's order": (npy(np.asfortranarray(ROWS)), "application/x-npy"),
    "npy, big-endian": (npy(ROWS.astype(">f8")), "application/x-npy"),
}


@pytest.mark.parametrize("form", IRIS_BODIES)
def test_a_matrix_comes_in_many_forms(http, form):
    """Each form of the same rows has the same answer."""
    body, media = IRIS_BODIES[form]
    content = body if isinstance(body, bytes) else body.encode()
    headers = {"Content-Type": media} if media else {}
    assert predicted(http.post("/v2/models/iris/infer", content=content, headers=headers)) == LABELS


def decimal_commas(rows):
    return "".join(";".join(str(value).replace(".", ",") for value in row) + "\n" for row in rows)


@pytest.mark.parametrize("query", ["", "?delimiter=semicolon&decimal=,", "?delimiter=%3B&header=absent"])
def test_a_spreadsheet_with_decimal_commas_is_read(http, query):
    """Delimiter and decimal sign are found out, or said in the query."""
    headers = {"Content-Type": "text/csv"}
    assert (
        predicted(http.post(f"/v2/models/iris/infer{query}", content=decimal_commas(ROWS), headers=headers)) == LABELS
    )


@pytest.mark.parametrize("path", ["/v2/models/iris/infer", "/v1/models/iris/jobs", "/v1/models/iris/jobs:batch"])
def test_a_header_that_goes_unused_is_warned_of(http, path):
    """A model that knows its columns by no names takes them by place, and the answer says so; a header that was said to be a row does not pass."""
    body, headers = "d,c,b,a\n" + text_of(ROWS), {"Content-Type": "text/csv"}
    answer = http.post(path, content=body, headers=headers)
    assert answer.is_success
    assert answer.headers["Warning"] == '299 mutirao "the CSV: the first line was taken as a header, but the model knows its columns by no names: columns go by place"'  # fmt: skip
    assert "Warning" not in http.post(path, content=text_of(ROWS), headers=headers).headers
    refused = http.post(path, content=body, headers={"Content-Type": "text/csv; header=absent"})
    assert refused.status_code == 400
    assert "line 1 has 'd' in column '1'" in refused.json()["error"]


@pytest.mark.parametrize(
    ("query", "says"),
    [("delimiter=%3A", "delimiter is ':'"), ("decimal=x", "decimal is 'x'"), ("header=1", "header is '1'")],
)
def test_what_cannot_be_said_of_a_csv_is_refused(http, query, says):
    """A sign that is not read here is 400 with those that are."""
    answer = http.post(f"/v2/models/iris/infer?{query}", content="1,2,3,4\n", headers={"Content-Type": "text/csv"})
    assert (answer.status_code, says in answer.json()["error"]) == (400, True)


HOUSES_BODIES = {
    "objects": json.dumps({"rows": FRAME.to_dict("records")}),
    "rows in order": json.dumps({"rows": FRAME.to_numpy().tolist()}),
    "CSV, columns in another order": FRAME[["rooms", "city", "area"]].to_csv(index=False),
    "CSV with a column more": FRAME.assign(label="x").to_csv(index=False),
    "CSV without a header": FRAME.to_csv(index=False, header=False),
    "CSV of a spreadsheet": "\ufeff" + FRAME.to_csv(index=False, sep=";", decimal=","),
}


@pytest.mark.parametrize("form", HOUSES_BODIES)
def test_columns_come_in_many_forms(http, form):
    """Columns of text and numbers are found by name, or by their order."""
    media = "text/csv" if form.startswith("CSV") else "application/json"
    content = HOUSES_BODIES[form].encode()
    assert predicted(http.post("/v2/models/houses/infer", content=content, headers={"Content-Type": media})) == CLASSES


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("rows.csv", text_of(ROWS).encode(), "text/csv"),
        ("rows.npy", npy(ROWS), "application/octet-stream"),
        ("ROWS.JSON", json.dumps(ROWS.tolist()).encode(), "application/json"),
    ],
)
def test_a_form_holds_one_file(http, name, content, kind):
    """A file of a form is read by its type, or by its name's ending."""
    assert predicted(http.post("/v2/models/iris/infer", files={"file": (name, content, kind)})) == LABELS


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed(http, encoding, pack):
    """gzip and deflate are undone."""
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    body = pack(json.dumps(ROWS.tolist()).encode())
    assert predicted(http.post("/v2/models/iris/infer", content=body, headers=headers)) == LABELS


@pytest.mark.parametrize("path", ["/v2/models/iris/infer", "/v1/models/iris/jobs"])
def test_answers_come_as_csv(http, path):
    """A line a row, a column for each value, of infer and of a job's result."""
    answer = _asked(http, path, {"rows": ROWS.tolist()}, "text/csv")
    table = list(csv.reader(io.StringIO(answer.text)))
    assert table[0] == ["predict", "predict_proba.0", "predict_proba.1", "predict_proba.2"]
    assert [int(row[0]) for row in table[1:]] == LABELS
    assert [float(value) for value in table[1][1:]] == IRIS.expected("predict_proba")[0].tolist()


@pytest.mark.parametrize("path", ["/v2/models/iris/infer", "/v1/models/iris/jobs"])
def test_answers_come_as_npy(http, path):
    """One output is an array; several are 406, with what to do."""
    body = {"rows": ROWS.tolist(), "outputs": [{"name": "predict_proba"}]}
    answer = _asked(http, path, body, "application/x-npy")
    assert np.array_equal(np.load(io.BytesIO(answer.content)), IRIS.expected("predict_proba")[:3])
    refused = _asked(http, path, {"rows": ROWS.tolist()}, "application/x-npy")
    assert (refused.status_code, refused.json()["type"]) == (406, "NotAcceptable")


def test_the_best_form_that_is_accepted_is_given(http):
    """Accept's weights choose; a form that there is not is 406 and names those there are."""
    accept = "text/html, text/csv;q=0.5, application/json;q=0.4"
    assert (
        _asked(http, "/v2/models/iris/infer", {"rows": ROWS.tolist()}, accept).headers["content-type"]
        == "text/csv; charset=utf-8"
    )
    refused = _asked(http, "/v2/models/iris/infer", {"rows": ROWS.tolist()}, "text/html")
    assert refused.status_code == 406
    assert "application/x-npy" in refused.json()["error"]


def test_what_json_cannot_carry_is_asked_for_otherwise(http):
    """A NaN in a result is refused in JSON with the form that holds it, and comes whole in that."""
    id = http.post("/v1/models/nanoutput/jobs", json={"rows": [[-1.0, 0.0, 0.0]]}).json()["id"]
    answer = http.get(f"/v1/jobs/{id}/result", params={"wait": 20})
    assert (answer.status_code, answer.json()["type"]) == (406, "NotAcceptable")
    raw = http.get(f"/v1/jobs/{id}/result", headers={"Accept": "application/octet-stream"})
    assert np.isnan(np.frombuffer(raw.content[int(raw.headers["inference-header-content-length"]) :])[0])


def test_one_nan_does_not_lose_an_answer(http):
    """The job succeeds: JSON is 406 with the job's address and the remedies, null where that is asked for; raw holds it."""
    body, infer = {"rows": [[-1.0, 0.0, 0.0], [1.0, 2.0, 3.0]]}, "/v2/models/nanoutput/infer"
    refused = http.post(infer, json=body)
    assert (refused.status_code, refused.json()["type"]) == (406, "NotAcceptable")
    assert "NaN at [0]" in refused.json()["error"]
    assert "?nan=null" in refused.json()["error"]
    at = refused.headers["location"]
    assert http.get(at).json()["status"] == "succeeded"
    for answer in (
        http.post(infer, params={"nan": "null"}, json=body),
        http.get(f"{at}/result", params={"nan": "null"}),
    ):
        assert answer.json()["outputs"][0]["data"] == [None, 6.0]
    raw = http.get(f"{at}/result", headers={"Accept": "application/octet-stream"})
    found = np.frombuffer(raw.content[int(raw.headers["inference-header-content-length"]) :])
    assert np.array_equal(found, [np.nan, 6.0], equal_nan=True)
    assert http.get(f"{at}/result", headers={"Accept": "text/csv"}).text == "predict\nnan\n6.0\n"
    assert http.post(infer, params={"nan": "0"}, json=body).status_code == 400


def test_a_large_result_is_written_in_slices():
    """Nested lists, null and CSV of many values are the same as when they are written at once, and others have turns meanwhile."""
    wide, deep = np.arange(150_000.0).reshape(3, 50_000), np.arange(90_000).reshape(30, 30, 100)
    wide[1, 7] = np.nan
    text = np.array([f"é{at}" for at in range(30)], dtype=object)
    record = JobRecord(
        status="SUCCESS", task_id="x", result=msgspec.Raw(b'{"model_name":"m","model_version":"1","outputs":[]}')
    )
    given = {"wide": wide[:, :40_000], "deep": deep[:3], "text": text[:3]}
    turns = 0

    async def write(form):
        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        answer, sent = await result_response.encode(given, record, form), []

        async def send(message):
            sent.append(message)

        await answer(cast("Any", {}), cast("Any", None), send)
        beside.cancel()
        return b"".join(message.get("body", b"") for message in sent)

    told = json.loads(asyncio.run(write(response_format.ResponseFormat(null=True))))
    assert [tensor["data"] for tensor in told["outputs"]] == [
        [[None if np.isnan(at) else at for at in row] for row in given["wide"].tolist()],
        given["deep"].tolist(),
        text[:3].tolist(),
    ]
    assert turns > 2
    del given["deep"], given["text"]
    lines = asyncio.run(write(response_format.ResponseFormat(media="text/csv"))).decode().splitlines()
    assert [len(line.split(",")) for line in lines] == [40_000] * 4
    assert lines[2].split(",")[6:8] == ["50006.0", "nan"]


REFUSED = {
    "no JSON": (b"{", "application/json", 400),
    "a string": (b'"rows"', "application/json", 400),
    "no inputs": (b"{}", "application/json", 400),
    "no rows": (b'{"rows": []}', "application/json", 400),
    "ragged rows": (b"[[1,2,3,4],[1]]", "application/json", 400),
    "nulls": (b"[[1,2,3,null]]", "application/json", 400),
    "rows that differ": (b'[{"a":1},{"b":1}]', "application/json", 400),
    "deep": (b"[" * 100_000, "application/json", 400),
    "deep and closed": (b"[" * 5_000 + b"]" * 5_000, "application/json", 400),
    "NaN": (b'[["NaN",1,2,3]]', "application/json", 400),
    "CSV of text": (b"a,b,c,d\n1,2,x,4\n", "text/csv", 400),
    "CSV with NaN": (b"1,2,nan,4\n", "text/csv", 400),
    "CSV with a name mistyped": (b"X,b,c,d,e\n1,2,3,4,5\n", "text/csv", 400),
    "CSV in latin-1": ("ação,b,c,d\n1,2,3,4\n".encode("latin-1"), "text/csv", 400),
    "ragged CSV": (b"1,2,3,4\n1,2\n", "text/csv", 400),
    "CSV of a header": (b"a,b,c,d\n", "text/csv", 400),
    "empty CSV": (b"", "text/csv", 400),
    "CSV of no text": (b"\xff\xfe\x00", "text/csv", 400),
    "no npy": (b"\x93NUMPY", "application/x-npy", 400),
    "npy of objects": (npy(np.array([["a", None]], dtype=object)), "application/x-npy", 400),
    "npy cut short": (npy(ROWS)[:-8], "application/x-npy", 400),
    "XML": (b"<rows/>", "application/xml", 415),
    "a form without a boundary": (b"x", "multipart/form-data", 400),
    "a form without a file": (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--\r\n",
                              "multipart/form-data; boundary=b", 400),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("path", ["/v2/models/iris/infer", "/v1/models/iris/jobs:batch"])
def test_what_cannot_be_read_is_refused(http, case, path):
    """Each is 4xx with a sentence, never a failure of the gateway."""
    body, media, status = REFUSED[case]
    answer = http.post(path, content=body, headers={"Content-Type": media})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def _asked(http, path, body, accept):
    if path.endswith("/infer"):
        return http.post(path, json=body, headers={"Accept": accept})
    id = http.post(path, json=body).json()["id"]
    return http.get(f"/v1/jobs/{id}/result", params={"wait": 20}, headers={"Accept": accept})
