"""The Celery app: `celery -A mutirao_worker.app worker` serves every model of the repository, `-Q mutirao.a,mutirao.b` some."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from billiard import current_process
from celery import Celery, concurrency, signals
from kombu import Exchange, Queue, compression
from kombu.serialization import register

from mutirao import errors, keyspace, printable, settings, urls
from mutirao.settings import PREFIX, Settings, without_password
from mutirao.wire import binary_codec
from mutirao_worker import banner, tasks
from mutirao_worker.celery_adapter import consumer, engine_step, file_descriptors, transport
from mutirao_worker.heartbeat import Heartbeat
from mutirao_worker.models.model_host import ModelHost
from mutirao_worker.models.repository import Repository
from mutirao_worker.process import cpu_wait, native_threads
from mutirao_worker.process.isolation import LeakDetector

RESULTS = "mutirao_worker.celery_adapter.result_backend:ResultBackend"


def _encode(_: Any) -> bytes:
    raise errors.InvalidRequest("workers write no messages in the binary form")


def make(loaded: Settings) -> Celery:
    """Build the app; no model is loaded and nothing connects."""
    loaded.direct()
    transport.install()
    options: dict[str, Any] = {"confirm_publish": True}
    if loaded.uses_amqp:  # what is published has been accepted by the broker, or raises
        broker = loaded.broker_url
    else:
        broker = urls.parse(loaded.broker_url).explicit()
        steps = {"priority_steps": list(keyspace.KOMBU_STEPS), "sep": keyspace.KOMBU_SEPARATOR}
        options = {**transport.options(loaded), **steps, "queue_order_strategy": "round_robin"}
    app = Celery("mutirao", broker=broker, backend=f"{RESULTS}+{without_password(loaded.result_url)}")
    app.host = ModelHost()
    app.conf.mutirao = loaded
    app.conf.update(
        accept_content=["json", "mutirao"],
        # kombu's own transports tell what a broker refuses as errors of a channel, which would end the worker.
        broker_channel_error_retry=True,
        broker_transport_options=options,
        event_serializer="json",
        result_accept_content=["json"],
        result_expires=loaded.result_ttl_s,
        result_serializer="json",
        task_acks_late=True,
        task_queues=[_queue(name) for name in Repository(loaded.models).names()],
        task_serializer="json",
        worker_consumer=consumer.CONSUMER,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Where kombu delivers, the engine sets the prefetch count by what the models take; this is what it begins with.
        worker_prefetch_multiplier=2,
        worker_send_task_events=True,
    )
    app.steps["consumer"].update({Heartbeat, engine_step.EngineStep})
    app.task(**tasks.OPTIONS)(tasks.predict)
    return app


def _queue(model: str) -> Queue:
    name = keyspace.queue(model)
    return Queue(name, exchange=Exchange("", type="direct"), routing_key=name)


def _name(instance: Any, **_: Any) -> None:
    """Escape what cannot be shown in a worker's name, before Celery, a log or a record has it."""
    instance.hostname = printable.escaped(instance.hostname)


def _start(sender: Any, **_: Any) -> None:
    """Load, or refuse to start: Celery would log what a signal's receiver raises, and go on."""
    try:
        _load(sender)
    except errors.MutiraoError as exc:
        sys.exit(f"error: {exc}")


def _load(worker: Any) -> None:
    """Load, in the parent, the models whose queues this worker consumes."""
    app = worker.app
    configured = app.conf.mutirao
    repository = Repository(configured.models, load_s=configured.load_s, load_memory=configured.load_memory)
    models = repository.names()
    if not models:
        raise errors.RepositoryError(
            f"no model in {app.conf.mutirao.models}: add one with mutirao models add NAME FILE, or set MUTIRAO_MODELS"
        )
    names = [_model(queue) for queue in app.amqp.queues.consume_from]
    if unknown := sorted(set(names) - set(models)):
        raise errors.ModelNotFound(
            f"model {unknown[0]!r} is not in {app.conf.mutirao.models}: there are {', '.join(models)}",
            model=unknown[0],
        )
    kind = concurrency.get_implementation(worker.pool_cls).__module__.rpartition(".")[2]
    _check_replacing(app.conf.mutirao, kind)
    app.host.threads = native_threads.per_process(worker.concurrency, os.environ)
    app.host.warm_up_s = app.conf.mutirao.warm_up_s
    before = file_descriptors.opened()
    with native_threads.one(then=app.host.threads):
        app.host.load(repository, names)
    app.host.model_descriptors = file_descriptors.opened() - before
    # A child is alive once it has warmed its models up; each has a time of its own for that.
    app.conf.worker_proc_alive_timeout = 60.0 + app.host.warm_up_s * len(names)
    _keep_compressed()
    banner.show(worker, app.host.infos(), app.host.threads)
    if kind == "thread":
        _prepare()  # no process is forked that could


def _keep_compressed() -> None:
    """Make kombu leave compressed bodies as they are: it would unpack them, without any bound, before they can be refused."""
    for content_type in compression.encoders():
        compression.register(compression.get_encoder(content_type)[0], lambda body: body, content_type)


def _check_replacing(settings: Settings, pool: str) -> None:
    for name in ("max_batches_per_process", "max_memory_per_process"):
        if (value := getattr(settings, name)) and pool != "prefork":
            key = f"{PREFIX}{name.upper()}"
            text = f"{key} is {value}: it needs --pool prefork, whose processes can be replaced"
            raise errors.SettingsError(text, key=key, value=str(value))


def _model(queue: str) -> str:
    name = keyspace.model_of(queue)
    if name is None:
        raise errors.InvalidRequest(
            f"queue {queue!r} is not allowed: a model's queue is called {keyspace.PREFIX}<model>"
        )
    return name


def _before_fork(**_: Any) -> None:
    app.host.check_warm_ups()
    app.host.parent_descriptors = file_descriptors.opened()


def _prepare(**_: Any) -> None:
    """Make a pool child ready before it is given work."""
    worker = getattr(current_process(), "_target", None)
    file_descriptors.silence(app.host.parent_descriptors - app.host.model_descriptors - file_descriptors.own(worker))
    if app.host.infos():
        pipe = None if worker is None else worker.outq._writer.fileno()  # noqa: SLF001
        with contextlib.nullcontext() if pipe is None else file_descriptors.withheld(pipe):
            # A process that warms up has nothing to say to its parent yet, and a model is not to.
            app.host.warm_up(getattr(current_process(), "index", 0))
        cpu_wait.waited_s()  # it keeps a file open
        app.host.leak_detector = LeakDetector()


register("mutirao", _encode, binary_codec.decode_body, content_type=binary_codec.BINARY, content_encoding="binary")
app = make(settings.load())
signals.celeryd_init.connect(_name, weak=False)
signals.worker_init.connect(_start, weak=False)
signals.worker_before_create_process.connect(_before_fork, weak=False)
signals.worker_process_init.connect(_prepare, weak=False)
