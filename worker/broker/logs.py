"""The logs of Celery's processes: text, or JSON for a collector. They contain row ids and no patient data."""

from __future__ import annotations

import logging
import traceback
from typing import Any, Literal

from celery.signals import after_setup_logger

from db.errors import PneumoscreenError
from db.settings import RoomSettings
from worker.files.silence import silence_libraries


class LogSettings(RoomSettings):
    """Logs."""

    #: `text`, or `json` with a line per record: time, level, logger, message, and row ids as `cohort`,
    #: `batch`, `image`, `run` (training) and `night` if there are any.
    log_format: Literal["text", "json"] = "text"


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def set_format(logger: logging.Logger, **_: Any) -> None:
    """Give Celery's handlers the configured format, and remove the text of errors that are not ours."""
    silence_libraries()
    as_json = LogSettings.read().log_format == "json"
    for handler in logger.handlers:
        handler.addFilter(without_messages)
        if as_json:
            handler.setFormatter(json_formatter())


def without_messages(record: logging.LogRecord) -> bool:
    """Reduce the error of a record to traceback and type: libraries quote header values and paths."""
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        said = f": {error}" if isinstance(error, PneumoscreenError) else ""
        record.exc_text = "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__ + said
        record.exc_info = None
    return True


def json_formatter() -> logging.Formatter:
    """Return a formatter of one JSON object a line."""
    from pythonjsonlogger.json import JsonFormatter

    formatter: logging.Formatter = JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    return formatter
