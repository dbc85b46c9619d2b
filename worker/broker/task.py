"""The base class of all tasks. Their errors quote no data."""

from __future__ import annotations

from typing import Any

from celery import Task

from db.errors import PneumoscreenError


class TaskFailed(PneumoscreenError):
    """A task failed with an unforeseen error. Please report it with its traceback, which contains no data."""

    code = "task-failed"


class GuardedTask(Task):  # type: ignore[misc]
    """A task whose errors show only their type and traceback.

    Celery writes the text of an error and of its causes to the log, and into the event that it sends to
    Flower over the broker. Libraries quote header values and paths in their errors.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Raises PneumoscreenError."""
        try:
            return super().__call__(*args, **kwargs)
        except PneumoscreenError as error:
            raise error from None
        except Exception as error:
            raise TaskFailed(type(error).__name__).with_traceback(error.__traceback__) from None
