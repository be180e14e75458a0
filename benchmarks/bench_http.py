"""`make bench-http`: the gateway beside MLServer, same models, same requests. See docs/benchmarks.md."""

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

# Before numpy is first imported; see run.py.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import click
import fronts
import machine
import table
import workload
from fronts import figures, heavy, mlserver, polls, rounds, steps, tables
from rich.console import Console
from run import OUT, Names

ONLY = ("compare", "steps", "polls", "heavy")
POLLS = 2_000
# So many functions are shown.
FUNCTIONS = 16
MODELS, SERVERS = tuple(workload.WORKLOADS), tuple(fronts.TABLE)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="One short round: shows that all works; not for figures.")
@click.option("--only", type=Names(ONLY), default=",".join(ONLY), help="What to measure.")
@click.option("--models", type=Names(MODELS), default=",".join(MODELS), help="Which models.")
@click.option("--servers", "names", type=Names(SERVERS), default=",".join(SERVERS), help="Who takes part.")
@click.option("--rounds", "count", type=click.IntRange(1), default=5, help="Rounds.")
@click.option("--seconds", type=click.FloatRange(0.5), default=8.0, help="How long each round asks.")
@click.option("--connections", type=click.IntRange(1), default=64, help="How many ask at once.")
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the JSON goes; benchmarks/out/http-<time>.json.",
)
def main(
    quick: bool,
    only: tuple[str, ...],
    models: tuple[str, ...],
    names: tuple[str, ...],
    count: int,
    seconds: float,
    connections: int,
    file: Path | None,
) -> None:
    """Measure the gateway beside MLServer; where its CPU time goes; 2,000 long polls; and heavy bodies.

    Ends with 1 if an answer was lost, refused or is not the model's own.

    \b
    Example:  python benchmarks/bench_http.py --quick
              python benchmarks/bench_http.py --only compare --models forest --rounds 2
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped and folders removed
    plan = rounds.Plan(models, names, count, seconds, connections)
    plan = dataclasses.replace(plan, rounds=1, seconds=2.0, alone_s=0.5, warm_s=0.5) if quick else plan
    sys.exit(measure(plan, only, file or OUT / f"http-{time.strftime('%Y%m%d-%H%M%S')}.json"))


def measure(plan: rounds.Plan, only: tuple[str, ...], file: Path) -> int:
    """Measure, show and write what was found; return the exit code."""
    if "compare" in only and set(plan.names) & set(fronts.THEIRS):
        _tell("installing MLServer where it is not yet")
        try:
            mlserver.installed()
        except RuntimeError as exc:
            _tell(f"failed: {exc}")
            return 1
    found = Found({"machine": machine.description(), "plan": dataclasses.asdict(plan)})
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutirao-bench-http-") as name:
        for one in only:
            try:
                _MEASURES[one](found, plan, Path(name))
            except RuntimeError as exc:
                found.failures.append(f"{one}: {exc}")
    took = {"load_average_after": os.getloadavg(), "took_s": time.monotonic() - began}
    found.document["run"] = took
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found.document, indent=1) + "\n")
    found.show(f"{_note(found.document)}\nwritten: {file}")
    for failure in found.failures:
        _tell(f"failed: {failure}")
    return 1 if found.failures else 0


def _console() -> Console:
    """Print to a file or a pipe as wide as the tables are."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, table.COLUMNS))


@dataclasses.dataclass(frozen=True)
class Found:
    """What goes into the file, and what went wrong; tables are shown as soon as they are known."""

    document: dict[str, Any]
    failures: list[str] = dataclasses.field(default_factory=list)
    console: Console = dataclasses.field(default_factory=_console)

    def show(self, *shown: Any) -> None:
        self.console.print(*shown, sep="\n", soft_wrap=all(isinstance(one, str) for one in shown))


def _compare(found: Found, plan: rounds.Plan, folder: Path) -> None:
    records: list[dict[str, Any]] = []
    try:
        records.extend(rounds.run(plan, folder, _tell))
    finally:  # what was measured before a failure is shown
        _show(found, plan, records)


def _show(found: Found, plan: rounds.Plan, records: list[dict[str, Any]]) -> None:
    speeds, held = figures.speeds(records), figures.targets(records)
    for model in plan.models:
        of_model = [one for one in speeds if one.model == model]
        found.show(tables.speeds(model, of_model), tables.costs(model, of_model))
    found.show(tables.targets(held))
    found.document["targets"] = [dataclasses.asdict(one) for one in held]
    found.document["speeds"] = [dataclasses.asdict(one) for one in speeds]
    found.document["records"] = records
    for record in records:
        if record["lost"] or record["wrong"]:
            said = f"{record['lost']} lost or refused, {record['wrong']} wrong {record['said']}"
            found.failures.append(f"{record['contestant']}, {record['model']}, {record['measure']}: {said}")


def _steps(found: Found, plan: rounds.Plan, folder: Path) -> None:
    _tell("where the gateway's CPU time goes")
    budget = steps.taken(workload.iris(folder, rounds.OUTPUT), folder / "steps", plan.connections, plan.seconds)
    found.show(tables.steps(budget), tables.functions(budget, FUNCTIONS))
    found.document["steps"] = dataclasses.asdict(budget)


def _polls(found: Found, plan: rounds.Plan, folder: Path) -> None:  # noqa: ARG001 - as the others
    _tell(f"{POLLS:,} long polls")
    held = polls.held(workload.iris(folder, rounds.OUTPUT), folder / "polls", POLLS)
    found.show(tables.polls(held))
    found.document["polls"] = dataclasses.asdict(held)
    if held.answered < held.count:
        found.failures.append(f"{held.count - held.answered} of {held.count} long polls were not answered")


def _heavy(found: Found, plan: rounds.Plan, folder: Path) -> None:  # noqa: ARG001 - as the others
    _tell("bodies that cost more than they look")
    asked = heavy.asked(workload.iris(folder, rounds.OUTPUT), folder / "heavy")
    found.show(tables.heavy(asked))
    found.document["heavy"] = [dataclasses.asdict(one) for one in asked]
    found.failures.extend(
        f"{one.name}: others waited {one.waited_s:.2f} s, {one.peak_mb:.0f} MB" for one in asked if not one.met
    )


_MEASURES = {"compare": _compare, "steps": _steps, "polls": _polls, "heavy": _heavy}


def _tell(text: str) -> None:
    # A line of its own, not a spinner: nothing else may run in this process while it asks.
    sys.stderr.write(f"{text}\n")


def _note(document: dict[str, Any]) -> str:
    where, run = document["machine"], document["run"]
    return (
        f"{where['commit']}: {where['cores']} cores ({where['processor']}), Python {where['python']}; load average "
        f"{where['load_average'][0]:.1f} before, {run['load_average_after'][0]:.1f} after; took {run['took_s']:.0f} s"
    )


if __name__ == "__main__":
    main()
