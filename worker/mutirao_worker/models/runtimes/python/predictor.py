"""A model of own code: an object of the class Model in the model.py of its folder."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mutirao import errors
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import example_request
from mutirao_worker.models.runtimes.predictor import NO_PARAMETERS, Description, ModelFiles, Predictor, RowsRefused
from mutirao_worker.models.runtimes.python import arguments, examples, predict_plan, requirements, results
from mutirao_worker.models.runtimes.python.own_modules import OwnModules

MODULE, CLASS = "model", "Model"
# Libraries whose threads or devices do not survive a fork.
_UNFORKABLE = frozenset({"jax", "onnxruntime", "tensorflow", "torch"})


class PythonPredictor(Predictor):
    """The class Model of a folder's model.py."""

    library: ClassVar[str] = "Python"

    def __init__(self, model: Any, modules: OwnModules, folder: Path, *, forkable: bool, there: frozenset[str]) -> None:
        self._model = model
        self._modules = modules
        self._folder = folder
        self._forkable = forkable
        self._there = there
        with modules.importable():
            self._plan = predict_plan.read(model.predict, batch=getattr(model, "batch", None))

    @classmethod
    def load(cls, files: ModelFiles) -> PythonPredictor:
        """Import model.py, make a Model, and let it load its files."""
        missing = requirements.compare(files.contents.get(requirements.FILE, b"")).missing
        if missing:
            raise errors.RepositoryError(
                f"its {requirements.FILE} names what is not installed: {', '.join(missing)}: install it where the workers run"
            )
        modules = OwnModules(files.folder, files.contents)
        if hiding := sorted(modules.names & sys.stdlib_module_names):
            raise errors.RepositoryError(f"{hiding[0]}.py hides a module of Python itself: give it another name")
        threads, there = _threads(), _UNFORKABLE & sys.modules.keys()
        with modules.importable():
            try:
                module = importlib.import_module(MODULE)
                made = getattr(module, CLASS, None)
                with modules.standing_in_for_main(module):
                    model: Any = made() if isinstance(made, type) else None
                    if hasattr(model, "load"):
                        model.load(folder=files.folder)
            except (Exception, SystemExit) as exc:
                raise errors.RepositoryError(_explain(exc, files.folder)) from exc
        if not callable(getattr(model, "predict", None)):
            raise errors.RepositoryError(
                f"{MODULE}.py has no class {CLASS} with a method predict: see docs/python-models.md"
            )
        return cls(model, modules, files.folder, forkable=_threads() <= threads, there=there)

    def describe(self, example: Any) -> Description:
        """Return what predict takes and gives: by a trial on the example, or on made-up rows, or by its annotations alone."""
        plan, given = self._plan, None if example is None else examples.read(example, self._plan)
        if given is None and plan.output is None:
            given = examples.made_up(plan)
            if given is None:
                raise errors.RepositoryError(
                    "what predict gives cannot be known without an example: give --example FILE"
                )
        if given is None:
            assert plan.output is not None
            inputs = examples.without_rows(plan)
            return Description(inputs=inputs, outputs=results.annotated_spec(plan.output), parameters=plan.parameters)
        inputs, rows = given
        defaults = {spec.name: spec.default for spec in plan.parameters}
        try:
            columns = self._run(rows, defaults)
            outputs = results.specs(columns, plan.output, rows=len(next(iter(rows.values()))))
            results.encoded(columns, outputs)
        except (Exception, SystemExit) as exc:
            on = "the example" if example is not None else "rows that were made up; give --example FILE"
            raise errors.RepositoryError(f"predict {_explain(exc, self._folder)}, with {on}") from exc
        return Description(
            inputs=inputs,
            outputs=outputs,
            frame=plan.frame,
            example=example_request.encode(rows),
            parameters=plan.parameters,
        )

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        *,
        frame: bool,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
    ) -> dict[str, Array]:
        """Call predict, once for all rows or once for each."""
        del frame
        return results.encoded(self._run(inputs, parameters), outputs)

    def learned(self) -> dict[str, Any]:
        """Return what the manifest is to remember."""
        own = getattr(self._model, "before_fork", True)
        # Another model may have imported such a library into this process before.
        unforkable = _UNFORKABLE & ((sys.modules.keys() - self._there) | self._modules.used())
        return {"before_fork": bool(own) and self._forkable and not unforkable, "batch": self._plan.batch}

    def _run(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        with self._modules.importable():
            if self._plan.batch:
                return results.named(self._model.predict(**arguments.of_batch(self._plan, inputs), **parameters))
            returned: list[Any] = []
            for row in arguments.of_rows(self._plan, inputs):
                try:
                    returned.append(self._model.predict(**row, **parameters))
                except errors.InvalidInput as exc:
                    returned.append(errors.InvalidInput(str(exc)))
            return {results.PREDICT: returned}


def _threads() -> int:
    """Count this process's threads, those of native libraries too."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return 0


def _explain(exc: BaseException, folder: Path) -> str:
    """Return what the model's own code raised, and where."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if frame.filename.startswith(f"{folder}/")]
    where = f" ({frames[-1].filename.removeprefix(f'{folder}/')}, line {frames[-1].lineno})" if frames else ""
    if isinstance(exc, errors.InvalidOutput):
        return str(exc)
    if isinstance(exc, errors.InvalidInput | RowsRefused):
        return f"refused a row ({exc})"
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return f"needs the module {exc.name!r}{where}: install it where the workers run, or put it into the folder"
    return f"raised {type(exc).__name__}: {exc}{where}"
