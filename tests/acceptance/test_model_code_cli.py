"""Models of own code on the command line and in a user's tests, without Redis."""

import json
import pickle

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import mutirao.testing
from mutirao import InvalidInput, ModelFailed
from mutirao.errors import RepositoryError
from support.command_line import CommandLine


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; return its exit code, what it printed, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys, monkeypatch).run


def test_a_saved_model_becomes_a_folder_that_works_at_once(run, tmp_path):
    """init --from copies the file and writes a model.py that loads it; try predicts rows with it, add takes it."""
    rows = np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 2.0]])
    model = LinearRegression().fit(rows, [1.0, 2.0, 4.0])
    (tmp_path / "saved.pkl").write_bytes(pickle.dumps(model))
    assert run("models", "init", "price", "--from", "saved.pkl")[0] == 0
    code, printed, said = run("models", "try", "price", json.dumps(rows.tolist()), "--json")
    assert code == 0, said
    assert json.loads(printed) == {"predict": model.predict(rows).tolist()}
    assert "predicted 3 rows" in said
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3,5\n")
    assert run("models", "try", "price", "rows.csv")[0] == 0
    assert run("models", "add", "price", "price/", "--example", "rows.csv")[0] == 0
    code, _, said = run("models", "init", "price")
    assert code != 0
    assert "price is already there" in said


def test_init_alone_writes_what_works(run):
    """Without a saved model the folder holds a model of text."""
    assert run("models", "init", "hello")[0] == 0
    code, printed, _ = run("models", "try", "hello", '["you"]', "--json")
    assert (code, json.loads(printed)) == (0, {"predict": ["hello you"]})


MODEL = """
import mutirao
class Model:
    def predict(self, orders: list[dict], *, factor: float = 1.0) -> list[dict]:
        if any(order["km"] < 0 for order in orders):
            raise mutirao.InvalidInput("km must be 0 or more")
        return [{"price": factor * order["km"]} for order in orders]
"""


@pytest.fixture
def price(tmp_path):
    (tmp_path / "price").mkdir()
    (tmp_path / "price" / "model.py").write_text(MODEL)
    return tmp_path / "price"


def test_try_shows_mistakes_with_the_traceback_of_the_model(run, price):
    """An exception of the model's code is one line, after its traceback; a refusal has the model's words alone."""
    asked = ("models", "try", price, '[{"km": 2}]', "--parameter", "factor=3", "--json")
    assert json.loads(run(*asked)[1]) == {"predict": [{"price": 6.0}]}
    (price.parent / "orders.jsonl").write_text('{"km": 1}\n{"km": 2}\n')
    assert json.loads(run("models", "try", price, "orders.jsonl", "--json")[1]) == {
        "predict": [{"price": 1.0}, {"price": 2.0}]
    }
    code, _, said = run("models", "try", str(price), "[{}]")
    assert code != 0
    assert 'model.py", line 5' in said
    assert "raised KeyError: 'km'" in said.splitlines()[-1]
    code, _, said = run("models", "try", str(price), '[{"km": -1}]')
    assert code != 0
    assert said == "error: km must be 0 or more\n"
    (price / "model.py").write_text("import nowhere")
    code, _, said = run("models", "try", str(price), "[{}]")
    assert "needs the module 'nowhere' (model.py, line 1)" in said.splitlines()[-1]


def test_show_names_formats_and_parameters(run, price):
    """models show says which inputs are JSON, and which parameters a request may give."""
    run("models", "add", "price", price)
    shown = [" ".join(line.split()) for line in run("models", "show", "price")[1].splitlines()]
    assert "orders BYTES (json) rows no" in shown
    assert "predict BYTES (json) rows yes" in shown
    assert "factor FP64 1.0" in shown


def test_a_user_tests_a_model_without_workers(price):
    """mutirao.testing loads a folder into the test's process, with a client's and a worker's checks and errors."""
    model = mutirao.testing.load_model(price)
    assert model.predict([{"km": 2}], parameters={"factor": 2})["predict"].tolist() == [{"price": 4.0}]
    with pytest.raises(InvalidInput, match="km must be 0 or more"):
        model.predict([{"km": -2}])
    with pytest.raises(ModelFailed, match="raised KeyError: 'km'") as caught:
        model.predict([{}])
    assert 'model.py", line 5' in "".join(caught.value.__notes__)
    with pytest.raises(mutirao.InvalidRequest, match="parameter 'factor' is text 'x'"):
        model.predict([{"km": 1}], parameters={"factor": "x"})
    with pytest.raises(mutirao.InvalidRequest, match="row 0 is not JSON"):
        model.predict([{"km": {1}}])
    with pytest.raises(RepositoryError, match=r"no model\.py"):
        mutirao.testing.load_model(price.parent)
