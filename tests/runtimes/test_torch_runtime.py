"""Programs of torch.export, where torch is installed (`make test-runtimes` sees to that): in this process, and by a worker of two processes."""

import itertools
from typing import Any

import numpy as np
import pytest

from mutirao import errors
from mutirao_worker.models.repository import Repository
from support.redis_servers import RedisServer
from support.worker_process import Fleet, WorkerProcess

torch: Any = pytest.importorskip("torch", exc_type=ImportError)

DATA = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def forward(self, x):
        return torch.softmax(self.layers(x), 1)


class Two(torch.nn.Module):
    def forward(self, a, b):
        return {"sum": a + b, "larger": a > b}


def export(path, module, *inputs, rows=None):
    shapes = tuple({0: rows} for _ in inputs) if rows is not None else None
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes), path)
    return path


def by_itself(module, *inputs):
    with torch.inference_mode():
        return module.eval()(*(torch.from_numpy(each) for each in inputs))


ROWS = torch.export.Dim.AUTO


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
@pytest.mark.parametrize("rows", [ROWS, None], ids=["any", "two"])
def test_a_program_answers_any_number_of_rows(tmp_path, rows, count):
    """A program that was exported for any number of rows, or for two, answers 1 and 1,000 as the module does."""
    repository = Repository(tmp_path / "models")
    info = repository.add("net", export(tmp_path / "net.pt2", Net(), torch.randn(2, 4), rows=rows))
    assert [str(spec) for spec in (*info.signature.inputs, *info.signature.outputs)] == ["x FP32[-1, 4]", "output FP32[-1, 3]"]  # fmt: skip
    found = repository.load("net").predict({"x": DATA[:count]}, info.signature.select_outputs(None))
    assert np.allclose(found["output"], by_itself(Net(), DATA[:count]).numpy(), atol=1e-6)
    assert repository.manifest("net").version.steps[0].tolerance < 1e-6


def test_several_inputs_and_named_outputs(tmp_path):
    """The parameters of forward are the inputs, and the keys of the dict that it returns are the outputs."""
    repository = Repository(tmp_path / "models")
    info = repository.add("two", export(tmp_path / "two.pt2", Two(), torch.randn(2, 4), torch.randn(2, 4), rows=ROWS))
    assert [spec.name for spec in (*info.signature.inputs, *info.signature.outputs)] == ["a", "b", "sum", "larger"]
    found = repository.load("two").predict({"a": DATA, "b": DATA[::-1]}, info.signature.select_outputs(None))
    assert np.array_equal(found["sum"], DATA + DATA[::-1])
    assert np.array_equal(found["larger"], DATA[::-1] < DATA)


@pytest.mark.parametrize(
    ("save", "says"),
    [
        (lambda path: torch.save(Net().state_dict(), path), "is a PyTorch file, of weights or of a module: export the module"),
        (lambda path: torch.jit.trace(Net(), torch.randn(2, 4)).save(path), "is a TorchScript program: export it with torch.export.save"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_other_files_of_torch_are_refused(tmp_path, save, says):
    """Weights alone and TorchScript are named, with what to export instead."""
    save(tmp_path / "m.pt")
    with pytest.raises(errors.RepositoryError, match=says):
        Repository(tmp_path / "models").add("m", tmp_path / "m.pt")


def test_a_worker_answers_in_each_of_its_processes(tmp_path):
    """1,000 rows in requests of mixed sizes, by a worker of two processes, are answered as the module answers them."""
    repository = Repository(tmp_path / "models")
    repository.add("net", export(tmp_path / "net.pt2", Net(), torch.randn(2, 4), rows=ROWS))
    expected = by_itself(Net(), DATA).numpy()
    starts = np.cumsum([0, *np.random.default_rng(1).integers(1, 40, 100)])
    with (
        RedisServer() as server,
        WorkerProcess(server.url, repository.root, concurrency=2) as worker,
        Fleet(server, repository, worker).client() as client,
    ):
        parts = [slice(start, end) for start, end in itertools.pairwise(starts) if start < len(DATA)]
        jobs = [client.submit("net", {"x": DATA[part]}) for part in parts]
        for part, job in zip(parts, jobs, strict=True):
            assert np.allclose(job.result(timeout=60)["output"], expected[part], atol=1e-6)
