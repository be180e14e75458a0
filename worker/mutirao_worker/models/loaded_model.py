"""A model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mutirao.registry import ModelInfo
from mutirao.wire import signature
from mutirao.wire.messages import PredictRequest
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.manifest import Manifest
from mutirao_worker.models.runtimes import Runtime


class LoadedModel:
    """A verified, loaded version of a model.

    Attributes:
        info: what the worker announces of it.
        manifest: its limits and its signature.
    """

    def __init__(self, info: ModelInfo, manifest: Manifest, runtime: Runtime, model: Any, example: bytes) -> None:
        self.info = info
        self.manifest = manifest
        self._runtime = runtime
        self._model = model
        self._example = example

    def predict(self, inputs: Mapping[str, Array], outputs: tuple[OutputSpec, ...]) -> dict[str, Array]:
        """Compute outputs for inputs that `signature.bind` has checked; what the model raises is passed on."""
        return self._runtime.predict(self._model, inputs, outputs, frame=self.info.signature.frame)

    def warm_up(self) -> None:
        """Predict the example once, so that the first request does not pay for lazy imports and cold pages, and check the outputs.

        Raises:
            InvalidOutput: the outputs cannot be right.
        """
        if not self._example:
            return
        request = msgspec.json.decode(self._example, type=PredictRequest)
        inputs = signature.decode_request(self.info.name, self.info.signature, request)
        self._runtime.check_outputs(self._model, self.predict(inputs, self.info.signature.select_outputs(None)))

    def set_threads(self, threads: int) -> None:
        """Cap the threads that the model itself starts; its native libraries are capped elsewhere."""
        self._runtime.set_threads(self._model, threads)
