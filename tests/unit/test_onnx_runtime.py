"""ONNX models: inputs and outputs from the file, whatever number of rows it takes, and how far a batch may change an answer."""

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mutirao import errors
from mutirao_worker.models.repository import Repository

onnx = pytest.importorskip("onnx", exc_type=ImportError)
onnxruntime = pytest.importorskip("onnxruntime", exc_type=ImportError)
skl2onnx = pytest.importorskip("skl2onnx", exc_type=ImportError)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DATA = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
LABELS = np.where(DATA[:, 0] > DATA[:, 1], "sim", "não")
WEIGHTS = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)


def program(nodes, inputs, outputs, **constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def dense(rows="n"):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"], axis=1)]
    floats = TensorProto.FLOAT
    return program(nodes, [("x", floats, [rows, 4])], [("y", floats, [rows, 3])], w=WEIGHTS)


def converted(model, **types):
    return skl2onnx.to_onnx(model, DATA[:1], **types)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "models")


@pytest.fixture
def add(repository, tmp_path):
    def add(model, **options):
        raw = model if isinstance(model, bytes) else model.SerializeToString()
        (tmp_path / "m.onnx").write_bytes(raw)
        return repository.add("m", tmp_path / "m.onnx", **options)

    return add


def answer(repository, inputs):
    loaded = repository.load("m")
    loaded.set_threads(2)
    return loaded.predict(inputs, loaded.info.signature.select_outputs(None))


def by_itself(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs), strict=True))


def test_inputs_and_outputs_are_the_files_own(repository, add):
    """Names, types and sizes come from the file; the answers are onnxruntime's."""
    info = add(dense())
    assert [str(spec) for spec in (*info.signature.inputs, *info.signature.outputs)] == ["x FP32[-1, 4]", "y FP32[-1, 3]"]  # fmt: skip
    assert np.allclose(answer(repository, {"x": DATA})["y"], by_itself(dense(), {"x": DATA})["y"], rtol=1e-6)
    assert repository.manifest("m").version.steps[0].tolerance < 1e-6
    assert repository.verify("m") == []


def test_probabilities_by_label_become_a_matrix(repository, add):
    """The maps that a converted classifier gives are a matrix, a column for each label in their order; its labels are text."""
    forest = RandomForestClassifier(10, random_state=0).fit(DATA, LABELS)
    info = add(converted(forest))
    assert [str(spec) for spec in info.signature.outputs] == ["output_label BYTES[-1]", "output_probability FP32[-1, 2]"]  # fmt: skip
    found = answer(repository, {"X": DATA})
    assert found["output_label"].tolist() == forest.predict(DATA).tolist()
    assert np.allclose(found["output_probability"], forest.predict_proba(DATA), atol=1e-6)


def test_columns_of_one_value_are_a_table(repository, add, tmp_path):
    """A pipeline on a DataFrame has an input for each column, numbers and text: they are columns of a table, named as in the file."""
    frame = pd.DataFrame({"age": DATA[:, 0], "city": np.where(DATA[:, 1] > 0, "recife", "natal")})
    encoder = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["city"])])
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, LABELS)
    types = [("age", skl2onnx.common.data_types.FloatTensorType([None, 1])), ("city", skl2onnx.common.data_types.StringTensorType([None, 1]))]  # fmt: skip
    frame.head().to_csv(tmp_path / "rows.csv", index=False)
    info = add(skl2onnx.convert_sklearn(model, initial_types=types), example=tmp_path / "rows.csv")
    assert (info.signature.frame, [str(spec) for spec in info.signature.inputs]) == (True, ["age FP32[-1]", "city BYTES[-1]"])  # fmt: skip
    inputs = {"age": DATA[:, 0], "city": frame["city"].to_numpy(dtype=object)}
    assert answer(repository, inputs)["output_label"].tolist() == model.predict(frame).tolist()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 50])
