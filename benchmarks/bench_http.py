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
from fronts import figures, mlserver, rounds, tables
from rich.console import Console
from run import OUT, Names

MODELS, SERVERS = tuple(workload.WORKLOADS), tuple(fronts.TABLE)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="One short round: shows that all works; not for figures.")
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
    models: tuple[str, ...],
    names: tuple[str, ...],
    count: int,
    seconds: float,
    connections: int,
    file: Path | None,
) -> None:
    """Measure the gateway beside MLServer.

    Ends with 1 if an answer was lost, refused or is not the model's own.

    \b
    Example:  python benchmarks/bench_http.py --quick
              python benchmarks/bench_http.py --models forest --servers mutirao,mlserver --rounds 2
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped and folders removed
    plan = rounds.Plan(models, names, count, seconds, connections)
    plan = dataclasses.replace(plan, rounds=1, seconds=2.0, alone_s=0.5, warm_s=0.5) if quick else plan
    sys.exit(measure(plan, file or OUT / f"http-{time.strftime('%Y%m%d-%H%M%S')}.json"))


def measure(plan: rounds.Plan, file: Path) -> int:
    """Run the plan, show and write what was found; return the exit code."""
    if set(plan.names) & set(fronts.THEIRS):
        _tell("installing MLServer where it is not yet")
        mlserver.installed()
    start, began = machine.description(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutirao-bench-http-") as folder:
        records = rounds.run(plan, Path(folder), _tell)
    run = {"machine": start, "load_average_after": os.getloadavg(), "took_s": time.monotonic() - began}
    report(plan, records, run, file)
    bad = [record for record in records if record["lost"] or record["wrong"]]
    for record in bad:
        said = f"{record['lost']} lost or refused, {record['wrong']} wrong {record['said']}"
        _tell(f"failed: {record['contestant']}, {record['model']}, {record['measure']}: {said}")
    return 1 if bad else 0


def report(plan: rounds.Plan, records: list[dict[str, Any]], run: dict[str, Any], file: Path) -> None:
    """Print the tables and write the JSON."""
    console = Console()
    out = console if console.is_terminal else Console(width=max(console.width, table.COLUMNS))
    found, held = figures.speeds(records), figures.targets(records)
    for model in plan.models:
        of_model = [one for one in found if one.model == model]
        out.print(tables.speeds(model, of_model), tables.costs(model, of_model), sep="\n")
    out.print(tables.targets(held))
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "run": run,
        "plan": dataclasses.asdict(plan),
        "targets": [dataclasses.asdict(one) for one in held],
        "speeds": [dataclasses.asdict(one) for one in found],
        "records": records,
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
    out.print(f"{_note(run)}\nwritten: {file}", soft_wrap=True)


def _tell(text: str) -> None:
    # A line of its own, not a spinner: nothing else may run in this process while it asks.
    sys.stderr.write(f"{text}\n")


def _note(run: dict[str, Any]) -> str:
    where = run["machine"]
    return (
        f"{where['commit']}: {where['cores']} cores ({where['processor']}), Python {where['python']}; load average "
        f"{where['load_average'][0]:.1f} before, {run['load_average_after'][0]:.1f} after; took {run['took_s']:.0f} s"
    )


if __name__ == "__main__":
    main()
