"""`python profiled.py FILE MODULE ARGS...`: a module run under cProfile by CPU time, so that waiting counts for nothing."""

from __future__ import annotations

import cProfile
import os
import runpy
import sys
import time

file, module, *rest = sys.argv[1:]
sys.argv = [module, *rest]
profile, owner = cProfile.Profile(time.thread_time), os.getpid()
profile.enable()
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    profile.disable()
    if os.getpid() == owner:  # its forks run under the profile too, and tell nothing
        profile.dump_stats(file)
