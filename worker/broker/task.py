"""What all tasks have in common: they fail without saying what they had in hand."""

from __future__ import annotations

from typing import Any

from celery import Task

from db.errors import PneumoscreenError


class TaskFailed(PneumoscreenError):
    """A task met an error that was not foreseen. Please report it with its traceback, which holds no data."""

    code = "task-failed"


class QuietTask(Task):  # type: ignore[misc]
    """A task whose errors name their kind and where they arose.

    Celery writes an error's text, and those of the errors before it, to the log and into the event that goes
    over the broker to Flower. Libraries quote header values and paths in theirs.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Raises PneumoscreenError."""
        try:
            return super().__call__(*args, **kwargs)
        except PneumoscreenError as error:
            raise error from None
        except Exception as error:
            raise TaskFailed(type(error).__name__).with_traceback(error.__traceback__) from None
