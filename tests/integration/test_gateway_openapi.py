"""The OpenAPI document, the page that shows it, and a machine that tries all it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks, not_a_server_error

BIN = Path(sys.executable).parent
load_all_checks()
CONFORM = [
    CHECKS.get_one(name)
    for name in ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
]
# What becomes of a job is no failure of the gateway.
FATES = ("JobExpired", "ResultTimeout", "NoWorker")


@pytest.fixture(scope="module")
def document(http):
    return http.get("/openapi.json").json()


def test_the_document_is_openapi_3_1(document):
    """It names its version, and every schema in it is one."""
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.validator_for({**schema, "components": document["components"]})


def test_every_address_is_in_it(document):
    """What the issue asks for is there, with its refusals."""
    paths = document["paths"]
    for path in (
        "/v2/models/{model}/infer",
        "/v1/models/{model}/jobs",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/events",
        "/metrics",
    ):
        assert path in paths
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            assert {"401", "403"} <= operation["responses"].keys()


def test_examples_are_of_the_served_models_and_work(document, http):
    """Each example of infer is a request that the model takes, in the long form and in the short."""
    examples = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"][
        "examples"
    ]
    assert {"iris", "iris-rows", "houses", "houses-rows"} <= examples.keys()
    for name in ("iris", "iris-rows"):
        assert http.post("/v2/models/iris/infer", json=examples[name]["value"]).status_code == 200
    told = http.post("/v2/models/houses/infer", json=examples["houses-rows"]["value"]).json()
    assert "unknown categories" in told["error"]  # it fits the signature; the model knows four cities


def test_the_command_prints_the_same_document(document, fleet):
    """`mutirao openapi` prints what the gateway serves, and without Redis the same without examples."""

    def printed(url):
        env = {**os.environ, "MUTIRAO_BROKER_URL": url}
        done = subprocess.run([BIN / "mutirao", "openapi"], env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert printed(fleet.url) == document
    assert printed("redis://127.0.0.1:1")["paths"].keys() == document["paths"].keys()


def test_the_page_fetches_nothing_from_elsewhere(http):
    """The page of the API names its own files alone, and its policy allows no others."""
    page = http.get("/docs")
    assert page.status_code == 200
    assert "//" not in page.text.replace("<!doctype html>", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert http.get(f"/docs/{name}").status_code == 200
    assert http.get("/docs/..%2f..%2fpyproject.toml").status_code == 404


def test_a_machine_that_tries_everything_finds_no_failure(gateway, document):
    """Random requests to each address have answers that the document describes, and none is a failure of the gateway."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=gateway.url)
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]  # the document is one, as the others show
        if operation.path.endswith(("/events", "/load", "/unload")):
            continue
        _try(operation)
        tried += 1
    assert tried >= 20


def _try(operation):
    @given(case=operation.as_strategy())
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def attempt(case):
        if "model" in case.path_parameters and len(case.path_parameters["model"]) % 2:
            case.path_parameters["model"] = "iris"
        answer = case.call(timeout=60)
        told = answer.json() if answer.headers.get("content-type") == ["application/json"] else {}
        fate = isinstance(told, dict) and told.get("type") in FATES
        case.validate_response(answer, checks=CONFORM if fate else [not_a_server_error, *CONFORM])

    attempt()
