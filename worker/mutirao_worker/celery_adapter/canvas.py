"""What a stock client wants to be run after its request: callbacks, the rest of a chain, a chord's body, error callbacks."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from celery import Celery, states
from celery.app.task import Context
from celery.canvas import maybe_signature

from mutirao import keyspace
from mutirao_worker.engine.outcome import Outcome
from mutirao_worker.engine.request import Request

logger = logging.getLogger(__name__)


class Canvas:
    """Runs it, on behalf of one worker."""

    def __init__(self, app: Celery) -> None:
        """Take the app whose tasks they are."""
        self._app = app

    def plan(self, outcome: Outcome) -> Outcome:
        """Give what is to follow its ids, and name it in the record: that is written before anything follows."""
        embed = dict(outcome.embed or {})
        if outcome.status != "SUCCESS" or outcome.children:
            return outcome
        try:
            embed["callbacks"] = [maybe_signature(each, app=self._app) for each in embed.get("callbacks") or ()]
            embed["chain"] = chain = list(embed.get("chain") or ())
            chain[-1:] = [maybe_signature(each, app=self._app) for each in chain[-1:]]
            following = [each.freeze().as_tuple() for each in (*embed["callbacks"], *chain[-1:])]
            return outcome._replace(embed=embed, children=msgspec.json.encode(following))
        except Exception:
            logger.exception("cannot read what is to follow %s", outcome.request.id)
            return outcome

    def follow(self, outcome: Outcome) -> None:
        """Run what is to follow a request that has ended."""
        request, embed = outcome.request, outcome.embed or {}
        context = _context(request, embed)
        result = msgspec.json.decode(outcome.result)
        try:
            if outcome.status == "SUCCESS":
                for each in embed.get("callbacks") or ():
                    maybe_signature(each, app=self._app).apply_async(
                        (result,), parent_id=request.id, root_id=context.root_id
                    )
                if chain := list(embed.get("chain") or ()):
                    maybe_signature(chain.pop(), app=self._app).apply_async(
                        (result,), chain=chain, parent_id=request.id, root_id=context.root_id
                    )
                if context.chord:
                    self._app.backend.on_chord_part_return(context, states.SUCCESS, result)
            else:
                error = self._app.backend.exception_to_python(result)
                self._app.backend.mark_as_failure(request.id, error, request=context, store_result=False)
        except Exception:
            logger.exception("could not run what follows %s", request.id)


def _context(request: Request, embed: dict[str, Any]) -> Context:
    """Return what Celery's backend needs of a task's request to run what follows it."""
    headers = request.headers
    context: Context = Context(
        {name: embed.get(name) for name in ("callbacks", "chain", "chord", "errbacks")},
        args=[], kwargs={}, delivery_info={"priority": request.priority}, group=headers.group,
        group_index=headers.group_index, id=request.id, ignore_result=bool(headers.ignore_result), name=keyspace.TASK,
        parent_id=headers.parent_id, retries=headers.retries or 0, root_id=headers.root_id or request.id,
        task=keyspace.TASK, task_id=request.id,
    )  # fmt: skip
    return context
