"""Commands on nightly schedules: list, run, history."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.console import console, print_json, print_table
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson

if TYPE_CHECKING:
    from db.tables import NightlyRun

Name = Annotated[str, typer.Argument(help="Name of a schedule.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    nightly = typer.Typer(
        help="Screening at set times: `[[nightly]]` in pneumoscreen.toml.", no_args_is_help=True
    )
    nightly.command("list", epilog="Example: pneumoscreen nightly list --json")(list_)
    nightly.command("run", epilog="Example: pneumoscreen nightly run ward-7")(run)
    nightly.command("history", epilog="Example: pneumoscreen nightly history ward-7")(history)
    app.add_typer(nightly, name="nightly")


def list_(as_json: AsJson = False) -> None:
    """List the schedules, with the last and the next time at which each is due."""
    from db.nights.runs import history as past
    from db.nights.runs import now
    from scheduler.nightly.schedule import NightlySettings

    found: list[dict[str, Any]] = []
    with ready_database().read() as session:
        moment = now(session)
        for one in NightlySettings.read().nightly:
            last = past(session, one.name, limit=1)
            found.append(
                one.as_json()
                | {
                    "next": _local(one.next_slot(moment), one.time_zone),
                    "last": _local(last[0].slot, one.time_zone) if last else None,
                    "state": last[0].state if last else None,
                }
            )
    if as_json:
        print_json(found)
        return
    columns = ("name", "source", "cron", "time_zone", "until", "next", "last", "state")
    print_table(columns, [[one[column] for column in columns] for one in found])


def run(name: Name, as_json: AsJson = False) -> None:
    """Screen the new images of a schedule's source now, independently of its time and window."""
    from scheduler.nightly.schedule import NightlySettings
    from scheduler.nightly.slots import run_now
    from worker.broker.notify import ask_for_nights

    schedule = NightlySettings.read().find(name)
    run_id = run_now(ready_database(with_champion=True), schedule)
    ask_for_nights()
    if as_json:
        print_json({"run": run_id})
    else:
        console.print(f"Nightly run {run_id} is open; `pneumoscreen nightly history {name}` shows it.")


def history(
    name: Annotated[
        str | None, typer.Argument(help="Name of a schedule; all of them by default.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the last 30 runs and their results."""
    from db.nights.runs import history as past

    with ready_database().read() as session:
        runs = past(session, name)
        rows = [_row(one) for one in runs]
    if as_json:
        print_json(rows)
        return
    columns = (
        "run", "name", "due", "state", "new", "done", "skipped", "failed", "left", "positive", "problem",
    )  # fmt: skip
    print_table(columns, [[row[column] for column in columns] for row in rows])


def _row(run: NightlyRun) -> dict[str, Any]:
    figures = run.summary or {}
    return {
        "run": run.id,
        "name": run.name,
        "due": _local(run.slot, run.plan["time_zone"]),
        "state": run.state,
        **{what: figures.get(what) for what in ("new", "done", "left", "positive", "images_per_second")},
        "skipped": sum(figures["skipped"].values()) if figures else None,
        "failed": sum(figures["failed"].values()) if figures else None,
        "earlier": figures.get("earlier"),
        "problem": run.problem,
    }


def _local(moment: float, time_zone: str) -> str:
    from zoneinfo import ZoneInfo

    return datetime.fromtimestamp(moment, ZoneInfo(time_zone)).strftime("%Y-%m-%d %H:%M")
