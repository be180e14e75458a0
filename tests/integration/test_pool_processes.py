"""Processes of Celery's own pool, as the worker's slots see them."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub

from mutirao.settings import Settings
from mutirao_worker.celery_adapter.pool import WorkerPool


def test_the_loop_begins_anew_while_a_process_ends():
    """A process whose end was heard and that is not reaped yet, as when Redis went away just then, does not end the worker."""
    hub, celery = Hub(), Celery("pools", broker="memory://", set_as_current=False)
    pool = TaskPool(1, app=celery, threads=False, initargs=(celery, "w1@here"))
    pool.start()
    try:
        WorkerPool(pool, hub, Settings(), dispatcher=pytest.fail)
        pool.register_with_event_loop(hub)
        (process,) = pool._pool._pool
        pool._pool._untrack_child_process(process, hub)
        pool.register_with_event_loop(hub)
        assert process.is_alive()
    finally:
        pool.terminate()
        hub.close()
