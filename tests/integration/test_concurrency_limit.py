"""Turns, and the locks of a process, as forks and long calls meet them."""

import os
import signal
import threading

import pytest

from mutirao.redisdb.concurrency_limit import ConcurrencyLimit
from mutirao.single_flight import PerProcessLock


class Stuck(Exception):
    """Whatever a driver calls it."""


def _of_a_fork(run):
    """Run it in a fork while another thread is about the same; return how it ended."""
    child = os.fork()
    if not child:
        signal.alarm(10)  # which ends a fork that hangs
        run()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _held(what):
    """Hold something in another thread until the event is set."""
    began, over = threading.Event(), threading.Event()

    def hold():
        with what:
            began.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    began.wait()
    return thread, over


def test_a_lock_that_a_thread_held_at_the_fork():
    """A fork has the lock for itself, whoever held it at that moment."""
    lock = PerProcessLock()
    thread, over = _held(lock)

    def run():
        with lock:
            pass

    try:
        assert _of_a_fork(run) == 0
    finally:
        over.set()
        thread.join()
    run()


def test_a_turn_that_a_thread_had_at_the_fork():
    """A fork has turns of its own, whoever had one at that moment."""
    turns = ConcurrencyLimit(0.2, 1)
    thread, over = _held(turns)

    def run():
        with turns:
            pass

    try:
        assert _of_a_fork(run) == 0
    finally:
        over.set()
        thread.join()
    run()


def test_behind_a_call_that_takes_longer():
    """Who waits behind a call that said it takes longer waits as long; behind another one, no longer than any call may take."""
    turns = ConcurrencyLimit(0.05, 1, Stuck)
    thread, over = _held(turns)
    with pytest.raises(Stuck, match=r"none of 1 calls before this one was answered within 0\.05 s"), turns:
        pass
    over.set()
    thread.join()
    thread, over = _held(turns)
    turns.extend(30)
    threading.Timer(0.3, over.set).start()
    with turns:
        pass
    thread.join()
