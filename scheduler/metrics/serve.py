"""The metrics server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.upkeep.migrate import current_revision, head_revision
from scheduler.metrics.broker import BrokerFigures, ask_broker
from scheduler.metrics.collect import JobTableCollector

log = logging.getLogger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def make_metrics_app(
    database: Database, seconds: float, ask: Callable[[], BrokerFigures] = ask_broker
) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    """Return the WSGI application.

    `/healthz` is 200 while this process answers, `/readyz` if the job table and the broker answer too.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobTableCollector(database, ask, seconds))
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            try:
                return metrics(environ, start_response)  # type: ignore[no-any-return]
            except DatabaseFailed as error:
                log.warning("the job table does not answer: %s", error.code)
                return _answer(start_response, "503 Service Unavailable", "the job table does not answer")
        if path == "/healthz":
            return _answer(start_response, "200 OK", "ok")
        if path == "/readyz":
            missing = what_is_missing(database, ask)
            status = "503 Service Unavailable" if missing else "200 OK"
            return _answer(start_response, status, missing or "ready")
        return _answer(start_response, "404 Not Found", "see /metrics, /healthz, /readyz")

    return app


def what_is_missing(database: Database, ask: Callable[[], BrokerFigures]) -> str:
    """Return why no work can be done, or an empty text."""
    try:
        if current_revision(database) != head_revision():
            return "the job table has another revision: `pneumoscreen doctor`"
    except DatabaseFailed:
        return "the job table does not answer"
    return "" if ask().up else "the broker does not answer"


def _answer(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = text.encode() + b"\n"
    start_response(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    )
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    """A thread per request: a slow scrape must not look like a dead process."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log no requests: there is one every few seconds."""


def serve(database: Database, host: str, port: int, seconds: float) -> WSGIServer:
    """Return a server that listens; `serve_forever` runs it."""
    return make_server(
        host, port, make_metrics_app(database, seconds), server_class=_Server, handler_class=_Quiet
    )
