"""Commands on the job table: upgrade, check, backup, restore, prune, new-key."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from db.text import counted
from scheduler.cli.console import console, errors, print_audit_head, print_json, print_table, say
from scheduler.cli.help import CommandGroup
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson

if TYPE_CHECKING:
    from db.upkeep.backup import Contents

File = Annotated[Path, typer.Argument(help="File of the backup.", show_default=False)]

_WITH_KEY = (
    "Warning: the backup holds paths, UIDs and site.key, the key of the pseudonyms, by which patient IDs can "
    "be found by trying. Keep it as you keep patient data, or use --without-key and keep site.key elsewhere."
)
_WITHOUT_KEY = (
    "Warning: the backup holds paths and UIDs, and not site.key, the key of the pseudonyms. Without a copy "
    "of site.key, a restored installation gives the same patients other pseudonyms."
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    database = typer.Typer(
        cls=CommandGroup,
        help="The job table: upgrade, check, backup, restore, prune, new-key.",
        no_args_is_help=True,
    )
    database.command("upgrade", epilog="Example: pneumoscreen db upgrade")(upgrade)
    database.command("check", epilog="Example: pneumoscreen db check --repair")(check)
    database.command("backup", epilog="Example: pneumoscreen db backup /backup/2026-05-01.tar")(backup)
    database.command("restore", epilog="Example: pneumoscreen db restore /backup/2026-05-01.tar")(restore)
    database.command("new-key", epilog="Example: pneumoscreen db new-key")(new_key)
    database.command("prune", epilog="Example: pneumoscreen db prune /archive --days 365")(prune)
    app.add_typer(database, name="db")


def upgrade(as_json: AsJson = False) -> None:
    """Create or upgrade the tables for this version. Other commands do it too, if it is needed."""
    from db.upkeep.migrate import current_revision

    revision = current_revision(ready_database())
    if as_json:
        print_json({"revision": revision})
    else:
        console.print(f"The job table has revision {revision}.")


def check(
    repair: Annotated[bool, typer.Option("--repair", help="Count all images again if they differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the counters of images, which `status` shows, with the images. Ten million take a minute."""
    from db.audit.events import record
    from db.upkeep.counters import compare, recount

    database = ready_database()
    with database.read() as session:
        differences = compare(session)
    if differences and repair:
        with database.write() as session:
            recount(session)
            record(session, "database.recount", "database", differences=len(differences))
    if as_json:
        print_json([asdict(one) for one in differences])
    elif differences:
        print_table(
            ("cohort (row)", "state", "problem", "counter", "images"),
            [(one.cohort_id, one.state, one.problem, one.counter, one.images) for one in differences],
        )
        console.print("Counted again." if repair else "Run `pneumoscreen db check --repair`.")
    else:
        console.print("Every counter is correct.")
    raise typer.Exit(2 if differences and not repair else 0)


def backup(
    file: File,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Leave out the key of the patients' pseudonyms.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write job table, models and site key to one file, while the system runs."""
    from db.audit.events import record
    from db.upkeep.backup import backup as write

    database = ready_database()
    contents = write(database, file, with_key=not without_key)
    with database.write() as session:
        record(session, "database.backup", "database", rows=sum(contents.rows.values()), key=contents.has_key)
    if as_json:
        print_json(asdict(contents))
    else:
        say(f"{_size(contents)} written.")
        print_audit_head(contents.audit_head)
    errors.print(_WITH_KEY if contents.has_key else _WITHOUT_KEY)


def restore(file: File, as_json: AsJson = False) -> None:
    """Fill an empty job table and data directory from a backup, in SQLite or PostgreSQL."""
    from db.engine import Database
    from db.upkeep.backup import restore as read

    contents = read(Database(), file)
    if as_json:
        print_json(asdict(contents))
    else:
        say(f"{_size(contents)} restored.")


def _size(contents: Contents) -> str:
    return f"{counted(sum(contents.rows.values()), 'row')} and {counted(len(contents.models), 'model')}"


def new_key(as_json: AsJson = False) -> None:
    """Replace a lost key of the pseudonyms: use the site.key that is in its place, or make one.

    The same patients, studies and images get other pseudonyms from then on.
    """
    from scheduler.ingest.pseudonym import new_site_key

    new_site_key(ready_database())
    if as_json:
        print_json({"key": "site.key"})
    else:
        console.print("Pseudonyms are made with this data directory's site.key from now on. Back it up.")


def prune(
    folder: Annotated[Path, typer.Argument(help="Folder of the archive.", show_default=False)],
    days: Annotated[
        float, typer.Option(min=0, help="Age in days of the cohorts that are moved.", show_default=False)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which cohorts would be moved.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move finished cohorts older than --days out of the job table, each into a Parquet file."""
    from scheduler.exports.archive import prune as move

    if dry_run:
        _show_archivable(days, as_json=as_json)
        return
    moved = move(ready_database(), folder, days=days)
    if as_json:
        print_json([asdict(one) | {"file": str(one.file)} for one in moved])
        return
    if moved:
        print_table(("cohort", "rows", "file"), [(one.cohort, one.rows, one.file.name) for one in moved])
    say(f"{counted(len(moved), 'cohort')} moved.")


def _show_archivable(days: float, *, as_json: bool) -> None:
    """Print the cohorts that `prune` would move, with the rows that each archive would have."""
    from db.upkeep.archive import archivable

    with ready_database().read() as session:
        found = archivable(session, older_than_seconds=days * 86_400)
    if as_json:
        print_json([{"cohort": one.counts.name, "rows": one.rows} for one in found])
        return
    if found:
        print_table(("cohort", "rows"), [(one.counts.name, one.rows) for one in found])
    say(f"{counted(len(found), 'cohort')} would be moved. Nothing was changed.")
