"""`make bench`: this system, plain Celery and the bare model side by side. See README.md beside this file."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Before numpy is first imported, here and in every process started from here: a process of ours is one thread of work.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import click
import contestants
import machine
import plan
import plot
import summary
import table
import targets
import workload
from rich.console import Console

OUT = Path(__file__).parent / "out"


class Names(click.ParamType[tuple[str, ...]]):
    """Comma-separated names out of those there are."""

    name = "names"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        if unknown := [name for name in names if name not in self.known]:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(self.known)}", param, ctx)
        return names


CONTESTANTS, MODELS = tuple(contestants.TABLE), tuple(workload.WORKLOADS)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--quick", is_flag=True, help="One short round of few contestants: shows that all works; not for figures."
)
@click.option("--only", type=Names(plan.MEASURES), default=",".join(plan.MEASURES), help="What to measure.")
@click.option("--models", type=Names(MODELS), default=",".join(MODELS), help="Which models.")
@click.option("--contestants", "names", type=Names(CONTESTANTS), help=f"Who takes part: {', '.join(CONTESTANTS)}.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds; 5, or 1 with --quick.")
@click.option("--rows", type=click.IntRange(1), help="Requests in every burst; see docs/benchmarks.md for the default.")
@click.option("--processes", type=click.IntRange(1), default=2, help="Processes that run the model, but for memory.")
@click.option(
    "--output",
    type=click.Choice(["predict", "predict_proba"]),
    default="predict_proba",
    help="What is asked of the model.",
)
@click.option("--aof", is_flag=True, help="Redis logs every change to disk, for every contestant.")
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the JSON goes; benchmarks/out/<time>.json.",
)
def main(
    quick: bool,
    only: tuple[str, ...],
    models: tuple[str, ...],
    names: tuple[str, ...] | None,
    rounds: int | None,
    rows: int | None,
    processes: int,
    output: str,
    aof: bool,
    file: Path | None,
) -> None:
    """Measure this system against plain Celery and the bare model.

    Ends with 1 if an answer was lost or differs from the model's own, or if a contestant failed.

    \b
    Example:  python benchmarks/run.py --quick
              python benchmarks/run.py --only burst --models forest --contestants mutirao,celery-solo
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are stopped and folders removed
    chosen = plan.Plan(only, models, processes=processes, output=output, aof=aof)
    chosen = chosen.quick() if quick else chosen
    given: dict[str, Any] = {"rounds": rounds, "contestants": names}
    given |= {"rows": dict.fromkeys(models, rows), "batched_rows": rows} if rows else {}
    chosen = dataclasses.replace(chosen, **{name: value for name, value in given.items() if value})
    sys.exit(measure(chosen, file or OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json", _wide(), Console(stderr=True)))


def measure(chosen: plan.Plan, file: Path, out: Console, err: Console) -> int:
    """Run the plan, show and write what was found; return the exit code."""
    start, began = machine.description(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutirao-bench-") as folder, err.status("fitting the models") as status:
        findings = plan.run(chosen, Path(folder), status.update)
    run = {"machine": start, "load_average_after": os.getloadavg(), "took_s": time.monotonic() - began}
    report(chosen, findings, run, file, out)
    for failure in findings.failures:
        err.print(f"failed: {failure}", style="red", markup=False)
    for record in findings.bad:
        said = f"{record['lost']} lost, {record['wrong']} wrong"
        err.print(f"failed: {record['contestant']}, {record['model']}, {record['measure']}: {said}", style="red")
    return 1 if findings.failures or findings.bad else 0


def report(chosen: plan.Plan, findings: plan.Findings, run: dict[str, Any], file: Path, out: Console) -> None:
    """Print the tables; write the JSON and, beside it, the picture."""
    speeds = summary.speeds(findings.records)
    memory = [record for record in findings.records if record["measure"] == "memory"]
    for model in dict.fromkeys(one.model for one in speeds):
        of_model = [one for one in speeds if one.model == model]
        out.print(table.bursts(model, of_model), table.costs(model, of_model), sep="\n")
    if memory:
        out.print(table.memory(memory, chosen.megabytes))
    held = targets.found(findings.records)
    out.print(table.targets(held))
    file.parent.mkdir(parents=True, exist_ok=True)
    speeds_shown = [dataclasses.asdict(one) for one in speeds]
    document = {
        "run": run,
        "plan": dataclasses.asdict(chosen),
        "targets": [dataclasses.asdict(one) for one in held],
        "speeds": speeds_shown,
        "records": findings.records,
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
    picture = file.with_suffix(".png")
    plot.draw(picture, speeds, memory, _note(run))
    out.print(f"{_note(run)}\nwritten: {file} and {picture.name}", soft_wrap=True)


def _wide() -> Console:
    """Print to a file or a pipe as wide as the tables are."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, table.COLUMNS))


def _note(run: dict[str, Any]) -> str:
    where = run["machine"]
    loads = f"load average {where['load_average'][0]:.1f} before, {run['load_average_after'][0]:.1f} after"
    what = f"Python {where['python']}, celery {where['packages']['celery']}, {where['redis-server']}"
    return (
        f"{where['commit']}: {where['cores']} cores ({where['processor']}), {what}; {loads}; took {run['took_s']:.0f} s"
    )


if __name__ == "__main__":
    main()
