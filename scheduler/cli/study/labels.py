"""Commands on labels: import, list, conflicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from db.text import counted
from scheduler.cli.console import errors, print_json, print_table, say
from scheduler.cli.help import CommandGroup
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson, Identifiers


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    labels = typer.Typer(
        cls=CommandGroup,
        help="The labels that readers gave to images, from which models are retrained.",
        no_args_is_help=True,
    )
    labels.command("import", epilog="Example: pneumoscreen labels import readings.csv")(import_)
    labels.command("list", epilog="Example: pneumoscreen labels list --json")(list_)
    labels.command("conflicts", epilog="Example: pneumoscreen labels conflicts --json")(conflicts)
    app.add_typer(labels, name="labels")


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with class (NORMAL, PNEUMONIA, BACTERIAL, VIRAL), one of path, digest or instance, "
            "and, if known, reader, date and patient.",
            show_default=False,
        ),
    ],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import labels. The same file twice adds nothing; a reader's later reading replaces the earlier."""
    from scheduler.labels import import_labels

    imported = import_labels(ready_database(), file, skip_bad=skip_bad)
    if as_json:
        print_json(asdict(imported))
        return
    say(
        f"{counted(imported.rows, 'row')}: {imported.new} new, {imported.known} known already, "
        f"{len(imported.bad)} left out."
    )
    for bad in imported.bad[:10]:
        errors.print(f"row {bad.row}: {bad.reason}", markup=False)
    if imported.conflicting:
        errors.print(
            f"{counted(imported.conflicting, 'image')} with contradicting readings: "
            "`pneumoscreen labels conflicts`. Retraining leaves them out."
        )


def list_(as_json: AsJson = False) -> None:
    """Count labelled images by class and reader, and those that are new since the champion was registered."""
    from db.models.registry import find_champion
    from db.training.labels import labelled_files

    with ready_database().read() as session:
        files = labelled_files(session)
        champion = find_champion(session)
        since = champion.created_at if champion is not None else 0.0
    settled = [file for file in files if not file.contradicts]
    by_class = Counter(str(file.class_name) for file in settled)
    by_reader = Counter(reader for file in files for reader in file.readings)
    counts: dict[str, Any] = {
        "images": len(files),
        "classes": dict(sorted(by_class.items())),
        "readers": dict(sorted(by_reader.items())),
        "conflicting": len(files) - len(settled),
        "new": sum(file.labelled_at > since for file in settled),
        "without_file": sum(file.uri is None for file in files),
    }
    if as_json:
        print_json(counts)
        return
    if not files:
        say("There are no labels yet. `pneumoscreen labels import FILE.csv` imports some.")
        return
    print_table(("class", "images"), sorted(by_class.items()), title="Labelled images")
    print_table(("reader", "images"), sorted(by_reader.items()), title="Readers")
    say(f"{counts['new']} new since the champion was registered; {counts['conflicting']} in conflict.")
    if counts["without_file"]:
        errors.print(
            f"Labelled, but no file is known: {counted(counts['without_file'], 'image')}, of which no cohort "
            "holds the digest or instance. Retraining leaves them out until one does, or until they are "
            "imported by path."
        )


def conflicts(identifiers: Identifiers = False, as_json: AsJson = False) -> None:
    """List the images whose readings contradict one another. Retraining leaves them out."""
    from db.training.labels import labelled_files
    from scheduler.ingest.pseudonym import ensure_site_key, uid_pseudonym

    database = ready_database()
    if not identifiers:
        ensure_site_key(database)

    def instance(uid: str | None) -> str | None:
        return uid if identifiers or uid is None else uid_pseudonym(uid)

    with database.read() as session:
        found = [file for file in labelled_files(session) if file.contradicts]
    if as_json:
        print_json(
            [
                {"digest": f.digest, "instance": instance(f.instance_uid), "readings": f.readings}
                for f in found
            ]
        )
        return
    if not found:
        say("No readings contradict one another.")
        return
    print_table(
        ("image", "readings"),
        [
            (
                file.digest[:12] if file.digest else instance(file.instance_uid),
                ", ".join(f"{reader}: {name}" for reader, name in sorted(file.readings.items())),
            )
            for file in found
        ],
    )
