"""Restrictions and corrections of Flower; `deploy/flower/flowerconfig.py` applies them before Flower starts.

Flower 2.2 lets read-only users send tasks over its API and answers `/metrics` without a login. It lists only
the queues of workers that ran before it, and its queue lengths leave out messages that workers have taken.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from scheduler.metrics.broker import UNACKED, queue_of
from worker.broker.app import QUEUES

#: The result of `screen.batch`, as Celery writes it into an event.
_SCREENED = re.compile(r"\{'batch': (\d{1,19}), 'cohort': (\d{1,19})\}")


def close(*, metrics: bool) -> None:
    """Refuse requests that change anything in read-only mode, and `/metrics` unless `metrics` is set."""
    from flower.api import BaseApiHandler
    from flower.urls import handlers
    from flower.utils.broker import Redis
    from flower.views import BaseHandler
    from flower.views.error import NotFoundErrorHandler
    from tornado.web import HTTPError

    allowed = BaseApiHandler.prepare

    def prepare(self: Any) -> None:
        if self.application.options.read_only and self.request.method not in ("GET", "HEAD", "OPTIONS"):
            raise HTTPError(403, "Flower is read-only here")
        allowed(self)

    BaseApiHandler.prepare = prepare
    if not metrics:
        handlers[:] = [
            (one[0], NotFoundErrorHandler) if isinstance(one, tuple) and one[0] == r"/metrics" else one
            for one in handlers
        ]
    # Flower would list only the queues of the workers that answered when it started.
    BaseHandler.get_active_queue_names = lambda _: sorted(QUEUES)
    waiting = Redis.queues

    async def queues(self: Any, names: Any) -> list[dict[str, Any]]:
        taken = Counter(queue_of(value) for value in await self.redis.hvals(UNACKED))
        found: list[dict[str, Any]] = await waiting(self, names)
        return [one | {"messages": one["messages"] + taken[one["name"]]} for one in found]

    Redis.queues = queues


def redact(task: Any) -> Any:
    """Reduce a task to row ids and the kind of its error.

    A message names a batch, and its worker takes the most urgent one: the result says which one it was.
    """
    args = str(getattr(task, "args", None) or "").strip("()[], ")
    task.args = f"({args},)" if args.isdigit() else "(redacted)" if args else ""
    task.exception = str(getattr(task, "exception", None) or "").partition("(")[0]
    done = _SCREENED.fullmatch(str(getattr(task, "result", None) or ""))
    task.result = f"batch {done[1]} of cohort {done[2]}" if done else ""
    task.kwargs = task.traceback = ""
    return task
