"""Models of own code: what their annotations say, what they are given, what they may return, and that two of them never meet."""

import sys
import textwrap
import types
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mutirao import errors
from mutirao.wire import binary_codec, json_elements, signature
from mutirao.wire.messages import PredictRequest, PredictResult
from mutirao_worker.inference import execution
from mutirao_worker.inference.execution import PackedRequest, ResultLimits
from mutirao_worker.models.repository import Repository
from mutirao_worker.models.runtimes.python import requirements
from support.pool_requests import error_of

TEXTS = """
    class Model:
        def predict(self, texts: list[str]) -> list[str]:
            return [text.upper() for text in texts]
"""


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


@pytest.fixture
def add(tmp_path, repository):
    """Add a model of files by their names and texts."""

    def add(code, example=None, name="own", **files):
        folder = tmp_path / name
        for key, content in {"model": code, **files}.items():
            path = key if "." in key else f"{key}.py"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            raw = content if isinstance(content, bytes) else textwrap.dedent(content).encode()
            (folder / path).write_bytes(raw)
        return repository.add(name, folder, example=example)

    return add


@pytest.fixture
def ask(repository):
    """Run requests of one batch, each with data, parameters and outputs, as a pool process does; return their results."""

    def ask(*requests, name="own", sizes: list[int] | None = None):
        loaded = repository.load(name)
        loaded.load()
        if sizes is not None:
            predict = loaded.predict

            def counted(inputs, *rest):
                sizes.append(signature.rows(inputs))
                return predict(inputs, *rest)

            loaded.predict = counted  # type: ignore[method-assign]
        packed = []
        for data, parameters in requests:
            takes = loaded.info.signature
            arrays = signature.validate(name, takes, signature.read(data, takes))
            inputs = tuple(json_tensor(each, array) for each, array in arrays.items())
            request = PredictRequest(inputs=inputs, parameters={**parameters, "binary_data_output": True})
            body, beside = binary_codec.encode_body(name, request, {}, 1 << 20)
            packed.append(PackedRequest("job", body, binary_codec.BINARY, False, beside))
        return execution.run(lambda _: loaded, packed, ResultLimits(1 << 20)).results

    return ask


def json_tensor(name, array):
    from mutirao.wire import tensors

    return tensors.encode(name, array, binary=True, nullable=True)


def outputs(result):
    assert result.status == "ok", result
    import msgspec

    unpacked = binary_codec.unpack_result(msgspec.json.decode(result.result, type=PredictResult), result.payload)
    return {tensor.name: json_elements.decode_output(tensor).tolist() for tensor in unpacked.outputs}


def kinds(specs):
    return [(spec.name, spec.datatype, list(spec.shape), spec.format) for spec in specs]


