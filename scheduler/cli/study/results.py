"""Command on results: a table of a cohort's images, written to a file or shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from db.states import ImageState
from db.text import counted
from scheduler.cli.console import console, print_audit_head, print_table, printable, say
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import CohortName, Identifiers, Names, compared, warn_of_distrust
from scheduler.disclaimer import DISCLAIMER

if TYPE_CHECKING:
    from db.engine import Database
    from db.queries.results import ResultRow
    from scheduler.exports.selection import Selection

#: Rows that are shown in a terminal.
SHOWN = 20

#: The label or, if there is none, the error: a row has one of them at most, and a terminal has little room.
_OUTCOME = "outcome"

#: Characters of a file's digest that are shown in a terminal.
_DIGEST = len("sha256:") + 12


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: pneumoscreen results trial-7 --out trial-7.xlsx --names")(results)


def results(
    cohort: CohortName,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .csv, .xlsx, .parquet or .json. Without it, the first rows are shown.",
            show_default=False,
        ),
    ] = None,
    *,
    names: Names = False,
    identifiers: Identifiers = False,
    accession: Annotated[
        bool,
        typer.Option("--accession", help="Add the Accession Numbers (PNEUMOSCREEN_KEEP_ACCESSION)."),
    ] = False,
    state: Annotated[
        list[ImageState] | None,
        typer.Option(help="Only images in this state; may be given several times.", show_default=False),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="Only these columns, in this order, such as image,file,probability.", show_default=False
        ),
    ] = "",
) -> None:
    """Write a cohort's results, one row per image; identifiers are left out by default."""
    from db.jobs.cohorts import find_cohort
    from scheduler.exports.selection import Selection

    selection = Selection(
        identifiers=identifiers,
        names=names,
        accession=accession,
        states=tuple(state or ()),
        columns=tuple(name.strip() for name in columns.split(",") if name.strip()),
    )
    database = ready_database()
    if out is None:
        show_results(database, cohort, selection)
    else:
        write_file(database, cohort, out, selection)
    with database.read() as session:
        cohort_id = find_cohort(session, cohort).id
    warn_of_distrust(compared(database, cohort_id))
    console.print(DISCLAIMER, style="dim")


def write_file(database: Database, cohort: str, out: Path, selection: Selection) -> None:
    """Write a cohort's results to a file; print how many rows, and what was left out."""
    from scheduler.exports.noted_heads import sealed_head
    from scheduler.exports.results import write_results

    rows = write_results(database, cohort, out, selection)
    said = (
        f"{counted(rows, 'row')} written.",
        selection.left_out(),
        _no_accession(database, cohort, selection),
    )
    say(" ".join(filter(None, said)))
    print_audit_head(sealed_head(database))


def show_results(database: Database, name: str, selection: Selection) -> None:
    """Print the first rows of a cohort's results, how many there are, and how to get all of them."""
    shown, total = print_rows(database, name, selection, limit=SHOWN)
    command = printable(selection.command(name, out="results.csv"))
    if shown < total:
        said = f"These are {shown} of {counted(total, 'row')}. All of them: {command}"
    else:
        said = f"{counted(total, 'row')}. In a file: {command}"
    console.print(said, markup=False, soft_wrap=True)
    say(" ".join(filter(None, (selection.left_out(), _no_accession(database, name, selection)))))


def print_rows(database: Database, name: str, selection: Selection, *, limit: int) -> tuple[int, int]:
    """Print the first rows of a cohort's results; return how many, and how many there are.

    Raises CohortUnknown, CohortArchived, ColumnUnknown, ColumnHidden.
    """
    from db.jobs.cohorts import CohortArchived, find_cohort
    from db.queries.results import cohort_results
    from scheduler.ingest.pseudonym import ensure_site_key

    if not selection.identifiers:
        ensure_site_key(database)
    # Whoever may see whole paths may see their ends, which fit into a terminal.
    shown = replace(selection, names=selection.names or selection.identifiers)
    columns = [column.name for column in selection.chosen()] if selection.columns else _columns(shown)
    with database.read() as session:
        cohort = find_cohort(session, name)
        if cohort.archived is not None:
            raise CohortArchived
        total = selection.count(session, cohort)
        found = [
            *cohort_results(
                session, cohort, disclosure=shown.disclosure, states=selection.all_states, limit=limit
            )
        ]
        if not selection.columns and any(row.caution for row in found):
            columns.append("caution")
        rows = [[_cell(row, column) for column in columns] for row in found]
    if rows:
        print_table(columns, rows, title="Results")
    return len(rows), total


def _columns(selection: Selection) -> list[str]:
    """Return the columns that fit into a terminal."""
    accession = ["accession"] if selection.accession else []
    name = "file" if selection.names else "source"
    return ["image", name, *accession, "state", "probability", _OUTCOME]


def _no_accession(database: Database, name: str, selection: Selection) -> str:
    """Return a sentence if Accession Numbers were asked for and the cohort has none."""
    from db.jobs.cohorts import find_cohort
    from db.queries.results import holds_accession

    if not selection.accession:
        return ""
    with database.read() as session:
        if holds_accession(session, find_cohort(session, name).id):
            return ""
    return (
        "No Accession Number was kept: they are stored only of images that are added while "
        "PNEUMOSCREEN_KEEP_ACCESSION is true."
    )


def _cell(row: ResultRow, column: str) -> object:
    if column == _OUTCOME:
        return row.label or row.error
    value = getattr(row, column)
    if isinstance(value, float):
        return f"{value:.4f}"
    return value[:_DIGEST] if column == "source" and value.startswith("sha256:") else value
