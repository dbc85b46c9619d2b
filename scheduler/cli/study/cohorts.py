"""Commands on cohorts: submit, status, watch, retry, cancel."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.text import counted
from scheduler.cli.completion import cohorts, models
from scheduler.cli.console import console, errors, print_json, print_table, printable, say
from scheduler.cli.models.runs import print_runs
from scheduler.cli.pages import print_pages
from scheduler.cli.ready import ready_database
from scheduler.local_time import local_time

if TYPE_CHECKING:
    from db.engine import Database
    from db.queries.progress import Progress
    from db.trust.comparison import Comparison

CohortName = Annotated[
    str, typer.Argument(help="Name of the cohort.", show_default=False, autocompletion=cohorts)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Identifiers = Annotated[
    bool,
    typer.Option(
        "--identifiers", help="Show UIDs and paths as they are, instead of pseudonyms and file digests."
    ),
]
Names = Annotated[
    bool, typer.Option("--names", help="Add each file's path within its source, in the column `file`.")
]

#: Printed if an ingest broke off: what the user can do.
_BROKE_OFF = (
    "The ingest broke off: the cohort does not hold all of its source. "
    "Give the same `submit` or `screen` again; it continues from there."
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command, example in (
        (submit, "pneumoscreen submit /data/trial-7 --cohort trial-7 --priority 5"),
        (status, "pneumoscreen status trial-7 --json"),
        (watch, "pneumoscreen watch trial-7"),
        (retry, "pneumoscreen retry trial-7"),
        (cancel, "pneumoscreen cancel trial-7"),
    ):
        app.command(epilog=f"Example: {example}")(command)


def submit(
    source: Annotated[
        str, typer.Argument(help="A folder of any depth, an image file or a URL.", show_default=False)
    ],
    cohort: Annotated[
        str,
        typer.Option(
            help="Name of the cohort; images are added to one that exists.",
            show_default=False,
            autocompletion=cohorts,
        ),
    ],
    priority: Annotated[
        int | None,
        typer.Option(
            help="Higher goes first. By default 0, or that of the existing cohort.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Id of the model; the champion by default.", show_default=False, autocompletion=models
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a source's images to a cohort; the workers screen them in the background."""
    from scheduler.cli.study.counting import counting
    from scheduler.cli.system.running import say_missing_workers
    from scheduler.ingest import open_source
    from scheduler.submit import Hooks
    from scheduler.submit import submit as take_in

    place = open_source(source)
    database = ready_database(with_champion=True)
    with counting(errors) as count:
        hooks = Hooks(known=(count,))
        submitted = take_in(database, place, name=cohort, priority=priority, model=model, hooks=hooks)
    if as_json:
        print_json(asdict(submitted))
    else:
        say(submitted.as_text())
        say_missing_workers({"screen", "housekeeping"}, "the images wait")


