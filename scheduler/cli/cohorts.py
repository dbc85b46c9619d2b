"""Commands on cohorts: submit, status, watch, retry, cancel, results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.console import console, errors, print_audit_head, print_json, print_table
from scheduler.cli.pages import print_pages
from scheduler.cli.ready import ready_database
from scheduler.cli.runs import print_runs
from scheduler.disclaimer import DISCLAIMER

if TYPE_CHECKING:
    from db.cohorts import Progress

CohortName = Annotated[str, typer.Argument(help="Name of the cohort.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Identifiers = Annotated[
    bool,
    typer.Option(
        "--identifiers", help="Give UIDs and paths as they are, and not as pseudonyms and file digests."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command, example in (
        (submit, "pneumoscreen submit /data/trial-7 --cohort trial-7 --priority 5"),
        (status, "pneumoscreen status trial-7 --json"),
        (watch, "pneumoscreen watch trial-7"),
        (retry, "pneumoscreen retry trial-7"),
        (cancel, "pneumoscreen cancel trial-7"),
        (results, "pneumoscreen results trial-7 --out trial-7.parquet"),
    ):
        app.command(epilog=f"Example: {example}")(command)


def submit(
    source: Annotated[
        str, typer.Argument(help="A folder of any depth, an image file or a URL.", show_default=False)
    ],
    cohort: Annotated[
        str, typer.Option(help="Name of the cohort; images are added to one that exists.", show_default=False)
    ],
    priority: Annotated[int, typer.Option(help="Cohorts of higher priority are screened first.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Id of the model; the champion by default.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a source in; the workers screen it while you do something else."""
    from scheduler.ingest import open_source
    from scheduler.submit import submit as take_in

    place = open_source(source)
    database = ready_database(with_champion=True)
    submitted = take_in(database, place, name=cohort, priority=priority, model=model)
    if as_json:
        print_json(asdict(submitted))
    else:
        console.print(submitted.as_text(), markup=False)


def status(
    cohort: Annotated[
        str | None, typer.Argument(help="Name of a cohort; all of them by default.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far cohorts have come, and training runs that wait or are under way."""
    from db.cohorts import progress
    from db.runs import open_runs

    with ready_database().read() as session:
        rows = progress(session, None if cohort is None else [cohort])
        training = open_runs(session) if cohort is None else ()
    if as_json:
        print_json([progress_json(row) for row in rows])
        return
    counts = ("priority", "total", "pending", "queued", "running", "done", "skipped", "failed")
    print_table(
        ("cohort", "state", *counts),
        [(row.name, row.waits_for or row.state, *(getattr(row, count) for count in counts)) for row in rows],
    )
    for row in rows if cohort is not None else ():
        print_problems(row)
    if training:
        print_runs(training)
    if cohort is None:
        print_pages()


def watch(cohort: CohortName) -> None:
    """Show a cohort's progress until it is finished. Ctrl-C stops watching, not screening."""
    from db.cohorts import find_cohort
    from scheduler.watch import watch as wait

    database = ready_database()
    with database.read() as session:
        cohort_id = find_cohort(session, cohort).id
    finished = wait(database, cohort_id, errors)
    print_problems(finished)
    raise typer.Exit(1 if finished.failed else 0)


def retry(cohort: CohortName, as_json: AsJson = False) -> None:
    """Screen a cohort's failed and cancelled images again."""
    from db.cohorts import find_cohort
    from db.cohorts import retry as try_again
    from scheduler.doorbell import ask_for_batches

    with ready_database().write() as session:
        again = try_again(session, find_cohort(session, cohort))
    ask_for_batches()
    _say_count(cohort, "images", again, "will be screened again", as_json)


def cancel(cohort: CohortName, as_json: AsJson = False) -> None:
    """Hand out nothing more of a cohort; what a worker holds is finished."""
    from db.cohorts import cancel as stop
    from db.cohorts import find_cohort

    with ready_database().write() as session:
        spared = stop(session, find_cohort(session, cohort))
    _say_count(cohort, "images", spared, "will not be screened", as_json)


def results(
    cohort: CohortName,
    out: Annotated[
        Path,
        typer.Option(help="File to write: .csv, .parquet or .json.", show_default=False),
    ],
    identifiers: Identifiers = False,
) -> None:
    """Write a cohort's results, a row per image; without identifiers unless they are asked for."""
    from scheduler.noted import sealed_head
    from scheduler.results import write_results

    database = ready_database()
    rows = write_results(database, cohort, out, identifiers=identifiers)
    console.print(f"{rows} rows written. {DISCLAIMER}", markup=False)
    print_audit_head(sealed_head(database))


def print_problems(progress: Progress) -> None:
    """Print why images were skipped or failed, if any were."""
    from db.problems import every_problem

    if progress.problems:
        known = every_problem()
        print_table(
            ("images", "code", "meaning"),
            [
                (count, code, known[code].meaning() if code in known else "")
                for code, count in progress.problems.items()
            ],
        )


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return a cohort's progress as JSON values."""
    return asdict(progress) | {"finished": progress.finished}


def _say_count(cohort: str, what: str, count: int, fate: str, as_json: bool) -> None:
    if as_json:
        print_json({"cohort": cohort, what: count})
    else:
        console.print(f"Cohort {cohort}: {count} {what} {fate}.", markup=False)
