"""How long a thread has waited for a core."""

import subprocess
import sys

# Two processes on one core: each waits while the other runs.
TWO_ON_ONE = """
import os, time
from mutirao_worker.process import cpu_wait

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before, own = cpu_wait.waited_s(), os.getpid()
other = os.fork()
if not other:
    early = cpu_wait.waited_s()
    while os.getppid() == own and cpu_wait.waited_s() - early < 0.2:
        pass
    os._exit(0 if early < 0.1 else 1)
deadline = time.monotonic() + 60
while cpu_wait.waited_s() - before < 0.2 and time.monotonic() < deadline:
    pass
assert cpu_wait.waited_s() - before >= 0.2
assert os.waitpid(other, 0)[1] == 0
third = os.fork()
if not third:
    os._exit(0 if cpu_wait.waited_s() < 0.1 else 1)
assert os.waitpid(third, 0)[1] == 0
"""


def test_two_on_one_core_wait():
    """Each of two processes that share a core waits for it, and one that has just begun has not, though it was forked from one that has."""
    subprocess.run([sys.executable, "-c", TWO_ON_ONE], check=True, timeout=120)
