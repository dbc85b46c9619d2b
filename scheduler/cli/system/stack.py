"""Commands on running processes: up, down, doctor, metrics, alive."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from scheduler.cli.console import console, errors, print_json, print_table
from scheduler.cli.pages import print_pages
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command, example in (
        (up, "pneumoscreen up"),
        (down, "pneumoscreen down"),
        (doctor, "pneumoscreen doctor --json"),
        (metrics, "pneumoscreen metrics --port 9464"),
        (alive, "pneumoscreen alive screen"),
    ):
        app.command(epilog=f"Example: {example}")(command)


def up(
    wait: Annotated[bool, typer.Option(help="Wait until the workers answer.")] = True,
    as_json: AsJson = False,
) -> None:
    """Start the embedded stack: broker, workers, beat and Flower on this machine."""
    from deploy.stack import Stack
    from scheduler.cli.system.running import LOADING, start_stack, workers_answer

    stack = Stack()
    database = ready_database(with_champion=True)
    started = start_stack(database, stack)
    if started and wait:
        errors.print(f"Starting the workers; {LOADING}")
    if wait:
        stack.wait_ready(lambda: stack.serves("flower") and stack.serves("metrics") and workers_answer())
    if as_json:
        print_json(
            {
                "started": started,
                "home": str(stack.home),
                "flower": stack.flower_address,
                "flower_user": stack.flower_login[0],
                "metrics": stack.metrics_address,
            }
        )
    else:
        if not started:
            console.print("The stack runs already.")
        print_table(("process", "state", "pid"), [(p.name, p.state, p.pid) for p in stack.processes()])
        print_pages()
        console.print(f"Logs: {shlex.quote(str(stack.logs))}", markup=False)


def down(as_json: AsJson = False) -> None:
    """Stop the embedded stack, even if others use it; each process finishes what it holds first."""
    from deploy.stack import Stack

    stopped = Stack().stop()
    left_over = [process.name for process in stopped.left_over]
    if as_json:
        print_json({"stopped": stopped.was_running or bool(left_over), "left_over": left_over})
    elif left_over:
        console.print(f"Stopped what supervisord had left: {', '.join(left_over)}.")
    else:
        console.print("Stopped." if stopped.was_running else "It was not running.")


def doctor(as_json: AsJson = False) -> None:
    """Check for common problems, and show how to fix them."""
    from scheduler.cli.system.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        print_table(
            ("check", "verdict", "found", "what to do"),
            [(f.check, f.verdict, f.found, f.mend) for f in findings],
        )
    raise typer.Exit(2 if any(finding.verdict == "bad" for finding in findings) else 0)


def metrics(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; the setting by default.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; the setting by default.", show_default=False),
    ] = None,
) -> None:
    """Serve /metrics for Prometheus, /healthz and /readyz, until it is stopped."""
    from scheduler.metrics.serve import serve
    from scheduler.metrics.settings import MetricsSettings

    settings = MetricsSettings.read()
    server = serve(
        ready_database(),
        host or settings.metrics_host,
        settings.metrics_port if port is None else port,
        settings.metrics_broker_seconds,
    )
    errors.print(f"http://{server.server_name}:{server.server_port}/metrics", markup=False)
    server.serve_forever()


def alive(
    worker: Annotated[str, typer.Argument(help="screen, training or housekeeping.", show_default=False)],
) -> None:
    """Check that this host's worker of a kind answers; end with 2 if it does not."""
    import socket

    from scheduler.cli.system.running import answering

    if f"{worker}@{socket.gethostname()}" not in answering():
        errors.print("no answer")
        raise typer.Exit(2)
