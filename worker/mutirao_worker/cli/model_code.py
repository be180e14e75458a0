"""`mutirao models init` and `mutirao models try`: write a model of own code, and run it without Redis."""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import click

from mutirao import errors
from mutirao.cli import console, input_data, render_outputs
from mutirao.cli.options import as_json
from mutirao_worker.inference import local_model
from mutirao_worker.inference.local_model import LocalModel

_TEMPLATE = '''\
"""A model of own code: mutirao models try {name} DATA runs it, mutirao models add {name} {name}/ adds it."""

import pathlib

{imports}

class Model:
    def load(self, folder: pathlib.Path) -> None:
        """Called once, when a worker starts: read what is needed from the folder."""
        {load}

    def predict(self, {takes}):
        """Called with the rows of many requests: return an element for each row.

        The annotation says what comes: texts: list[str], files: list[bytes], orders: list[dict], x: np.ndarray, frame: pd.DataFrame;
        without list[...] predict is called for each row. Parameters of a request come after *: `*, threshold: float = 0.5`.
        raise mutirao.InvalidInput("what is wrong") refuses a request.
        """
        return {gives}
'''
# By the end of a file's name: the imports, and how it is loaded.
_LOADED = {
    ".keras": ("import keras", "keras.saving.load_model(folder / {file!r})"),
    ".h5": ("import keras", "keras.saving.load_model(folder / {file!r})"),
    ".cbm": ("import catboost", "catboost.CatBoost().load_model(str(folder / {file!r}))"),
}
_PICKLED = ("import joblib", "joblib.load(folder / {file!r})")


@click.command(
    short_help="Write a folder with a model.py to start from.",
    epilog="Example: mutirao models init price --from model.pkl && mutirao models try price '[[1, 2, 3]]'",
)
@click.argument("name", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "saved",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A saved model, which is copied into the folder; model.py loads it.",
)
def init(name: Path, saved: Path | None) -> None:
    """Write ./NAME/ with a short model.py, which works at once."""
    if name.exists():
        raise errors.RepositoryError(f"{name} is already there: choose another name, or edit its model.py")
    if saved is None:
        text = {"imports": "", "load": "self.greeting = 'hello'", "takes": "texts: list[str]"}
        text["gives"] = '[f"{self.greeting} {text}" for text in texts]'
    else:
        imports, load = _LOADED.get(saved.suffix.lower(), _PICKLED)
        text = {"imports": f"{imports}\nimport numpy as np\n", "load": f"self.model = {load.format(file=saved.name)}"}
        text |= {"takes": "x: np.ndarray", "gives": "self.model.predict(x)"}
    name.mkdir(parents=True)
    if saved is not None:
        shutil.copyfile(saved, name / saved.name)
    (name / "model.py").write_text(_TEMPLATE.format(name=name, **text))
    console.console.print(f"wrote {name}/model.py; run it: mutirao models try {name} DATA", markup=False)


@click.command(
    "try",
    short_help="Run a model of own code without Redis.",
    epilog="Example: mutirao models try ./price '[{\"km\": 3}]'",
)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("text", metavar="DATA")
@click.option(
    "--parameter", "parameters", metavar="NAME=VALUE", multiple=True, help="A parameter that the model takes."
)
@as_json
def try_(folder: Path, text: str, *, parameters: tuple[str, ...], as_json: bool) -> None:
    """Load FOLDER (or a model's file), predict the rows of DATA, and print the outputs.

    DATA is as for `mutirao predict`: JSON, or a file; for a model of bytes or text any file, or a folder of such.
    """
    started = time.perf_counter()
    path = Path(text.removeprefix("@"))
    is_file = len(text) < 4096 and path.exists()
    is_table = not is_file or path.suffix.lower() in input_data.SUFFIXES
    data = input_data.read(text if not is_file else f"@{path}") if is_table else None
    try:
        example: Any = str(path) if is_file or data is None else data.content
        model = local_model.load(folder, example=example) if data is None else _loaded(folder, example)
        loaded = time.perf_counter()
        given: Any = model.example() if data is None else data.arrays(model.signature)[0]
        outputs = model.predict(given, parameters=input_data.parameters(parameters, model.signature))
    except errors.MutiraoError as exc:
        sys.stderr.write(_traceback(exc))
        raise
    if as_json:
        console.emit_json(render_outputs.plain(outputs))
    else:
        render_outputs.show(outputs)
    rows = len(next(iter(outputs.values())))
    loading, predicting = loaded - started, time.perf_counter() - loaded
    console.note(f"loaded and tried in {loading:.2f} s, predicted {rows} rows in {1000 * predicting:.1f} ms")


def _loaded(folder: Path, example: Any) -> LocalModel:
    """Load a model, by its annotations alone where they say all, else with the data as its example."""
    try:
        return local_model.load(folder)
    except errors.RepositoryError:
        return local_model.load(folder, example=example)


def _traceback(error: errors.MutiraoError) -> str:
    """Return the traceback of what the model's own code raised; "" where the error is ours alone."""
    if notes := getattr(error, "__notes__", []):
        return "\n".join(notes)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return "" if isinstance(cause, errors.MutiraoError) else "".join(traceback.format_exception(cause))