def status(
    cohort: Annotated[
        str | None,
        typer.Argument(
            help="Name of a cohort; all of them by default.", show_default=False, autocompletion=cohorts
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the progress of cohorts, and of training runs that have not ended.

    With the name of a cohort it also says if the cohort's pictures are unlike those that the model learned
    from; `trust` in JSON.
    """
    from db.queries.progress import progress
    from db.training.runs import open_runs

    database = ready_database()
    with database.read() as session:
        rows = progress(session, None if cohort is None else [cohort])
        training = open_runs(session) if cohort is None else ()
    trust = None if cohort is None else compared(database, rows[0].cohort_id)
    if as_json:
        one = {} if cohort is None else trust_json(trust)
        print_json([progress_json(row) | one for row in rows])
        return
    counts = ("priority", "total", "pending", "queued", "running", "done", "skipped", "failed")
    if rows:
        print_table(
            ("cohort", "state", *counts),
            [(row.name, _state_of(row), *(getattr(row, count) for count in counts)) for row in rows],
        )
    else:
        say("There are no cohorts yet. `pneumoscreen screen FOLDER` screens the images of a folder.")
    for row in rows:
        if row.waits_for is not None:
            since = "" if row.waits_since is None else f" since {local_time(row.waits_since)}"
            say(f"Cohort {row.name} is waiting for {row.waits_for}{since}.")
    for row in rows if cohort is not None else ():
        print_problems(row)
    if trust is not None and trust.unlike:
        say(trust.as_text())
    if training:
        print_runs(training)
    if cohort is None:
        print_pages()


def watch(cohort: CohortName) -> None:
    """Show a cohort's progress until it is finished. Ctrl-C stops watching, not screening.

    If an ingest broke off and no command continues it, it ends with 1 and says how to continue.
    """
    from db.jobs.cohorts import find_cohort
    from scheduler.cli.watch import watch as wait

    database = ready_database()
    with database.read() as session:
        cohort_id = find_cohort(session, cohort).id
    finished = wait(database, cohort_id, errors)
    print_problems(finished)
    warn_of_distrust(compared(database, cohort_id))
    raise typer.Exit(exit_code(finished))


def retry(cohort: CohortName, as_json: AsJson = False) -> None:
    """Screen a cohort's failed and cancelled images again."""
    from db.jobs.cohorts import find_cohort
    from db.jobs.cohorts import retry as try_again
    from scheduler.cli.system.running import say_missing_workers
    from worker.broker.notify import ask_for_batches

    with ready_database().write() as session:
        again = try_again(session, find_cohort(session, cohort))
    ask_for_batches()
    if as_json:
        print_json({"cohort": cohort, "images": again})
    else:
        say(f"Cohort {cohort}: {counted(again, 'image')} will be screened again.")
        if again:
            say_missing_workers({"screen", "housekeeping"}, "the images wait")


def cancel(cohort: CohortName, as_json: AsJson = False) -> None:
    """Stop handing out a cohort's images; workers finish the batches that they hold.

    A cohort that is finished stays finished.
    """
    from db.jobs.cohorts import cancel as stop
    from db.jobs.cohorts import find_cohort
    from db.states import CohortState

    with ready_database().write() as session:
        found = find_cohort(session, cohort)
        spared = stop(session, found)
    if as_json:
        print_json({"cohort": cohort, "images": spared})
    elif found.state is CohortState.CANCELLED:
        say(f"Cohort {cohort}: {counted(spared, 'image')} will not be screened.")
    else:
        say(f"Cohort {cohort} is finished already: there is nothing to cancel.")


def print_problems(progress: Progress) -> None:
    """Print why images were skipped or failed, if any were, and the command that lists them."""
    from db.jobs.problems import every_problem
    from db.states import ImageState
    from scheduler.exports.selection import Selection

    if progress.problems:
        known = every_problem()
        print_table(
            ("images", "code", "meaning"),
            [
                (count, code, known[code].meaning() if code in known else "")
                for code, count in progress.problems.items()
            ],
        )
        if not progress.archived:
            both = (ImageState.FAILED, ImageState.SKIPPED)
            listed = Selection(names=True, states=tuple(state for state in both if getattr(progress, state)))
            command = printable(listed.command(progress.name))
            console.print(f"Which ones: {command}", markup=False, soft_wrap=True)


def compared(database: Database, cohort_id: int) -> Comparison | None:
    """Return how a cohort compares with the training hospital; None if nothing is known."""
    from db.trust.comparison import compare_cohort

    with database.read() as session:
        return compare_cohort(session, cohort_id)


def trust_json(comparison: Comparison | None) -> dict[str, Any]:
    """Return `trust` of a cohort as JSON values; None if nothing is known."""
    return {"trust": None if comparison is None else comparison.as_json()}


def warn_of_distrust(comparison: Comparison | None) -> None:
    """Print to standard error that the pictures are unlike those of the training, if so, and what to do."""
    if comparison is not None and comparison.unlike:
        style = "bold red" if comparison.distrusted else ""
        errors.print(comparison.as_text(), style=style, markup=False)


def _state_of(progress: Progress) -> str:
    """Return a cohort's state as people call it, in a word or two."""
    states = {
        "archived": progress.archived,
        "ingest broke off": progress.ingest_broke_off,
        "cancelled": progress.state == "cancelled",
        "waiting": progress.waits_for is not None,
        "finished": progress.finished,
        "ingesting": progress.state == "ingesting",
        # Copies and damaged files have ended before a worker took the first image.
        "screening": progress.running or progress.done,
    }
    return next((state for state, holds in states.items() if holds), "queued")


def exit_code(progress: Progress) -> int:
    """Return 0 if all is well with a cohort, else 1; print how to continue if its ingest broke off."""
    if progress.ingest_broke_off:
        errors.print(_BROKE_OFF)
    return 1 if progress.failed or not progress.finished else 0


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return a cohort's progress as JSON values."""
    return asdict(progress) | {"finished": progress.finished}
