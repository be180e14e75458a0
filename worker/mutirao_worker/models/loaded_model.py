"""A model as a worker serves it: verified, and loaded in its parent or in each of its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mutirao.registry import ModelInfo
from mutirao.wire import date_elements, signature
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.manifest import Manifest
from mutirao_worker.models.runtimes import example_request
from mutirao_worker.models.runtimes.predictor import Predictor


class LoadedModel:
    """A verified version of a model.

    Attributes:
        info: what the worker announces of it.
        manifest: its limits and its signature.
    """

    def __init__(self, info: ModelInfo, manifest: Manifest, make: Callable[[], Predictor], example: bytes) -> None:
        self.info = info
        self.manifest = manifest
        self._make: Callable[[], Predictor] | None = make
        self._dates = info.signature.date_inputs if info.signature else set()
        self._predictor: Predictor | None = None
        self._example = example

    def load(self) -> None:
        """Load it into this process, if it is not yet: the parent of a worker does so for its processes where the runtime allows that."""
        if self._make is not None:
            self._predictor = self._make()
            self._make = None  # it holds the bytes of the files

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        parameters: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """Compute outputs for inputs that `signature.validate` has checked; what the model raises is passed on.

        Args:
            inputs: arrays of as many rows, by name.
            outputs: those that are asked for.
            parameters: the value of each parameter that the model takes; None for the defaults.
        """
        takes = self.info.signature
        given = takes.read_parameters(None) if parameters is None else parameters
        if self._dates:
            inputs = {
                name: date_elements.decode(array) if name in self._dates else array for name, array in inputs.items()
            }
        return self._loaded.predict(inputs, outputs, frame=takes.frame, parameters=given)

    def warm_up(self) -> None:
        """Predict the example once, so that the first request does not pay for lazy imports and cold pages, and check the outputs.

        Raises:
            RepositoryError: it does not load in this process.
            InvalidOutput: the outputs cannot be right.
        """
        predictor = self._loaded
        if inputs := self.example_inputs():
            predictor.check_outputs(self.predict(inputs, self.info.signature.select_outputs(None)))

    def example_inputs(self) -> dict[str, Array]:
        """Return the rows of the example; none where there is no example.

        Raises:
            SignatureMismatch, InvalidTensor: they do not fit the inputs.
        """
        if not self._example:
            return {}
        request = example_request.decode(self._example)
        return signature.decode_request(self.info.name, self.info.signature, request)

    def set_threads(self, threads: int) -> None:
        """Cap the threads that the model itself starts; its native libraries are capped elsewhere."""
        self._loaded.set_threads(threads)

    @property
    def _loaded(self) -> Predictor:
        self.load()
        assert self._predictor is not None
        return self._predictor
