"""What a model's manifest says: its settings, which a person may edit, and its versions."""

from __future__ import annotations

import msgspec

from mutirao.wire.signature import InputSpec, OutputSpec, ParameterSpec, Signature

# Of model.toml. 1 had one file and one runtime for all versions.
FORMAT = 2


class BatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A model's limits for batches.

    Attributes:
        max_rows: the most rows of one batch.
        max_bytes: the most bytes of one batch, as its requests came.
        max_wait_s: how long the first of a batch may wait for others while a slot is free.
        latency_s: what a batch may take by the fitted times; 0 for no such target.
    """

    max_rows: int = 512
    max_bytes: int = 8 * 1024 * 1024
    max_wait_s: float = 0.0
    latency_s: float = 0.0


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One of the models that a version is made of: each transforms, the last predicts.

    Attributes:
        runtime: the kind of model, which decides what loads it: sklearn, onnx, ...
        file: the file that the runtime loads; "" for the version's whole folder.
        pick: the key or the place of the model within what the file holds; "" for all of it.
        trust: the types that the operator allows a skops file to hold.
        saved_with: the library and its version that wrote the file.
        tolerance: see `Description.tolerance`.
        before_fork: a worker's parent may load it; see `Predictor.before_fork`.
        batch: it predicts many rows at once, and not each by itself.
    """

    runtime: str
    file: str = ""
    pick: str = ""
    trust: tuple[str, ...] = ()
    saved_with: str = ""
    tolerance: float = 0.0
    before_fork: bool = True
    batch: bool = True


class LabelFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Names for predicted numbers.

    Attributes:
        file: what holds them: a fitted encoder, or a list or dict of names.
        pick: their key or place within what the file holds; "" for all of it.
        output: the output whose numbers they name.
    """

    file: str
    pick: str = ""
    output: str = ""


class Version(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a model.

    Attributes:
        steps: what it is made of, in their order.
        labels: names for what the last step predicts; None for none.
        example: a V2 request with a few rows, for the warm-up; "" for none.
        frame: the inputs are the columns of a DataFrame.
        inputs: what it takes.
        outputs: what it gives.
        parameters: what a request may give beside its inputs.
        files: the digest of each file, as sha256:<64 hex digits>; a file that is not listed is never read.
    """

    steps: tuple[Step, ...]
    labels: LabelFile | None = None
    example: str = ""
    frame: bool = False
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    parameters: tuple[ParameterSpec, ...] = ()
    files: dict[str, str]

    @property
    def runtime(self) -> str:
        """The runtimes of its steps: sklearn; sklearn + xgboost."""
        return " + ".join(dict.fromkeys(step.runtime for step in self.steps))

    @property
    def saved_with(self) -> str:
        """The libraries that saved it, each once."""
        return ", ".join(dict.fromkeys(step.saved_with for step in self.steps if step.saved_with))


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and its versions.

    Attributes:
        format: the number of the manifest's own format.
        name: the folder's name.
        active: the version that is served.
        max_rows: the most rows that one request may hold.
        time_limit_s: a prediction that runs for longer is stopped with its process.
        soft_time_limit_s: a prediction that runs for longer is interrupted by an exception; None for never.
        max_batch_rows: the most rows of several requests in one prediction; a larger request is predicted alone, whole.
        max_batch_bytes: the most bytes of their inputs, as for the rows.
        max_wait_ms: how long a request may wait for others while a process is idle; 0 for not at all.
        latency_target_ms: batches are kept so small that a prediction takes no longer than this; 0 for any size.
        max_attempts: how often a request may be running when its process dies or is stopped; then it fails.
        strict_version: refuse to load with another version of the library than the one it was saved with.
        versions: by name.
    """

    format: int = FORMAT
    name: str
    active: str
    max_rows: int = 10_000
    time_limit_s: float = 60.0
    soft_time_limit_s: float | None = None
    max_batch_rows: int = 512
    max_batch_bytes: int = 8 * 1024 * 1024
    max_wait_ms: float = 0.0
    latency_target_ms: float = 0.0
    max_attempts: int = 3
    strict_version: bool = False
    versions: dict[str, Version]

    @property
    def version(self) -> Version:
        """The active version."""
        return self.versions[self.active]

    @property
    def batch_limits(self) -> BatchLimits:
        """The limits for batches, times in seconds."""
        return BatchLimits(
            max_rows=self.max_batch_rows,
            max_bytes=self.max_batch_bytes,
            max_wait_s=self.max_wait_ms / 1000,
            latency_s=self.latency_target_ms / 1000,
        )

    @property
    def signature(self) -> Signature:
        """What the active version takes and gives."""
        version = self.version
        return Signature(
            inputs=version.inputs,
            outputs=version.outputs,
            frame=version.frame,
            max_rows=self.max_rows,
            parameters=version.parameters,
        )