CASES: dict[str, tuple[str, Any, list[Any], list[Any], Any, Any]] = {
    "texts": (
        "def predict(self, texts: list[str]): return [t.upper() for t in texts]",
        None,
        [("texts", "BYTES", [-1], "")],
        [("predict", "BYTES", [-1], "")],
        ["a", "São"],
        {"predict": ["A", "SÃO"]},
    ),
    "bytes": (
        "def predict(self, audio: list[bytes]) -> list[bytes]:\n  assert all(type(a) is bytes for a in audio)\n  return [a[::-1] for a in audio]",
        [b"\xff\x00", b"ab"],
        [("audio", "BYTES", [-1], "binary")],
        [("predict", "BYTES", [-1], "binary")],
        [b"RIFF", b"\xff\xfe"],
        {"predict": [b"FFIR", b"\xfe\xff"]},
    ),
    "numbers": (
        "def predict(self, a: list[int], b: list[float], c: list[bool]): return {'sum': [x + y for x, y in zip(a, b)], 'c': c}",
        None,
        [("a", "INT64", [-1], ""), ("b", "FP64", [-1], ""), ("c", "BOOL", [-1], "")],
        [("sum", "FP64", [-1], ""), ("c", "BOOL", [-1], "")],
        {"a": [1, 2], "b": [0.5, 1], "c": [True, False]},
        {"sum": [1.5, 3.0], "c": [True, False]},
    ),
    "objects": (
        "def predict(self, orders: list[dict]) -> list[dict]: return [{**o, 'n': len(o)} for o in orders]",
        None,
        [("orders", "BYTES", [-1], "json")],
        [("predict", "BYTES", [-1], "json")],
        [{"a": 1}, {}],
        {"predict": [{"a": 1, "n": 1}, {"n": 0}]},
    ),
    "ragged lists": (
        "def predict(self, tokens: list[list[int]]): return [sum(t) for t in tokens]",
        [[1, 2], [3]],
        [("tokens", "BYTES", [-1], "json")],
        [("predict", "INT64", [-1], "")],
        [[1, 2, 3], []],
        {"predict": [6, 0]},
    ),
    "objects guessed": (
        "def predict(self, things: list[Any]): return [{'is': x} for x in things]",
        [1, "a"],
        [("things", "BYTES", [-1], "json")],
        [("predict", "BYTES", [-1], "json")],
        [None, [1]],
        {"predict": [{"is": None}, {"is": [1]}]},
    ),
    "an array": (
        "def predict(self, x: np.ndarray): return x.sum(axis=1)".replace(", \n def _(self): pass", ""),
        [[1.5, 2.0], [3.0, 4.0]],
        [("x", "FP64", [-1, 2], "")],
        [("predict", "FP64", [-1], "")],
        [[1, 2], [3, 4]],
        {"predict": [3.0, 7.0]},
    ),
    "an array without an example": (
        "def predict(self, x: npt.NDArray[np.float32]): return {'x': x * 2, 'max': x.max(axis=1)}",
        None,
        [("x", "FP32", [-1, -1], "")],
        [("x", "FP32", [-1, 2], ""), ("max", "FP32", [-1], "")],
        [[1, 2], [3, 4]],
        {"x": [[2.0, 4.0], [6.0, 8.0]], "max": [2.0, 4.0]},
    ),
    "a DataFrame": (
        "def predict(self, frame: pd.DataFrame): return frame.assign(total=frame['km'] * 2)[['total', 'city']]",
        pd.DataFrame({"city": ["a", "b"], "km": [1.5, 2.5]}),
        [("city", "BYTES", [-1], ""), ("km", "FP64", [-1], "")],
        [("total", "FP64", [-1], ""), ("city", "BYTES", [-1], "")],
        {"km": [1.0, 2.0], "city": ["x", "y"]},
        {"total": [2.0, 4.0], "city": ["x", "y"]},
    ),
    "one text": (
        "def predict(self, text: str) -> int: return len(text)",
        None,
        [("text", "BYTES", [-1], "")],
        [("predict", "INT64", [-1], "")],
        ["abc", ""],
        {"predict": [3, 0]},
    ),
    "one image": (
        "def predict(self, image: bytes): return [len(image), image[0]]",
        [b"\x89PNG"],
        [("image", "BYTES", [-1], "binary")],
        [("predict", "INT64", [-1, 2], "")],
        [b"a", b"\xff\xff"],
        {"predict": [[1, 97], [2, 255]]},
    ),
    "one object": (
        "def predict(self, order: dict) -> dict: return {'keys': sorted(order)}",
        None,
        [("order", "BYTES", [-1], "json")],
        [("predict", "BYTES", [-1], "json")],
        [{"b": 1, "a": 2}],
        {"predict": [{"keys": ["a", "b"]}]},
    ),
    "one list, as the class says": (
        "batch = False\n def predict(self, tokens: list[str]) -> float: return len(tokens) / 2",
        None,
        [("tokens", "BYTES", [-1], "json")],
        [("predict", "FP64", [-1], "")],
        [["a", "b"], ["c"]],
        {"predict": [1.0, 0.5]},
    ),
    "texts that may be missing": (
        "def predict(self, texts: list[str | None], n: list[int | None]): return [t is None or i is None for t, i in zip(texts, n)]",
        None,
        [("texts", "BYTES", [-1], ""), ("n", "INT64", [-1], "")],
        [("predict", "BOOL", [-1], "")],
        {"texts": ["a", None, "b"], "n": [1, 2, None]},
        {"predict": [False, True, True]},
    ),
}
HEAD = "from typing import Any\nimport numpy as np\nimport numpy.typing as npt\nimport pandas as pd\nclass Model:\n "


@pytest.mark.parametrize("case", CASES)
def test_annotations_say_what_is_taken_and_given(add, ask, case):
    """Inputs, outputs and values, from annotations, an example or a trial; two requests of a batch get each its own rows."""
    code, example, inputs, given, data, expected = CASES[case]
    info = add(HEAD + code, example)
    assert kinds(info.signature.inputs) == inputs
    assert kinds(info.signature.outputs) == given
    results = ask((data, {}), (data, {}))
    assert [outputs(result) for result in results] == [expected, expected]


PARAMETERS = """
    class Model:
        calls = []
        def predict(self, numbers: list[float], *, threshold: float = 0.5, label: str = "yes", n: int = 1, on: bool = True):
            return [f"{label} {len(numbers)}" if number > threshold and on else "no" for number in numbers for _ in range(n)]
"""


