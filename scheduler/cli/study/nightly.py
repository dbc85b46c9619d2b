"""Commands on nightly schedules: list, run, history, test-mail."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from scheduler.cli.console import console, print_json, print_table, say
from scheduler.cli.help import CommandGroup
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson
from scheduler.local_time import local_time

if TYPE_CHECKING:
    from db.tables import NightlyRun

#: Counts of the images that a run added.
_COUNTS = ("new", "done", "skipped", "failed", "left")

Name = Annotated[str, typer.Argument(help="Name of a schedule.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    nightly = typer.Typer(
        cls=CommandGroup,
        help="Screening at set times: `[[nightly]]` in pneumoscreen.toml.",
        no_args_is_help=True,
    )
    nightly.command("list", epilog="Example: pneumoscreen nightly list --json")(list_)
    nightly.command("run", epilog="Example: pneumoscreen nightly run ward-7")(run)
    nightly.command("test-mail", epilog="Example: pneumoscreen nightly test-mail")(test_mail)
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
    if not found:
        say("There are no schedules yet. A `[[nightly]]` in pneumoscreen.toml makes one.")
        return
    columns = ("name", "source", "cron", "time_zone", "until", "next", "last", "state")
    print_table(columns, [[one[column] for column in columns] for one in found])


def run(name: Name, as_json: AsJson = False) -> None:
    """Screen the new images of a schedule's source now, independently of its time and window."""
    from scheduler.cli.system.running import say_missing_workers
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
        say_missing_workers({"screen", "housekeeping"}, "the run waits")


def history(
    name: Annotated[
        str | None, typer.Argument(help="Name of a schedule; all of them by default.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the last 30 runs, their results, and whether their summaries were sent.

    The counts are of the images that a run added; its summary also counts those that earlier nights had left.
    """
    from db.nights.runs import history as past

    with ready_database().read() as session:
        runs = past(session, name)
        rows = [_row(one) for one in runs]
        shown = [row | _shown(one) for row, one in zip(rows, runs, strict=True)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("There are no nightly runs yet. `pneumoscreen nightly run NAME` starts one now.")
        return
    columns = ("run", "name", "due", "state", *_COUNTS, "positive", "problem", "summary")
    print_table(columns, [[row[column] for column in columns] for row in shown])


def test_mail(as_json: AsJson = False) -> None:
    """Send a mail as morning summaries are sent, to see that it arrives."""
    import socket

    from scheduler.nightly.delivery import SendSettings, send_test

    settings = SendSettings.read()
    attempt = send_test(settings, socket.gethostname())
    server = f"{settings.smtp_host}, port {settings.smtp_port}"
    if as_json:
        print_json({"to": list(settings.mail_to), "server": server, "problem": attempt.problem})
    else:
        note = f"; {attempt.problem}" if attempt.problem else ""
        say(f"Sent to {', '.join(settings.mail_to)} through {server}{note}.")


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
        "delivery": figures.get("delivery"),
        "summarised_at": run.summarised_at,
    }


def _shown(run: NightlyRun) -> dict[str, str]:
    """Return what a table shows in other words than JSON: times with their zone, and the delivery."""
    zone = ZoneInfo(run.plan["time_zone"])
    return {"due": local_time(run.slot, zone), "summary": _delivered(run)}


def _delivered(run: NightlyRun) -> str:
    """Return where and when a run's summary was sent, or why it was not."""
    if run.summary is None:
        return ""
    said = []
    for channel, attempt in run.summary.get("delivery", {}).items():
        moment = _local(attempt["at"], run.plan["time_zone"])
        if attempt["sent"]:
            note = f" ({attempt['problem']})" if attempt["problem"] else ""
            said.append(f"{channel} sent {moment}{note}")
        else:
            again = "it is tried again" if run.summarised_at is None else "given up"
            said.append(f"{channel} not sent {moment}: {attempt['problem']}; {again}")
    if not said:  # an earlier version noted no times
        said = [f"{channel} sent" for channel in run.summary.get("sent", ())]
    return "; ".join(said) or "not sent: neither mail nor a webhook is set up"


def _local(moment: float, time_zone: str) -> str:
    return datetime.fromtimestamp(moment, ZoneInfo(time_zone)).strftime("%Y-%m-%d %H:%M")
