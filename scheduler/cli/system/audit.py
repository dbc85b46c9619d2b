"""The command on the audit log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from db.text import counted
from scheduler.cli.completion import cohorts
from scheduler.cli.console import console, print_json, print_table, say
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson
from scheduler.local_time import local_time


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(epilog="Example: pneumoscreen audit --verify")(audit)


def audit(  # noqa: PLR0917  (a command's options are its parameters)
    subject: Annotated[
        str | None,
        typer.Argument(help="Subject of the events, as in cohort:12; all by default.", show_default=False),
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(
            help="Name of a cohort, to show its events.", show_default=False, autocompletion=cohorts
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Events to show, the newest.", min=1)] = 50,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check instead that no event was changed after it was written.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="With --verify: a digest that this command printed before.", show_default=False),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="With --verify: a file that holds such digests: a backup, a Parquet export, a nightly "
            "summary, or a text.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who did what and when: submit, cancel, retry, export, promote, training, archives."""
    from db.audit.chain import newest, seal
    from db.audit.chain import verify as follow
    from db.jobs.cohorts import find_cohort
    from scheduler.exports.noted_heads import noted_heads

    if cohort is not None and subject is not None:
        raise typer.BadParameter("name a subject or a cohort, not both", param_hint="--cohort")
    noted = {head} if head is not None else set()
    if against is not None:
        noted |= noted_heads(against)
    database = ready_database()
    if verify:
        with database.write() as session:
            # Verify before sealing, so that sealing does not hide an earlier change.
            follow(session, noted=noted)
            seal(session)
            chain = follow(session)
        if as_json:
            print_json(asdict(chain))
        else:
            console.print(f"{counted(chain.sealed, 'event')}, none changed. Keep this digest: {chain.head}")
        return
    with database.read() as session:
        if cohort is not None:
            subject = f"cohort:{find_cohort(session, cohort).id}"
        events = newest(session, subject=subject, limit=limit)
    if as_json:
        names = ("at", "actor", "action", "subject", "detail", "sequence", "digest")
        print_json([{name: getattr(event, name) for name in names} for event in events])
        return
    if not events:
        rest = "" if subject is None else f" of {subject}; `pneumoscreen audit` shows those of all subjects"
        say(f"There are no events{rest}.")
        return
    print_table(
        ("when", "who", "what", "to", "detail"),
        [
            (
                local_time(event.at, seconds=True),
                event.actor,
                event.action,
                event.subject,
                json.dumps(event.detail) if event.detail else "",
            )
            for event in events
        ],
    )