def test_parameters_divide_a_batch(add, ask):
    """Requests with the same parameters share a call, those with others do not, and defaults are filled in."""
    info = add(PARAMETERS)
    assert [(spec.name, spec.datatype, spec.default) for spec in info.signature.parameters] == [
        ("threshold", "FP64", 0.5), ("label", "BYTES", "yes"), ("n", "INT64", 1), ("on", "BOOL", True),
    ]  # fmt: skip
    sizes: list[int] = []
    requests = [([1.0], {}), ([0.7], {"threshold": 0.6}), ([0.7, 0.1], {"threshold": 0.5}), ([9.0], {"on": False})]
    results = ask(*requests, sizes=sizes)
    assert [outputs(result)["predict"] for result in results] == [["yes 3"], ["yes 1"], ["yes 3", "no"], ["no"]]
    assert sorted(sizes) == [1, 1, 3]
    (wrong,) = ask(([1.0], {"threshold": "high"}))
    assert "parameter 'threshold' is text 'high': it must be a number" in str(error_of(wrong))


REFUSING = """
    from mutirao import InvalidInput
    class Model:
        calls = 0
        def predict(self, numbers: list[int]):
            if 13 in numbers:
                raise InvalidInput("13 brings bad luck")
            if 0 in numbers:
                1 / 0
            return [InvalidInput(f"{n} is too large") if n > 99 else n * 2 for n in numbers]
"""


def test_the_model_refuses_rows_with_its_own_words(add, ask):
    """A raised InvalidInput refuses the guilty request alone; one in the list does so without another call; others are failures."""
    add(REFUSING)
    sizes: list[int] = []
    refused, *good = ask(([1, 100], {}), ([2], {}), ([3], {}), sizes=sizes)
    error = error_of(refused)
    assert (type(error), str(error), errors.InvalidInput.status) == (errors.InvalidInput, "100 is too large", 400)
    assert [outputs(result)["predict"] for result in good] == [[4], [6]]
    assert sizes == [4]
    first, guilty, failed = ask(([1], {}), ([13], {}), ([0], {}))
    assert outputs(first)["predict"] == [2]
    assert (type(error_of(guilty)), str(error_of(guilty))) == (errors.InvalidInput, "13 brings bad luck")
    assert type(error_of(failed)) is errors.ModelFailed
    (alone,) = ask(([500, 600], {}))
    assert str(error_of(alone)) == "500 is too large"


def test_a_model_of_single_requests_refuses_one(add, ask):
    """predict is called for each row, and one that it refuses costs no other request a second call."""
    add("""
        from mutirao import InvalidInput
        class Model:
            batch = False
            calls = 0
            def predict(self, text: str) -> str:
                Model.calls += 1
                if not text:
                    raise InvalidInput("the text is empty")
                return f"{text} {Model.calls}"
    """)
    results = ask((["a"], {}), ([""], {}), (["c"], {}))
    assert str(error_of(results[1])) == "the text is empty"
    calls = [outputs(results[at])["predict"][0].split() for at in (0, 2)]
    assert calls == [["a", "1"], ["c", "2"]]


def test_code_of_two_models_does_not_meet(add, ask, repository):
    """Both have utils.py and a package; imports inside predict, `import model`, and pickles of own classes find their own."""
    for name in ("one", "two"):
        add(
            """
            import pickle
            import utils
            from parts.words import word
            class Model:
                def load(self, folder):
                    self.thing = pickle.loads(pickle.dumps(utils.Thing()))
                def predict(self, texts: list[str]) -> list[str]:
                    import lazily
                    import importlib
                    import model
                    from parts import words
                    assert model.Model is type(self) and importlib.import_module("utils") is utils and words.word is word
                    copy = pickle.loads(pickle.dumps(self.thing))
                    return [f"{text} {word()} {lazily.NAME} {type(copy).__module__} {copy.name}" for text in texts]
            """,
            name=name,
            utils=f"class Thing:\n    name = 'thing of {name}'\n",
            lazily=f"NAME = 'lazy {name}'\n",
            **{"parts/__init__.py": ""},
            **{
                "parts/words.py": "from .deep import word\n",
                "parts/deep.py": f"def word(): return 'word of {name}'\n",
            },
        )
    before = {key for key in sys.modules if key.partition(".")[0] in {"model", "utils", "lazily", "parts"}}
    for name in ("one", "two", "one"):
        (result,) = ask((["hi"], {}), name=name)
        assert outputs(result)["predict"] == [f"hi word of {name} lazy {name} utils thing of {name}"]
    assert {key for key in sys.modules if key.partition(".")[0] in {"model", "utils", "lazily", "parts"}} == before
    assert not list(repository.root.rglob("*.pyc"))


