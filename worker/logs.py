"""Logs of Celery's processes: text for people, JSON for a collector. Both carry row ids, no patient data."""

from __future__ import annotations

import logging
from typing import Any, Literal

from celery.signals import after_setup_logger

from db.settings import RoomSettings


class LogSettings(RoomSettings):
    """Logs."""

    #: `text`, or `json` with a line per record: time, level, logger, message, and row ids as `cohort`,
    #: `batch`, `image`, `run` (training) and `night` where there are any.
    log_format: Literal["text", "json"] = "text"


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def set_format(logger: logging.Logger, **_: Any) -> None:
    """Give Celery's handlers the format that is set."""
    if LogSettings.read().log_format == "json":
        for handler in logger.handlers:
            handler.setFormatter(json_formatter())


def json_formatter() -> logging.Formatter:
    """Return a formatter of one JSON object a line."""
    from pythonjsonlogger.json import JsonFormatter

    formatter: logging.Formatter = JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    return formatter
