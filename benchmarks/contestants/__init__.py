"""The contestants by name. A new one is a module here with a `Contestant` in it, and a line in this table."""

from __future__ import annotations

from importlib import import_module

from contestant import Contestant

TABLE = {
    "mutirao": "this_system:ThisSystem",
    "mutirao-no-events": "this_system:NoEvents",
    "mutirao-flower": "this_system:Watched",
    "mutirao-stock": "this_system:StockClient",
    "celery-prefork": "plain_celery:Prefork",
    "celery-solo": "plain_celery:Solo",
    "celery-lazy": "plain_celery:Lazy",
    "in-process": "in_process:RowByRow",
    "in-process-batch": "in_process:OneBatch",
}

# celery-lazy differs from celery-prefork only in when it loads the model, which only memory shows.
BY_SPEED = ("mutirao", "mutirao-stock", "celery-prefork", "celery-solo", "in-process", "in-process-batch")
BY_MEMORY = ("mutirao", "celery-prefork", "celery-solo", "celery-lazy", "in-process")
# What watching costs: the second is measured against the first.
BY_EVENTS = ("mutirao-no-events", "mutirao-flower")


def find(name: str) -> type[Contestant]:
    """Import a contestant's class: only then, so that no contestant pays for another's imports."""
    module, _, cls = TABLE[name].partition(":")
    found: type[Contestant] = getattr(import_module(f"contestants.{module}"), cls)
    return found
