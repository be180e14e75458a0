"""The figures for people on a terminal, in tables of 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from summary import Record, Speed, Spread, number
from targets import Target

COLUMNS = 100
CPU = ("client", "workers", "redis")


def targets(found: Iterable[Target]) -> Table:
    """Lay out what this system is held to."""
    headings = ("plain Celery", "this system", "ratio", "must", "met")
    table = _table(
        "against plain Celery in the best setting of the same round, median (least-most)", headings, "measure"
    )
    for one in found:
        met = "-" if one.met is None else "yes" if one.met else "no"
        cells = [_shown(one.theirs), _shown(one.ours), _shown(one.ratio), one.must, met]
        table.add_row(one.measure, *cells, style="red" if one.met is False else "")
    return table


def bursts(model: str, speeds: Iterable[Speed]) -> Table:
    """Lay out what each contestant did with many requests at once."""
    headings = ("predictions/s", "x plain\nCelery", "submit/s", "submit/s,\na call each", "lost /\nwrong")
    table = _table(f"{model}, many one-row requests at once: median (least-most) of the rounds", headings)
    for one in speeds:
        shown = [_shown(value) for value in (one.throughput, one.ratio, one.submit, one.submit_singly)]
        _add(table, one.contestant, [*shown, f"{one.lost} / {one.wrong}"])
    return table


def costs(model: str, speeds: Iterable[Speed]) -> Table:
    """Lay out latency, and what the bursts cost."""
    headings = (
        "p50 ms",
        "p99 ms",
        "p50 x plain\nCelery",
        "CPU s:\nclient",
        "workers",
        "Redis",
        "all",
        "others'\ncores",
    )
    table = _table(f"{model}, one request at a time; CPU seconds per 1,000 predictions of the bursts", headings)
    for one in speeds:
        spent = [one.cpu_s[who] for who in CPU] if one.cpu_s else []
        cpu = [_shown(value) for value in (*spent, sum(spent))] if spent else ["-"] * 4
        ratio = one.latency_ratio.median if one.latency_ratio else None
        latency = [_shown(value) for value in (one.p50_ms, one.p99_ms, ratio)]
        _add(table, one.contestant, [*latency, *cpu, _shown(one.others_cores)])
    return table


def memory(records: Iterable[Record], megabytes: int) -> Table:
    """Lay out what the workers hold."""
    headings = ("PSS MB,\nall", "processes", "that\npredicted", "copies of\nthe model", "lost /\nwrong")
    table = _table(f"memory of the workers, a model of {megabytes} MB", headings)
    for record in records:
        copies = f"{record['copies']}, one each" if record["copies"] > 1 else "1"
        counts = [str(record["processes"]), str(record["predicted"]), copies, f"{record['lost']} / {record['wrong']}"]
        _add(table, record["contestant"], [number(record["pss_mb"]), *counts])
    return table


def _table(title: str, headings: Sequence[str], first: str = "contestant") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _add(table: Table, contestant: str, cells: Sequence[str]) -> None:
    table.add_row(contestant, *cells, style="bold" if contestant == "mutirao" else "")


def _shown(value: Spread | float | None) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else str(value)
