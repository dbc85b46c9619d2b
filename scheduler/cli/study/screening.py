"""Commands that take in, screen and show in one go: demo and screen."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.console import console, errors, print_json, print_table, say
from scheduler.cli.ready import ready_database
from scheduler.cli.signals import Ended, ended_by_signals
from scheduler.cli.study.cohorts import AsJson, Identifiers, exit_code, print_problems, progress_json
from scheduler.disclaimer import DISCLAIMER

if TYPE_CHECKING:
    from db.engine import Database
    from db.queries.progress import Progress
    from deploy.stack import Stack

#: Rows of a results table that are shown in a terminal.
_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: pneumoscreen demo --keep")(demo)
    app.command(epilog="Example: pneumoscreen screen /data/trial-7 --out trial-7.csv")(screen)


def screen(
    source: Annotated[
        str, typer.Argument(help="A folder of any depth, an image file or a URL.", show_default=False)
    ],
    cohort: Annotated[
        str | None,
        typer.Option(help="Name of the cohort; by default made from the source.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Results file: .csv, .parquet or .json.", show_default=False),
    ] = None,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """Screen a source and wait. Starts the stack if it is not running, and stops it at the end.

    Ctrl-C, TERM and HUP stop it cleanly; the same command continues where it stopped, and screens nothing
    twice. A stack that other commands use keeps running.
    """
    from scheduler.cli.system.running import running_stack
    from scheduler.exports.results import check_output
    from scheduler.ingest import open_source
    from scheduler.submit import default_cohort, submit
    from scheduler.watch import watch

    if out is not None:
        check_output(out)
    place = open_source(source)
    database = ready_database(with_champion=True)
    name = cohort or default_cohort(place)
    submitted = submit(database, place, name=name)
    if not as_json:
        say(submitted.as_text())
    try:
        with ended_by_signals(), running_stack(database) as stack:
            finished = watch(database, submitted.cohort_id, errors, check=stack.check)
    except (KeyboardInterrupt, Ended):
        with suppress(OSError):  # the terminal may be gone
            errors.print("Stopped. The same command continues from here.")
        raise
    if out is not None:
        _write(database, name, out, identifiers=identifiers, quiet=as_json)
    if as_json:
        print_json(progress_json(finished))
    else:
        shown = 0 if out is not None else _SHOWN
        _print_summary(database, finished, shown=shown, identifiers=identifiers)
    raise typer.Exit(exit_code(finished))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running, to look around.")] = False,
    images: Annotated[int, typer.Option(help="Number of synthetic X-rays.", min=6)] = 24,
) -> None:
    """Screen synthetic X-rays and show the results, in a separate data directory.

    The phantoms have the outline of a chest and no anatomy: their probabilities mean nothing.
    """
    from db.settings import ENV_PREFIX, home
    from deploy.stack import Stack
    from scheduler.cli.system.running import running_stack
    from scheduler.ingest import open_source
    from scheduler.submit import submit
    from scheduler.watch import watch
    from worker.phantoms import write_phantoms

    folder = home() / "demo"
    os.environ[ENV_PREFIX + "HOME"] = str(folder)
    with ended_by_signals(), Stack().emptied():
        source = folder / "x-rays"
        write_phantoms(source, images)
        console.print(f"{images} phantom chest X-rays (JPEG, PNG, DICOM CR and DX) in {source}", markup=False)
        database = ready_database(with_champion=True)
        submitted = submit(database, open_source(str(source)), name="demo")
        with running_stack(database, keep=keep) as stack:
            finished = watch(database, submitted.cohort_id, errors, check=stack.check)
            _print_summary(database, finished, shown=images, identifiers=True)
            console.print("Phantoms have no anatomy: these probabilities mean nothing.")
            _print_flower(stack, keep=keep)
    raise typer.Exit(1 if finished.failed else 0)


def _print_flower(stack: Stack, *, keep: bool) -> None:
    user, password = stack.flower_login
    console.print(f"Flower: {stack.flower_address}  user {user}  password {password}", markup=False)
    if keep:
        console.print(
            f"Everything keeps running. To use it: export PNEUMOSCREEN_HOME={shlex.quote(str(stack.home))}\n"
            "To stop it: pneumoscreen down",
            markup=False,
            soft_wrap=True,
        )
    else:
        console.print("It stops now, with everything else; `--keep` leaves it running.")


def _write(database: Database, cohort: str, out: Path, *, identifiers: bool, quiet: bool) -> None:
    from scheduler.exports.results import write_results

    rows = write_results(database, cohort, out, identifiers=identifiers)
    if not quiet:
        console.print(f"{rows} rows written.", markup=False)


def _print_summary(database: Database, progress: Progress, *, shown: int, identifiers: bool) -> None:
    """Print the first rows of the results, and the totals of the cohort."""
    from db.jobs.cohorts import find_cohort
    from db.queries.results import cohort_results, count_labels
    from scheduler.ingest.pseudonym import uid_pseudonyms

    with database.read() as session:
        cohort = find_cohort(session, progress.name)
        source = cohort.source
        pseudonym = None if identifiers else uid_pseudonyms()
        rows = list(cohort_results(session, cohort, pseudonym=pseudonym, limit=shown))
        labels = count_labels(session, progress.cohort_id)
    if rows:
        print_table(
            ("image", "state", "P(PNEUMONIA)", "label", "problem"),
            [
                (_short(row.source, source), row.state, _number(row.probability), row.label, row.error)
                for row in rows
            ],
            title="Results" if len(rows) == progress.total else f"Results (first {len(rows)})",
        )
    counts = ("total", "done", "skipped", "failed")
    print_table(
        ("cohort", *counts, *(f"{count.label} ({count.model})" for count in labels)),
        [
            (
                progress.name,
                *(getattr(progress, count) for count in counts),
                *(count.images for count in labels),
            )
        ],
        title="Summary",
    )
    print_problems(progress)
    console.print(DISCLAIMER, style="dim")


def _number(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.4f}"


def _short(name: str, source: str) -> str:
    """Return a file's path within its source, or the beginning of its digest."""
    return name[:19] if name.startswith("sha256:") else name.removeprefix(source.rstrip("/") + "/")
