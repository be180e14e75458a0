"""What a worker prints when it starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psutil
import rich.box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mutirao import keyspace
from mutirao.registry import ModelInfo
from mutirao.settings import without_password


def show(worker: Any, infos: Iterable[ModelInfo], threads: int) -> None:
    """Print models, versions, queues, processes and memory."""
    console = Console(highlight=False, soft_wrap=True)
    memory = psutil.Process().memory_info().rss / 2**20
    console.print(
        f"[bold]mutirão worker[/] {escape(str(worker.hostname))} on {escape(without_password(worker.app.conf.mutirao.broker_url))}"
    )
    processes = f"{worker.concurrency} process{'' if worker.concurrency == 1 else 'es'}"
    each = f"{threads} thread{'' if threads == 1 else 's'}"
    console.print(f"{processes} x {each}, {memory:.0f} MB with the models loaded, before forking")
    table = Table("model", "version", "queue", "state", box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for info in infos:
        table.add_row(escape(info.name), escape(info.version), keyspace.queue(info.name), escape(_state(info)))
    console.print(table)


def _state(info: ModelInfo) -> str:
    return f"{info.state}: {info.reason}" if info.reason else info.state
