"""Celery's pool as the dispatcher sees it: slots, each of which runs one batch at a time."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from billiard.common import TERM_SIGNAL, terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery import current_app
from celery.concurrency.asynpool import WORKER_UP

from mutirao.settings import Settings
from mutirao_worker.celery_adapter import file_descriptors
from mutirao_worker.celery_adapter.process_pipes import ProcessPipes
from mutirao_worker.engine.process_recycling import ProcessRecycler
from mutirao_worker.inference import execution, interruption
from mutirao_worker.inference.execution import MAX_RESULTS_BYTES, BatchResult
from mutirao_worker.inference.inputs import PackedRequest
from mutirao_worker.inference.outputs import RequestResult, ResultLimits
from mutirao_worker.process.isolation import Leak

if TYPE_CHECKING:
    from mutirao_worker.engine.batch import Batch
    from mutirao_worker.engine.dispatcher import Dispatcher


logger = logging.getLogger(__name__)

# Looks of `WorkerPool.look_after`, two a second.
ACCEPTED_IN_LOOKS = 10
# What follows in a pipe that was full comes within this time.
READ_MS = 50
# billiard's words for a process that died.
_LOST = re.compile(r"Worker exited prematurely: (.*) Job: \d+\.", re.ASCII)

interruption.TIME_LIMIT = SoftTimeLimitExceeded
interruption.is_terminating = terminate_handler_fired


def compute(packed: list[Any], bounds: tuple[int, int]) -> Any:
    """Run a batch; called in a process of the pool. Plain tuples go through the pipe: they cost a seventh of named ones."""
    host = current_app.host
    ran = execution.run(host.find, list(map(PackedRequest._make, packed)), ResultLimits(*bounds))
    leak = host.leak_detector.new_leak() if host.leak_detector is not None else None
    return list(map(tuple, ran.results)), *ran[1:-1], leak and tuple(leak)


def read(computed: Any, count: int) -> BatchResult:
    """Read what `compute` returned for a number of requests.

    Raises:
        Exception: of any kind, where it is no answer for each of them.
    """
    answers, rows, predict_s, waited_s, leak = computed
    results = list(map(RequestResult._make, answers))
    if len(results) != count or not all(type(each.result) is bytes for each in results):
        raise ValueError("not an answer for each request")
    return BatchResult(results, rows, predict_s, waited_s, leak and Leak(*leak))


class WorkerPool:
    """Celery's pool as the dispatcher sees it. What comes back does so on the loop's own thread, whatever the pool is made of."""

    def __init__(self, pool: Any, hub: Any, settings: Settings, dispatcher: Callable[[], Dispatcher]) -> None:
        """Take Celery's pool and loop, how large results may be, when a process is replaced, and the dispatcher that takes what comes back."""
        self._dispatcher = dispatcher
        self._hub = hub
        self._bounds = (settings.inline_bytes, settings.max_result_bytes)
        self._recycler = ProcessRecycler(settings.max_batches_per_process, settings.max_memory_per_process)
        self._pool = pool
        self._pending_signals: dict[int, Any] = {}
        self._jobs: dict[int, Any] = {}
        # Batches by number: the process that each is for, and for how many looks.
        self._unaccepted: dict[int, tuple[int, int]] = {}
        self._stuck: set[int] = set()  # batches that have been given up, though their threads still run them
        self.inline = pool.__class__.__module__.endswith("solo")
        self._threads = pool.__class__.__module__.endswith("thread")
        if (processes := self._processes) is not None:
            self._pipes = ProcessPipes(processes, 2 * (MAX_RESULTS_BYTES + settings.max_result_bytes))
            self._hook(processes)
        if self._threads:
            self._done: collections.deque[Callable[[], None]] = collections.deque()
            self._wakeup_r, self._wakeup_w = os.pipe()
            os.set_blocking(self._wakeup_r, False)

    @property
    def slots(self) -> int:
        """How many batches may run at once: a process that has yet to start, or to load, is none."""
        if (processes := self._processes) is not None:
            return min(len(processes._all_inqueues), int(self._pool.num_processes))  # noqa: SLF001 - billiard's only way
        return max(0, int(self._pool.limit or 1) - len(self._stuck))

    @property
    def starting(self) -> int:
        """How many more there are in a moment."""
        return max(0, int(self._pool.num_processes) - self.slots) if self._processes is not None else 0

    def send(self, batch: Batch, packed: list[PackedRequest]) -> None:
        hard, soft = batch.limits
        if self._threads:
            self._hub.add_reader(self._wakeup_r, self._on_wakeup)
        if self._threads and hard:
            self._dispatcher().call_later(hard, self._thread_timed_out, batch, hard)
        self._jobs[batch.number] = self._pool.apply_async(
            compute,
            args=([tuple(each) for each in packed], self._bounds),
            accept_callback=lambda pid, _: self._accepted(batch, pid),
            callback=lambda computed: self._on_loop_thread(lambda: self._returned(batch, computed)),
            error_callback=lambda info: self._on_loop_thread(lambda: self._failed(batch, info.exception)),
            timeout=hard,
            soft_timeout=soft,
        )
        if self.inline:
            self._jobs.pop(batch.number, None)
        elif not self._threads:
            self._write()

    def look_after(self) -> None:
        """Kill a process that does not accept the batch that it was sent: the pool sends it to another. It has not begun.

        Looks are counted, not seconds: what a process has said while the loop stood still is read between two of them.
        """
        unaccepted, self._unaccepted = self._unaccepted, {}
        for number, job in self._jobs.items():
            process = getattr(job, "_scheduled_for", None)
            if process is None or job._accepted:  # noqa: SLF001 - billiard's only way
                continue
            pid, looks = unaccepted.get(number, (process.pid, 0))
            if pid != process.pid or looks < ACCEPTED_IN_LOOKS:
                self._unaccepted[number] = (process.pid, looks + 1 if pid == process.pid else 0)
                continue
            logger.error("process %d does not accept a batch: it is killed, and the batch runs elsewhere", pid)
            process._controlled_termination = True  # noqa: SLF001 - or it is said twice
            os.kill(pid, signal.SIGKILL)

    def terminate(self, batch: Batch, number: Any) -> None:
        if batch.pid is None and batch.number in self._jobs:  # no process has said yet that it is the one
            self._pending_signals[batch.number] = number
        elif batch.pid and batch.pid != os.getpid() and not self._threads:
            self._pool.terminate_job(batch.pid, number or TERM_SIGNAL)

    def stop(self, batch: Batch) -> None:
        """End the process that runs a batch, though nothing reads from the pool any more: also one that has got but a part of it.

        It is killed: SIGTERM would wait for native code to return, and then for somebody to read the process's last words.
        """
        job = self._jobs.get(batch.number)
        if self._processes is None or job is None:
            return
        job.discard()  # or the pool, as it ends, waits for what was half said, or will never be
        if (process := job._scheduled_for) is not None:  # noqa: SLF001 - billiard's only way
            self._pool.terminate_job(process.pid, signal.SIGKILL)
            if batch.pid is None:
                # Or who goes on writing to it never comes to an end.
                file_descriptors.redirect_to_null(process.inq._writer.fileno())  # noqa: SLF001

    def recall_unsent(self, batches: list[Batch]) -> list[Batch]:
        """Take batches out of the pool that no process has begun to read, or whose result will not be read."""
        if (processes := self._processes) is None:
            return []
        recalled = []
        for batch in batches:
            job = self._jobs.get(batch.number)
            unsent = job in processes.outbound_buffer
            if job is not None and (unsent or job._job not in processes._cache):  # noqa: SLF001 - billiard's only way
                if unsent:
                    processes.outbound_buffer.remove(job)
                job.discard()
                del self._jobs[batch.number]
                recalled.append(batch)
        return recalled

    def flush(self) -> None:
        """Finish what is being written to a process: while the loop stands still nobody else does.

        Celery's own would forget, too, what a process has got whole but not yet accepted: it runs all the same, and then waits for
        half a minute for somebody to read what came of it.
        """
        if (processes := self._processes) is None:
            return
        busy = set(processes._busy_workers)  # noqa: SLF001 - billiard's only way
        written = [job for job in self._jobs.values() if not job._accepted]  # noqa: SLF001
        for job in written:
            job._accepted = True  # noqa: SLF001
        processes.flush()
        for job in written:
            job._accepted = False  # noqa: SLF001
        processes._busy_workers.update(busy)  # noqa: SLF001

    def drain_results(self) -> None:
        """Handle the results of threads while the loop stands still."""
        if self._threads:
            self._drain()

    def _hook(self, processes: Any) -> None:
        """Take part in what Celery's pool does with its processes: their starts, their time limits, their ends."""
        handlers = processes._result_handler.state_handlers  # noqa: SLF001 - billiard's only way
        on_up, track = handlers[WORKER_UP], processes._track_child_process  # noqa: SLF001

        def up(pid: int) -> None:
            """Fill the slot of a process as it comes up, without waiting for a timer."""
            on_up(pid)
            self._dispatcher().slot_added()

        def track_live(process: Any, hub: Any) -> None:
            """Skip, where the loop begins anew, a process that has ended and is not reaped yet: Celery would fail at it."""
            if getattr(process, "_sentinel_poll", 0) is not None:
                track(process, hub)

        handlers[WORKER_UP], processes._track_child_process = up, track_live  # noqa: SLF001
        for name in ("on_soft_timeout", "on_hard_timeout"):
            setattr(processes, name, functools.partial(self._limited, getattr(processes, name)))

    def _limited(self, limit: Callable[[Any], None], job: Any) -> None:
        """Read what a process has returned before it is held to a time limit: the loop may have stood still for longer."""
        process, _ = self._pool._pool._process_by_pid(job._worker_pid)  # noqa: SLF001 - billiard's only way
        while process is not None and not job.ready() and self._pipes.read(process, READ_MS):
            pass
        if not job.ready():
            limit(job)

    @property
    def _processes(self) -> Any:
        """Celery's pool of processes; None where there are no processes, and when the pool has ended."""
        pool = getattr(self._pool, "_pool", None)
        return pool if hasattr(pool, "_all_inqueues") else None

    def _write(self) -> None:
        """Write to an idle process at once: Celery would first ask the loop, for two turns, whether its pipe can be written to."""
        processes, write = self._processes, getattr(self._hub, "consolidate_callback", None)
        if write is not None and processes is not None and processes.outbound_buffer:
            busy = processes._busy_workers | processes._active_writes  # noqa: SLF001 - billiard's only way
            write([fd for fd in processes._all_inqueues if fd not in busy])  # noqa: SLF001

    def _forget(self, batch: Batch) -> None:
        self._jobs.pop(batch.number, None)
        self._pending_signals.pop(batch.number, None)
        if batch.number in self._stuck:
            self._stuck.discard(batch.number)
            self._dispatcher().dispatch()

    def _accepted(self, batch: Batch, pid: int) -> None:
        batch.pid = pid
        if batch.number in self._pending_signals:
            self.terminate(batch, self._pending_signals.pop(batch.number))

    def _returned(self, batch: Batch, computed: Any) -> None:
        """Read what came back; a model can write to its process's pipe what looks like a message, and is no answer."""
        try:
            ran = read(computed, len(batch.requests))
        except Exception as exc:  # noqa: BLE001 - of whatever kind: no batch may stay without an end
            if batch.pid:
                self._replace(batch.pid, f"what it returned of a batch is none ({exc})")
            self._failed(batch, WorkerLostError("it returned something that is not an answer"))
            return
        self._finished(batch, ran)

    def _finished(self, batch: Batch, ran: BatchResult) -> None:
        self._forget(batch)
        if self._processes is not None and batch.pid:
            why = self._recycler.reason_to_replace(batch.pid, batch.model, ran.leak)
            if why:
                self._replace(batch.pid, why)
        self._dispatcher().batch_finished(batch, ran)

    def _replace(self, pid: int, why: str) -> None:
        """End a process that has nothing to do, and have another take its place."""
        processes = self._pool._pool  # noqa: SLF001 - billiard's only way
        process, _ = processes._process_by_pid(pid)  # noqa: SLF001
        if process is None:
            return
        logger.info("process %d is replaced: %s", pid, why)
        processes._all_inqueues.discard(process.inqW_fd)  # noqa: SLF001 - nothing more is written to it
        process._controlled_termination = True  # noqa: SLF001 - it is no error
        os.kill(pid, signal.SIGKILL)

    def _failed(self, batch: Batch, error: BaseException) -> None:
        self._forget(batch)
        error = getattr(error, "exc", error)  # billiard's wrapper
        if match := _LOST.fullmatch(str(error)):  # its job's number means nothing outside this worker
            error = WorkerLostError(match[1])
        reasons = {TimeLimitExceeded: "time limit", Terminated: "terminated"}
        reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), "process died")
        self._dispatcher().batch_failed(batch, error, reason)

    def _thread_timed_out(self, batch: Batch, hard: float) -> None:
        """A thread cannot be ended: its requests are, and what it still returns is discarded."""
        if batch.number in self._jobs:
            self._stuck.add(batch.number)
            self._dispatcher().batch_failed(batch, TimeLimitExceeded(hard), "time limit")

    def _on_loop_thread(self, work: Callable[[], None]) -> None:
        if not self._threads:
            work()
            return
        self._done.append(work)
        os.write(self._wakeup_w, b"1")

    def _on_wakeup(self) -> None:
        os.read(self._wakeup_r, 4096)
        self._drain()

    def _drain(self) -> None:
        while self._done:
            self._done.popleft()()


def end(pool: Any) -> None:
    """Kill every process of Celery's pool that still lives, and empty its pipe: who waits for it, or writes to it, comes to an end."""
    for process in list(getattr(getattr(pool, "_pool", None), "_pool", ())):
        if not getattr(process, "_is_alive", bool)():  # threads have none
            continue
        logger.warning("process %d does not end: it is killed", process.pid)
        process._controlled_termination = True  # noqa: SLF001 - or it is said twice
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
            pipe = process.inq._reader.fileno()  # noqa: SLF001
            os.set_blocking(pipe, False)
            while os.read(pipe, 1 << 16):
                pass