def test_a_file_that_was_not_added_is_never_imported(add, ask, repository):
    """What is dropped into a version's folder later is no module of it, in a package neither."""
    add(
        """
        class Model:
            def predict(self, texts: list[str]) -> list[str]:
                found = []
                for name in ("dropped", "parts.dropped"):
                    try:
                        __import__(name)
                    except ModuleNotFoundError as exc:
                        found.append(str(exc))
                return found * len(texts)
        """,
        **{"parts/__init__.py": ""},
    )
    for place in ("dropped.py", "parts/dropped.py"):
        (repository.root / "own" / "1" / place).write_text("raise SystemExit('imported')")
    (result,) = ask((["a", "b"], {}))
    assert result.status == "failed"
    assert "returned 4 rows" in str(error_of(result))


def test_a_changed_module_is_not_run(add, repository):
    """The digest of each file is checked before any is imported."""
    add(TEXTS, utils="")
    (repository.root / "own" / "1" / "utils.py").write_text("raise SystemExit")
    with pytest.raises(errors.DigestMismatch, match=r"utils\.py is not the file that was added"):
        repository.load("own")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class Other: pass", "model.py has no class Model with a method predict"),
        ("class Model: pass", "model.py has no class Model with a method predict"),
        ("import nowhere_at_all", r"needs the module 'nowhere_at_all' \(model.py, line 1\)"),
        ("def broken(:", "raised SyntaxError"),
        ("1 / 0", r"raised ZeroDivisionError: division by zero \(model.py, line 1\)"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3"),
        (HEAD + "def predict(self, texts): return texts", "the parameter 'texts' of predict has no annotation: write"),
        (HEAD + "def predict(self, *texts: str): return texts", r"predict takes \*texts: name each input"),
        (HEAD + "def predict(self): return []", "predict takes no input"),
        (HEAD + "def predict(self, texts: set): return []", None),
        (HEAD + "def predict(self, x: complex): return []", "the parameter 'x' of predict is <class 'complex'>"),
        (HEAD + "def predict(self, x: 'Nothing'): return []", "the annotations of predict cannot be read: NameError"),
        (HEAD + "def predict(self, t: str, x: list[str]): return []", "takes a single value and a list"),
        (HEAD + "def predict(self, t: list[str], *, n): return t", "the parameter 'n' of predict has no default"),
        (HEAD + "def predict(self, t: list[str], *, n: dict = {}): return t", "a request can give bool, int, float or str"),
        (HEAD + "def predict(self, t: list[str], *, timeout: int = 3): return t", "a name of the protocol's own"),
        (HEAD + "def predict(self, t: list[str]): return 'one'", "returned a str for 'predict': return an array, a list"),
        (HEAD + "def predict(self, t: list[str]): return t[:1]", "returned 1 elements of 'predict' for 2 rows"),
        (HEAD + "def predict(self, t: list[str]): return [object() for _ in t]", "it holds a object, which JSON lacks"),
        (HEAD + "def predict(self, t: list[str]): raise KeyError(t[0])", r"raised KeyError: 'example' \(model.py, line 6\), with rows that were made up"),
        (HEAD + "def predict(self, t: list[bytes]): return t", "cannot be known without an example: give --example"),
        (HEAD + "def predict(self, f: pd.DataFrame): return f", "cannot be known without an example: give --example"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_why(add, repository, code, says):
    """Each mistake in a model.py is named with its place and what to write; nothing is added."""
    if says is None:
        return
    with pytest.raises(errors.RepositoryError, match=says):
        add(code)
    assert repository.names() == ()


def test_a_folder_without_model_py_and_links_out_are_refused(tmp_path, repository):
    """A folder that is no model, one with a link out of it, and one with other files beside are named with the remedy."""
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(errors.RepositoryError, match=r"own is a folder that has no model\.py"):
        repository.add("own", folder)
    (folder / "model.py").write_text(textwrap.dedent(TEXTS))
    (folder / "data.txt").symlink_to("/etc/hostname")
    with pytest.raises(errors.RepositoryError, match=r"data\.txt is a link: copy what it points to into the folder"):
        repository.add("own", folder)
    (folder / "data.txt").unlink()
    with pytest.raises(errors.RepositoryError, match="stands alone"):
        repository.add("own", folder, folder / "model.py")
    (folder / "random.py").write_text("")
    with pytest.raises(errors.RepositoryError, match=r"random\.py hides a module of Python itself"):
        repository.add("own", folder)


def test_caches_and_hidden_files_are_left_out(tmp_path, repository):
    """Only what the model needs is stored: no caches, no hidden files, no virtual environment."""
    folder = tmp_path / "own"
    for name in (
        "model.py",
        "data/words.txt",
        "__pycache__/model.pyc",
        ".git/config",
        ".venv/x.py",
        "env/pyvenv.cfg",
        "env/y.py",
        ".env",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(TEXTS) if name == "model.py" else "")
    repository.add("own", folder)
    assert set(repository.manifest("own").version.files) == {"model.py", "data/words.txt", "example.json"}


def test_examples_of_files(tmp_path, repository):
    """An example is the file that a person has: an image, a folder of them, texts, JSON lines, a CSV with the columns."""
    image, texts, lines, table = (tmp_path / name for name in ("a.png", "t.txt", "o.jsonl", "t.csv"))
    image.write_bytes(b"\x89PNG\xff")
    texts.write_text("foi bom\n\nnão foi\n")
    lines.write_text('{"a": 1}\n{"b": [2]}\n')
    table.write_text("text,n\nfoi,1\nbom,2\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    for at in range(3):
        (folder / f"{at}.png").write_bytes(bytes([255, at]))
    for name, hint, example, rows in (
        ("image", "bytes", image, [b"\x89PNG\xff"]),
        ("images", "list[bytes]", folder, [b"\xff\x00", b"\xff\x01", b"\xff\x02"]),
        ("texts", "list[str]", texts, ["foi bom", "não foi"]),
        ("orders", "list[dict]", lines, ['{"a":1}', '{"b":[2]}']),
    ):
        own = tmp_path / name
        own.mkdir(exist_ok=True)
        (own / "model.py").write_text(
            HEAD + f"def predict(self, v: {hint}): return [1 for _ in v] if {hint.startswith('list')} else 1"
        )
        repository.add(name, own, example=str(example))
        assert repository.load(name).example_inputs()["v"].tolist() == rows
    own = tmp_path / "two"
    own.mkdir()
    (own / "model.py").write_text(HEAD + "def predict(self, text: list[str], n: list[int]): return n")
    repository.add("two", own, example=table)
    assert {key: value.tolist() for key, value in repository.load("two").example_inputs().items()} == {
        "text": ["foi", "bom"],
        "n": [1, 2],
    }


def test_requirements_are_compared(add, repository):
    """A package in another version is a note, a missing one an error with its name; options and comments do not count."""
    found = requirements.compare(
        b"# c\n-r other.txt\nnumpy<1 # old\nmsgspec\nNowhere-At-All>=2\nwin; sys_platform == 'win32'\n?? x\n"
    )
    assert found.missing == ("Nowhere-At-All>=2",)
    assert found.other == (f"numpy {np.__version__} is installed, requirements.txt says <1",)
    with pytest.raises(
        errors.RepositoryError, match=r"names what is not installed: nowhere==1: install it where the workers run"
    ):
        add(TEXTS, **{"requirements.txt": "nowhere==1\n"})
    info = add(TEXTS, **{"requirements.txt": "numpy<1\n"})
    assert info.state == "ready"
    assert "requirements.txt says <1" in info.reason
    assert "requirements.txt says <1" in repository.load("own").info.reason


@pytest.mark.parametrize(
    ("code", "before"),
    [
        (TEXTS, True),
        (TEXTS.replace("class Model:", "class Model:\n        before_fork = False"), False),
        (
            TEXTS.replace(
                "class Model:",
                "class Model:\n        def load(self, folder):\n            import threading\n"
                "            self.stop = threading.Event()\n            threading.Thread(target=self.stop.wait, daemon=True).start()\n",
            ),
            False,
        ),
        (
            "import sys, types\nsys.modules.setdefault('torch', types.ModuleType('torch'))\n" + textwrap.dedent(TEXTS),
            False,
        ),
        ("import torch\n" + textwrap.dedent(TEXTS), False),
    ],
    ids=["plain", "said", "threads", "torch", "torch again"],
)
def test_what_does_not_survive_a_fork_is_loaded_after_it(add, repository, monkeypatch, code, before):
    """A model whose load starts threads or imports torch, or that says so itself, is loaded by each process."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    if code.startswith("import torch"):  # as another model has left it
        monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    add(code)
    sys.modules.pop("torch", None)
    assert repository.manifest("own").version.steps[0].before_fork is before
    assert repository.manifest("own").version.steps[0].batch is True
