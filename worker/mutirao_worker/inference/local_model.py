"""A model in this process, without Redis and workers: what it is asked goes the same way as in a worker."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mutirao.wire import binary_codec, json_elements, messages, signature, tensors
from mutirao.wire.messages import PredictRequest, PredictResult, RequestedOutput
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array
from mutirao_worker.inference import execution
from mutirao_worker.inference.inputs import PackedRequest
from mutirao_worker.inference.outputs import ResultLimits
from mutirao_worker.models import announcement, model_source, steps, trial
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.manifest import Manifest, Version

_NO_OFFLOAD = 2**62


class LocalModel:
    """A loaded model; see `load`.

    Attributes:
        signature: what it takes and gives.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.signature: Signature = loaded.info.signature
        self._loaded = loaded

    def example(self) -> dict[str, Array]:
        """Return the rows of its example, as `predict` takes them; none where it has none."""
        rows = self._loaded.example_inputs()
        documents = self.signature.json_inputs
        return {name: json_elements.decode(array) if name in documents else array for name, array in rows.items()}

    def predict(
        self, data: Any, *, outputs: Sequence[str] | None = None, parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Predict as `Client.predict` does, with the checks of a client and of a worker.

        Raises:
            InvalidRequest: the data do not fit, or the model refuses them: InvalidInput.
            ModelFailed: the model's code raised another exception; its traceback is a note of the error.
        """
        self.signature.select_outputs(outputs)
        self.signature.read_parameters(parameters)
        arrays = signature.validate("model", self.signature, signature.read(data, self.signature))
        inputs = tuple(tensors.encode(name, array, binary=True, nullable=True) for name, array in arrays.items())
        wanted = tuple(RequestedOutput(name) for name in outputs) if outputs else None
        given = {**(parameters or {}), "binary_data_output": True}
        body, _ = binary_codec.encode_body("model", PredictRequest(inputs, wanted, given), {}, _NO_OFFLOAD)
        packed = PackedRequest("local", body, binary_codec.BINARY, base64=False, offloaded=None)
        (result,) = execution.run(lambda _: self._loaded, [packed], ResultLimits(_NO_OFFLOAD)).results
        if result.status != "ok":
            record = messages.JobRecord(status="FAILURE", task_id="local", result=msgspec.Raw(result.result))
            error = record.error()
            if result.traceback:
                error.add_note(result.traceback)
            raise error
        response = binary_codec.unpack_result(msgspec.json.decode(result.result, type=PredictResult), result.payload)
        return {tensor.name: json_elements.decode_output(tensor) for tensor in response.outputs}


def load(folder: str | Path, *, example: Any = None) -> LocalModel:
    """Load a model into this process, and try it as `mutirao models add` does.

    Args:
        folder: a folder with model.py, or a model's file.
        example: as that of `mutirao models add`; None for none.

    Raises:
        RepositoryError: it cannot be served; says why.
    """
    path = Path(folder)
    source = model_source.read([path])
    place = path if path.is_dir() else path.parent
    tried = trial.run(place.resolve(), source.contents, source.steps, source.labels, source.origins, example)
    described = tried.description
    version = Version(
        steps=tried.steps,
        frame=described.frame,
        inputs=described.inputs,
        outputs=described.outputs,
        parameters=described.parameters,
        files={},
    )
    manifest = Manifest(name="model", active="1", versions={"1": version})
    make = functools.partial(steps.load, place.resolve(), source.contents, tried.steps, source.labels)
    loaded = LoadedModel(announcement.model_info(manifest), manifest, make, described.example)
    loaded.load()
    return LocalModel(loaded)
