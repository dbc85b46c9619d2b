"""Commands that take in, screen and show in one go: demo and screen."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.completion import cohorts
from scheduler.cli.console import console, errors, print_json, print_table, say
from scheduler.cli.ready import ready_database
from scheduler.cli.signals import Ended, ended_by_signals
from scheduler.cli.study.cohorts import (
    AsJson,
    Identifiers,
    Names,
    compared,
    exit_code,
    print_problems,
    progress_json,
    trust_json,
    warn_of_distrust,
)
from scheduler.cli.study.results import print_rows, show_results, write_file
from scheduler.disclaimer import DISCLAIMER

if TYPE_CHECKING:
    from db.engine import Database
    from db.queries.progress import Progress
    from deploy.stack import Stack
    from scheduler.exports.selection import Selection
    from scheduler.submit import Submitted


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
        typer.Option(
            help="Name of the cohort; by default made from the source.",
            show_default=False,
            autocompletion=cohorts,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Results file: .csv, .xlsx, .parquet or .json.", show_default=False),
    ] = None,
    names: Names = False,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """Screen a source and wait. Starts the stack if it is not running, and stops it at the end.

    Ctrl-C, TERM and HUP stop it cleanly; the same command continues where it stopped, and screens nothing
    twice. A stack that other commands use keeps running.
    """
    from scheduler.cli.study.counting import counting
    from scheduler.cli.system.running import running_stack
    from scheduler.cli.watch import watch
    from scheduler.exports.results import check_output
    from scheduler.exports.selection import Selection
    from scheduler.ingest import open_source
    from scheduler.submit import Hooks, default_cohort, submit

    if out is not None:
        check_output(out)
    place = open_source(source)
    database = ready_database(with_champion=True)
    name = cohort or default_cohort(place)
    with counting(errors) as count:
        submitted = submit(database, place, name=name, hooks=Hooks(known=(count,)))
    if not as_json:
        say(submitted.as_text())
    try:
        with ended_by_signals(), running_stack(database) as (stack, waits_for):
            finished = watch(database, submitted.cohort_id, errors, check=stack.check, waits_for=waits_for)
            # Not after the block, at whose end the stack takes seconds to stop.
            selection = Selection(identifiers=identifiers, names=names)
            _hand_over(database, finished, selection, submitted, out, as_json=as_json)
    except (KeyboardInterrupt, Ended):
        with suppress(OSError):  # the terminal may be gone
            errors.print("Stopped. The same command continues from here.")
        raise
    raise typer.Exit(exit_code(finished))


def _hand_over(
    database: Database,
    finished: Progress,
    selection: Selection,
    submitted: Submitted,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the results of a cohort, or write them to a file."""
    from scheduler.exports.results import write_results
    from scheduler.ingest.left_out import LeftOut

    if as_json:
        if out is not None:
            write_results(database, finished.name, out, selection)
        print_json(progress_json(finished) | trust_json(compared(database, finished.cohort_id)))
        return
    if out is not None:
        write_file(database, finished.name, out, selection)
    else:
        show_results(database, finished.name, selection)
    _print_summary(database, finished)
    if submitted:
        # It was said before the progress, but a terminal has scrolled since.
        say(LeftOut.as_text(submitted))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running, to look around.")] = False,
    images: Annotated[int, typer.Option(help="Number of synthetic X-rays.", min=6)] = 24,
) -> None:
    """Screen synthetic X-rays and show the results, in a separate data directory.

    The phantoms have the outline of a chest and no anatomy: their probabilities mean nothing. A demo that was
    left running with --keep is not touched: it gets another cohort, and keeps running.
    """
    from db.settings import ENV_PREFIX, home
    from deploy.stack import Stack
    from scheduler.cli.system.running import running_stack
    from scheduler.cli.watch import watch
    from scheduler.exports.selection import Selection
    from scheduler.ingest import open_source
    from scheduler.submit import submit
    from worker.phantoms import write_phantoms

    folder = home() / "demo"
    os.environ[ENV_PREFIX + "HOME"] = str(folder)
    kept = Stack().is_kept()
    with ended_by_signals(), nullcontext() if kept else Stack().emptied():
        number = 1 + sum(1 for _ in folder.glob("x-rays*"))
        name = "demo" if number == 1 else f"demo-{number}"
        source = folder / name.replace("demo", "x-rays")
        if kept:
            console.print(f"The demo that was kept still runs. This one is its cohort {name}.")
        write_phantoms(source, images)
        console.print(f"{images} phantom chest X-rays (JPEG, PNG, DICOM CR and DX) in {source}", markup=False)
        database = ready_database(with_champion=True)
        submitted = submit(database, open_source(str(source)), name=name)
        with running_stack(database, keep=keep) as (stack, waits_for):
            finished = watch(database, submitted.cohort_id, errors, check=stack.check, waits_for=waits_for)
            console.print("Phantoms have no anatomy: the probabilities in this table mean nothing.")
            if _tells_familiarity(database):
                console.print(_WHY_UNFAMILIAR)
            print_rows(database, name, Selection(identifiers=True), limit=images)
            _print_summary(database, finished)
            _print_flower(stack, keep=keep or kept)
    raise typer.Exit(1 if finished.failed else 0)


#: Why it is good that phantoms are unfamiliar.
_WHY_UNFAMILIAR = (
    "A network gives a number for any picture. The caution `unfamiliar` tells that the model has not learnt "
    "from pictures like these, so that nobody trusts the number."
)


def _tells_familiarity(database: Database) -> bool:
    """Tell whether the champion tells unfamiliar pictures: an own model may have been learnt from too few."""
    from db.models.registry import champion

    with database.read() as session:
        return champion(session).card.get("familiarity") is not None


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


def _print_summary(database: Database, progress: Progress) -> None:
    """Print the totals of a cohort, and why images have no prediction."""
    from db.queries.results import count_labels

    with database.read() as session:
        labels = count_labels(session, progress.cohort_id)
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
    warn_of_distrust(compared(database, progress.cohort_id))
    console.print(DISCLAIMER, style="dim")
