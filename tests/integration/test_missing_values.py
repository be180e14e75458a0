"""Missing values: one meaning on every front, the model's own."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mutirao import Client, errors
from support import brokers, sample_models

GAPS = sample_models.get("gaps")
FRAME = GAPS.data[:12]
EXPECTED = GAPS.expected()[:12].tolist()
RECORDS = [{name: None if pd.isna(value) else value for name, value in row.items()} for row in FRAME.to_dict("records")]
NULLABLE = {"city": True, "grade": True, "area": True, "rooms": False}


def test_the_sample_has_gaps_of_each_kind():
    """NaN and None among text, NaN among numbers: else the tests below show nothing."""
    assert FRAME["city"].map(lambda value: value != value).any()  # noqa: PLR0124
    assert FRAME["grade"].map(lambda value: value is None).any()
    assert FRAME["area"].isna().any()


def test_the_signature_says_what_may_be_missing(fleet):
    """Which inputs may lack values is learned from the estimator, and announced."""
    with Client(fleet.url) as client:
        (info,) = [each for each in client.models() if each.name == "gaps"]
    assert {spec.name: spec.nullable for spec in info.signature.inputs} == NULLABLE


FRAMES = {
    "as it was fitted": FRAME,
    "pandas' own missing values": FRAME.convert_dtypes(),
    "None": FRAME.astype(object).where(FRAME.notna(), None),
    "lists": {name: [record[name] for record in RECORDS] for name in FRAME},
    "rows": [list(record.values()) for record in RECORDS],
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("way", ["Redis", "gateway"])
def test_python_s_missing_values_are_the_model_s(fleet, gateway, kind, way):
    """None, NaN and pd.NA in a DataFrame, in lists and in rows have the answer that the model gives by itself, in the binary form."""
    with Client(fleet.url if way == "Redis" else gateway.url) as client:
        answer = client.predict("gaps", FRAMES[kind], timeout=20)
        assert answer["predict"].tolist() == EXPECTED
        if kind != "lists":
            each = [job.result(timeout=20) for job in client.submit_many("gaps", FRAMES[kind])]
            assert np.allclose([one["predict"][0] for one in each], EXPECTED, rtol=1e-12)


V2 = {
    "inputs": [
        {"name": name, "datatype": kind, "shape": [12], "data": [record[name] for record in RECORDS]}
        for name, kind in (("city", "BYTES"), ("grade", "BYTES"), ("area", "FP64"), ("rooms", "INT64"))
    ]
}
BODIES = {
    "records": (json.dumps({"rows": RECORDS}), "application/json"),
    "rows": (json.dumps([list(record.values()) for record in RECORDS]), "application/json"),
    "V2": (json.dumps(V2), "application/json"),
    "CSV": (FRAME.to_csv(index=False), "text/csv"),
    "CSV with NA": (FRAME.to_csv(index=False, na_rep="NA"), "text/csv"),
    "CSV without a header": (FRAME.to_csv(index=False, header=False), "text/csv"),
    "CSV as spreadsheets write it": ("\ufeff" + FRAME.to_csv(index=False, sep=";", decimal=","), "text/csv"),
}


@pytest.mark.parametrize("form", BODIES)
def test_missing_values_over_http_are_the_model_s(http, form):
    """null in JSON, and an empty cell or NA in CSV, have the answer that the model gives by itself."""
    body, media = BODIES[form]
    answer = http.post("/v2/models/gaps/infer", content=body.encode(), headers={"Content-Type": media})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == EXPECTED


def test_a_stock_client_writes_null(stock):
    """null in the JSON of a stock Celery client is missing too."""
    rows = [list(record.values()) for record in RECORDS]
    sent = f"app.send_task('mutirao.predict', args=['gaps', {rows!r}], queue='mutirao.gaps').get(timeout=20)"
    assert stock.run(f"answer = {sent}['outputs'][0]['data']") == EXPECTED


def test_the_command_line_reads_gaps(fleet, tmp_path):
    """An empty cell of a file is missing on the command line."""
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    command = [sys.executable, "-m", "mutirao", "predict", "gaps", str(tmp_path / "rows.csv"), "--json"]
    env = {**os.environ, **brokers.environment(fleet.url)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout)["outputs"]["predict"] == EXPECTED


REFUSED = {
    "records": (json.dumps({"rows": [{**RECORDS[0], "rooms": None}]}), "application/json", "rooms FP64[-1], and row 0 is missing"),
    "CSV": ("city,grade,area,rooms\nMariana,a,1,2\nMariana,a,1,\n", "text/csv", "line 3 has no value in column 'rooms'"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_what_may_not_be_missing_is_refused_by_name(http, form):
    """A value that the model cannot do without is refused before it is queued, with the row and the column."""
    body, media, says = REFUSED[form]
    answer = http.post("/v2/models/gaps/infer", content=body.encode(), headers={"Content-Type": media})
    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_the_worker_refuses_it_too(fleet):
    """A client that checks nothing is told the same by the worker."""
    with Client(fleet.url, check=False) as client, pytest.raises(errors.SignatureMismatch, match="row 1 is missing"):
        client.predict("gaps", FRAME.assign(rooms=[1.0, np.nan, *[1.0] * 10]), timeout=20)
