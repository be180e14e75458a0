"""`python sampled.py FILE MODULE ARGS...`: a module that is looked at each few milliseconds of its CPU time.

SIGUSR1 begins a sample, SIGUSR2 ends it and writes FILE: a JSON list of [count, [[file, function, line], ...]], innermost first.
A profiler that counts calls (profiled.py) makes small functions look dearer than they are; this one costs each the same.
"""

from __future__ import annotations

import json
import opcode
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

# The kernel looks at its clock 250 times a second.
INTERVAL_S = 0.004
_RESUME = opcode.opmap["RESUME"]

Frame = tuple[str, str, int]
_seen: Counter[tuple[Frame, ...]] = Counter()
file, module, *rest = sys.argv[1:]


def look(_number: int, frame: FrameType | None) -> None:
    """Note where the main thread is. One that has just begun a function spent its time before, in the caller's C code."""
    if frame is not None and frame.f_code.co_code[frame.f_lasti] == _RESUME:
        frame = frame.f_back
    stack: list[Frame] = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_qualname, frame.f_lineno))
        frame = frame.f_back
    _seen[tuple(stack)] += 1


def begin(*_: object) -> None:
    _seen.clear()
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)


def end(*_: object) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    partial = Path(file).with_suffix(".partial")
    partial.write_text(json.dumps([[count, stack] for stack, count in _seen.items()]))
    partial.rename(file)


if __name__ == "__main__":
    for number, handler in ((signal.SIGPROF, look), (signal.SIGUSR1, begin), (signal.SIGUSR2, end)):
        signal.signal(number, handler)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
