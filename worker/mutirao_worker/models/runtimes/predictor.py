"""What every kind of model offers the worker: a class for the kind, an object for a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec

from mutirao import errors
from mutirao.wire import signature
from mutirao.wire.signature import InputSpec, OutputSpec, ParameterSpec, Signature
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import example_request


class RowsRefused(Exception):
    """A model refused some of its rows, and predicted the others.

    Attributes:
        refused: the error of each row that it refused.
        outputs: the outputs of all rows; what stands in refused ones means nothing.
    """

    def __init__(self, refused: Mapping[int, errors.InvalidInput], outputs: dict[str, Array]) -> None:
        super().__init__(str(next(iter(refused.values()))))
        self.refused = refused
        self.outputs = outputs


NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})


class ModelFiles(msgspec.Struct, frozen=True):
    """The files of a version, whose digests have been checked, and what a step of it says about them.

    Attributes:
        folder: where they lie.
        contents: their bytes, by name relative to the folder.
        file: the one that the step names; "" where it takes the whole folder.
        pick: the key or the place of the model within what the file holds; "" for all of it.
        trust: the types that the operator allows a skops file to hold.
        unpickled: what files hold that were unpickled for another step of the version, by name.
        origins: where files came from, for errors, by name; the others are named by where they lie.
    """

    folder: Path
    contents: Mapping[str, bytes]
    file: str = ""
    pick: str = ""
    trust: tuple[str, ...] = ()
    unpickled: dict[str, Any] = {}
    origins: Mapping[str, str] = {}

    @property
    def path(self) -> str:
        """The path of the step's file, or folder, for errors."""
        return self.origins.get(self.file) or str(self.folder / self.file)

    @property
    def raw(self) -> bytes:
        """The bytes of the step's file."""
        return self.contents[self.file]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives, found by a trial when it was added.

    Attributes:
        inputs: what it takes.
        outputs: what it gives.
        frame: the inputs are the columns of one DataFrame.
        example: a V2 request in JSON, of a few rows that it has predicted.
        labelled: the output whose numbers its labels name; "" for none.
        parameters: what a request may give beside its inputs.
        by_row: its answer to a row does not depend on the other rows; where it does, requests are predicted one by one.
        tolerance: by how much a row's answer in a batch differed from the one that it gets alone, of the larger of 1 and the answer; 0.0
            where no bit did, or where that is the library's own promise.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    frame: bool = False
    example: bytes = b""
    labelled: str = ""
    parameters: tuple[ParameterSpec, ...] = ()
    by_row: bool = True
    tolerance: float = 0.0

    def rows(self) -> dict[str, Array]:
        """Decode the example, into arrays as `Predictor.predict` takes them."""
        expected = Signature(inputs=self.inputs, outputs=self.outputs, frame=self.frame)
        return signature.decode_request("", expected, example_request.decode(self.example))


def picked(content: Any, pick: str) -> Any:
    """Return what a dict, a list or a tuple holds under a key or at a place.

    Args:
        content: what a file holds.
        pick: the key or the place; "" for all of it.

    Raises:
        RepositoryError: it holds nothing there.
    """
    if not pick:
        return content
    try:
        return content[pick] if isinstance(content, Mapping) else content[int(pick)]
    except (LookupError, TypeError, ValueError):
        keys = (
            content
            if isinstance(content, Mapping)
            else range(len(content))
            if isinstance(content, list | tuple)
            else ()
        )
        has = f"it has {', '.join(map(repr, keys))}" if keys else f"it holds a {type(content).__name__}"
        raise errors.RepositoryError(f"there is no {pick!r} in it: {has}") from None


class Predictor:
    """A loaded model. A runtime is a subclass, of which a worker makes one object for each version that it serves.

    Attributes:
        library: the distribution that loads it, which the manifest names with its version.
        before_fork: a worker's parent may load it and its processes share the pages. False where threads or a device come with it:
            each process then loads its own.
        saved_with: the library and its version that saved the files, as far as they show it; "" where that is the installed one.
    """

    library: ClassVar[str]
    before_fork: ClassVar[bool] = True
    saved_with: str = ""

    @classmethod
    def load(cls, files: ModelFiles) -> Predictor:
        """Load a model.

        Raises:
            RepositoryError: the files are not what this runtime loads; any other exception says that they are damaged.
        """
        raise NotImplementedError

    def describe(self, example: Any) -> Description:
        """Return what the model takes and gives, by a trial run.

        Args:
            example: see `example_rows.read_example`; None for none.

        Raises:
            RepositoryError: it cannot be known, or the model does not predict.
        """
        raise NotImplementedError

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        *,
        frame: bool,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
    ) -> dict[str, Array]:
        """Compute outputs.

        Args:
            inputs: arrays of as many rows, by the names and with the dtypes of the version's inputs; one matrix, X, where the model
                follows steps that transform.
            outputs: those that are asked for.
            frame: the inputs are columns of one DataFrame.
            parameters: what a request gave of the parameters that the manifest allows.

        Returns:
            The outputs by name; the rows of each are those of the inputs, in their order.

        Raises:
            RowsRefused: the model refused some rows; InvalidInput for all. Any other exception is the model's failure.
        """
        raise NotImplementedError

    def learned(self) -> dict[str, Any]:
        """Return what the manifest's step is to remember of it, once it was tried: fields of `Step`."""
        return {}

    def check_outputs(self, outputs: Mapping[str, Array]) -> None:
        """Check the default outputs of the example.

        Raises:
            InvalidOutput: they cannot be right.
        """

    def set_threads(self, threads: int) -> None:
        """Cap the threads that the model itself starts; those of OpenMP and BLAS are capped elsewhere."""