def test_a_fixed_number_of_rows(repository, add, count):
    """A file that takes 8 rows at once answers any number, in pieces of which the last is filled up."""
    info = add(dense(rows=8))
    assert str(info.signature.inputs[0]) == "x FP32[-1, 4]"
    found = answer(repository, {"x": DATA[:count]})["y"]
    assert np.allclose(found, by_itself(dense(), {"x": DATA[:count]})["y"], rtol=1e-5)


def test_a_scaler_before_it(repository, tmp_path):
    """A scaler in a pickle comes first; what it gives is cast to the type that the file takes."""
    scaler = StandardScaler().fit(DATA * 3)
    joblib.dump(scaler, tmp_path / "scaler.pkl")
    (tmp_path / "m.onnx").write_bytes(dense().SerializeToString())
    info = repository.add("m", tmp_path / "scaler.pkl", tmp_path / "m.onnx")
    assert info.runtime == "sklearn + onnx"
    expected = by_itself(dense(), {"x": scaler.transform(DATA).astype(np.float32)})["y"]
    assert np.allclose(answer(repository, {"X": DATA})["y"], expected, rtol=1e-6)


def test_weights_in_a_file_of_their_own(repository, tmp_path):
    """Weights that lie next to the model are stored with it; where they are not there, the error says what is missing."""
    weights = np.random.default_rng(2).standard_normal((4, 600)).astype(np.float32)
    floats = TensorProto.FLOAT
    model = program([helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", floats, ["n", 4])], [("y", floats, ["n", 600])], w=weights)  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    repository.add("m", path)
    assert sorted(repository.manifest("m").version.files) == ["example.json", "model.onnx", "net.onnx.data"]
    assert np.allclose(answer(repository, {"x": DATA})["y"], DATA @ weights, rtol=1e-4, atol=1e-5)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(
        errors.RepositoryError,
        match=r"its weights are in a file of their own, which is not here: put it next to the model",
    ):
        repository.add("other", path)


def test_rows_that_change_each_other_are_not_batched(repository, add):
    """A program that takes the mean of its batch gives a row another answer beside others: its requests are predicted one by one."""
    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    add(program(nodes, [("x", floats, ["n", 4])], [("y", floats, ["n", 4])]))
    manifest = repository.manifest("m")
    assert (manifest.max_batch_rows, manifest.version.steps[0].tolerance) == (1, 0.0)


SCALAR = program([helper.make_node("Mul", ["x", "s"], ["y"])], [("x", TensorProto.FLOAT, ["n", 4]), ("s", TensorProto.FLOAT, [])], [("y", TensorProto.FLOAT, ["n", 4])])  # fmt: skip
OPEN = program([helper.make_node("Identity", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["n", "length"])], [("y", TensorProto.FLOAT, ["n", "length"])])  # fmt: skip
SUM = program([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.FLOAT, [])])  # fmt: skip
UNEVEN = program([helper.make_node("MatMul", ["x", "z"], ["y"])], [("x", TensorProto.FLOAT, [2, 4]), ("z", TensorProto.FLOAT, [4, 2])], [("y", TensorProto.FLOAT, [2, 2])])  # fmt: skip


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (SCALAR, r"its input 's' has no rows: .* mutirao models init NAME"),
        (OPEN, r"its input x FP32\[-1, -1\] has sizes that it leaves open \(-1\), .* --example rows.json"),
        (SUM, r"its output 'y' has the shape \[\] for \d+ rows: each row must have its own answer"),
        (UNEVEN, r"its inputs have no common number of rows \(x \[2, 4\], z \[4, 2\]\)"),
        (dense().SerializeToString()[:-30], r"m.onnx does not load: it is damaged, or of a version that onnxruntime \S+ does not read"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(add, repository, model, says):
    """A program without rows, sizes or an answer for each row is refused with what to do; so is a damaged file."""
    with pytest.raises(errors.RepositoryError, match=says):
        add(model)
    assert repository.names() == ()


def test_open_sizes_are_known_by_an_example(repository, add):
    """A size that the file leaves open may differ from request to request."""
    info = add(OPEN, example=DATA[:2])
    assert str(info.signature.outputs[0]) == "y FP32[-1, -1]"
    assert answer(repository, {"x": DATA[:, :3]})["y"].shape == (50, 3)
