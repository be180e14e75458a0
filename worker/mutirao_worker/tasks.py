"""The one task."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.exceptions import Ignore

from mutirao import codec, errors, messages, queues
from mutirao_worker import execution, strategy

OPTIONS: dict[str, Any] = {
    "name": queues.TASK,
    "bind": True,
    # A request is acknowledged once its result is kept; one whose process died is answered, not run for ever.
    "acks_late": True,
    "reject_on_worker_lost": False,
    # Arguments are checked here, where the answer can say what is wrong with them.
    "typing": False,
    # Errors of ours are expected: Celery logs them in one line, by their payload-free repr.
    "throws": (errors.MutiraoError,),
    "Strategy": strategy.NAME,
    "Request": strategy.REQUEST,
}


def predict(self: Task, *args: Any, **options: Any) -> messages.PredictResult:
    """Answer one prediction request.

    Args:
        self: the task, bound by Celery.
        args: the model's name, and a V2 inference request or a bare nested list.
        options: none are defined.

    Raises:
        MutiraoError: the request, the model or its output is at fault; the class says which.
    """
    if not self.backend.begin(self.request.id, self.request.hostname or ""):
        raise Ignore
    if len(args) != 2 or options:
        text = f"mutirao.predict takes (model, request), got {len(args)} arguments and options {sorted(options)}"
        raise errors.InvalidRequest(text, reason="not (model, request)")
    model, request = queues.model_name(args[0]), messages.read_request(args[1])
    loaded = self.app.host.find(model)
    if codec.is_beside(request):
        request = codec.request_with(request, self.backend.payload(self.request.id))
    return execution.answer(loaded, request)
