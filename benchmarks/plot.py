"""The figures as one picture: a row of panels per model, and one for memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from summary import Record, Speed, Spread, number
from table import CPU

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS, BARE = "#0b6e4f", "#7a7a7a", "#c9b458"
SHARES = ("#0b6e4f", "#5aa17f", "#c0392b")


def draw(file: Path, speeds: Sequence[Speed], memory: Sequence[Record], note: str) -> None:
    """Write the picture."""
    rows = [list(group) for _, group in groupby(speeds, key=lambda one: one.model)]
    figure, axes = plt.subplots(
        len(rows) + bool(memory), 4, figsize=(17, 3 * (len(rows) + bool(memory))), squeeze=False
    )
    for panels, group in zip(axes, rows, strict=False):
        _throughput(panels[0], group)
        _submit(panels[1], group)
        _latency(panels[2], group)
        _cpu(panels[3], group)
    if memory:
        _memory(axes[-1][0], memory)
        for panel in axes[-1][1:]:
            panel.axis("off")
    figure.suptitle(note, fontsize=9, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _throughput(panel: Any, group: Sequence[Speed]) -> None:
    _dots(panel, [(one.contestant, one.throughput) for one in group])
    panel.set_title(f"{group[0].model}: predictions/s in a burst", fontsize=10)


def _submit(panel: Any, group: Sequence[Speed]) -> None:
    if not any(one.submit for one in group):  # one model says it for all
        panel.axis("off")
        return
    _dots(panel, [(one.contestant, one.submit) for one in group])
    panel.set_title(f"{group[0].model}: submitted/s", fontsize=10)


def _latency(panel: Any, group: Sequence[Speed]) -> None:
    found = [one for one in group if one.p50_ms is not None and one.contestant != "in-process-batch"]
    names = [one.contestant for one in found]
    panel.barh(names, [one.p99_ms for one in found], color="#d5d5d5", label="p99")
    panel.barh(names, [one.p50_ms for one in found], color=[_colour(name) for name in names], label="p50", height=0.5)
    panel.invert_yaxis()
    panel.set_title(f"{group[0].model}, alone: p50 and (grey) p99, ms", fontsize=10)


def _cpu(panel: Any, group: Sequence[Speed]) -> None:
    found = [one for one in group if one.cpu_s is not None]
    left = [0.0] * len(found)
    for who, colour in zip(CPU, SHARES, strict=True):
        values = [one.cpu_s[who] for one in found if one.cpu_s]
        panel.barh([one.contestant for one in found], values, left=left, color=colour, label=who)
        left = [start + value for start, value in zip(left, values, strict=True)]
    panel.invert_yaxis()
    panel.legend(fontsize=7)
    panel.set_title(f"{group[0].model}: CPU s per 1,000 predictions", fontsize=10)


def _memory(panel: Any, records: Sequence[Record]) -> None:
    names, values = [record["contestant"] for record in records], [record["pss_mb"] for record in records]
    bars = panel.barh(names, values, color=[_colour(name) for name in names])
    panel.bar_label(bars, [number(value) for value in values], padding=4, fontsize=8)
    panel.margins(x=0.2)
    panel.invert_yaxis()
    panel.set_title("large model: PSS of all workers, MB", fontsize=10)


def _dots(panel: Any, named: Sequence[tuple[str, Spread | None]]) -> None:
    """Mark the median and the range on a logarithmic axis, where the length of a bar would say nothing."""
    found = [(name, spread) for name, spread in named if spread]
    for at, (name, spread) in enumerate(found):
        panel.plot([spread.least, spread.most], [at, at], color=_colour(name), linewidth=3)
        panel.plot(spread.median, at, "o", color=_colour(name), markersize=8)
        panel.annotate(
            number(spread.median), (spread.median, at), (0, 8), textcoords="offset points", fontsize=8, ha="center"
        )
    panel.set_xscale("log")
    panel.margins(x=0.2, y=0.25)
    panel.set_yticks(range(len(found)), [name for name, _ in found])
    panel.grid(axis="x", alpha=0.4)
    panel.invert_yaxis()


def _colour(name: str) -> str:
    return OURS if name == "mutirao" else BARE if name.startswith("in-process") else THEIRS
