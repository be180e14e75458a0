"""The figures for people on a terminal, in tables of 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from summary import Spread, number
from targets import Target

import fronts
from fronts.figures import ROLES, Speed
from fronts.heavy import MEMORY_MB, WAIT_S, Heavy
from fronts.polls import LIMIT_MB, Polls
from fronts.steps import Budget


def speeds(model: str, found: Iterable[Speed]) -> Table:
    """Lay out how quickly each server answered."""
    headings = ("requests/s", "x MLServer", "p50 ms", "p99 ms", "alone:\np50 / p99 ms", "lost /\nwrong")
    table = _table(f"{model}, one row a request: median (least-most) of the rounds", headings)
    for one in found:
        alone = " / ".join(map(number, one.alone_ms)) if one.alone_ms else "-"
        shown = [_shown(value) for value in (one.rate, one.ratio, one.p50_ms, one.p99_ms)]
        _add(table, one.contestant, [*shown, alone, f"{one.lost} / {one.wrong}"])
    return table


def costs(model: str, found: Iterable[Speed]) -> Table:
    """Lay out what the requests cost."""
    headings = ("client", "gateway or\nmlserver", "workers", "Redis", "all", "others'\ncores")
    table = _table(f"{model}, CPU seconds per 1,000 requests", headings)
    for one in found:
        spent = [one.cpu_s[role] for role in ROLES]
        _add(table, one.contestant, [number(value) for value in (*spent, sum(spent), one.others_cores)])
    return table


def targets(found: Iterable[Target]) -> Table:
    """Lay out what this system is held to."""
    headings = ("MLServer", "this system", "ratio", "must", "met")
    table = _table("against MLServer in the better setting of the same round, median (least-most)", headings, "measure")
    for one in found:
        met = "-" if one.met is None else "yes" if one.met else "no"
        cells = [_shown(one.theirs), _shown(one.ours), _shown(one.ratio), one.must, met]
        table.add_row(one.measure, *cells, style="red" if one.met is False else "")
    return table


def steps(found: Budget) -> Table:
    """Lay out where the gateway's CPU time goes."""
    title = f"{found.model}: CPU of the gateway's process for one request, {found.rate:,.0f} requests/s"
    table = _table(title, ("us a request", "share"), "step")
    for name, us in found.steps:
        table.add_row(name, f"{us:.1f}", f"{us / found.total_us:.0%}")
    table.add_row("all", f"{found.total_us:.1f}", "100%", style="bold")
    return table


def functions(found: Budget, count: int) -> Table:
    """Lay out the functions that take the most; one's C code, redis-py and Python's library count as its own."""
    table = _table("of that, by function", ("us a request", "step"), "function")
    for step, function, us in [line for line in found.lines if line[1]][:count]:
        table.add_row(function, f"{us:.1f}", step.partition(":")[0])
    return table


def polls(found: Polls) -> Table:
    """Lay out what open polls take."""
    title = f"{found.count:,} long polls held by one process"
    headings = (
        "before:\nPSS MB",
        "while open",
        "when\nanswered",
        "must",
        "met",
        "answered",
        "told\nwithin s",
        "cores\nmeanwhile",
    )
    table = _table(title, headings, "server")
    met = "yes" if found.met else "no"
    memory = [number(value) for value in (found.idle_mb, found.held_mb, found.after_mb)]
    rest = [f"{found.answered:,}", number(found.told_s), number(found.held_cpu)]
    table.add_row(fronts.OURS, *memory, f"< {LIMIT_MB:g}", met, *rest, style="" if found.met else "red")
    return table


def heavy(found: Iterable[Heavy]) -> Table:
    """Lay out what heavy bodies do to others."""
    headings = ("status", "took s", "others waited\nup to s", "peak MB", "met")
    table = _table(f"heavy bodies: others wait < {WAIT_S:g} s, < {MEMORY_MB:g} MB", headings, "body")
    for one in found:
        shown = [number(value) for value in (one.took_s, one.waited_s, one.peak_mb)]
        table.add_row(one.name, str(one.status), *shown, "yes" if one.met else "no", style="" if one.met else "red")
    return table


def _table(title: str, headings: Sequence[str], first: str = "server") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _add(table: Table, name: str, cells: Sequence[str]) -> None:
    table.add_row(name, *cells, style="bold" if name == fronts.OURS else "")


def _shown(value: Spread | None) -> str:
    return "-" if value is None else str(value)
