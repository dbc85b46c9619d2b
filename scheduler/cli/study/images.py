"""Commands on one image: show."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.text import counted
from scheduler.cli.console import console, print_facts, print_json
from scheduler.cli.help import CommandGroup
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson, Identifiers, Names
from scheduler.disclaimer import DISCLAIMER
from scheduler.local_time import local_time

if TYPE_CHECKING:
    from db.queries.explanation import ImageExplained, PredictionExplained


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    show = typer.Typer(cls=CommandGroup, help="Everything about one image.", no_args_is_help=True)
    show.command("image", epilog="Example: pneumoscreen show image 69 --names")(image)
    # With one command alone, typer would take its name away.
    show.callback()(lambda: None)
    app.add_typer(show, name="show")


def image(
    image_id: Annotated[
        int,
        typer.Argument(
            metavar="ID", help="Number of the image: the column `image` of the results.", show_default=False
        ),
    ],
    names: Names = False,
    identifiers: Identifiers = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known about one image: its file, its state and its predictions."""
    from db.queries.explanation import show_image
    from scheduler.exports.selection import Selection
    from scheduler.ingest.pseudonym import ensure_site_key

    database = ready_database()
    if not identifiers:
        ensure_site_key(database)
    # Here, all identifiers are all of one image.
    selection = Selection(identifiers=identifiers, names=names or identifiers, accession=identifiers)
    with database.read() as session:
        found = show_image(session, image_id, disclosure=selection.disclosure)
    if as_json:
        print_json(_as_json(found))
        return
    print_facts(_facts(found, is_open=identifiers))
    for prediction in found.predictions:
        print_facts(_prediction(prediction))
    left_out = selection.left_out()
    console.print(f"{left_out} {DISCLAIMER}".strip(), style="dim", markup=False)


def _facts(found: ImageExplained, *, is_open: bool) -> dict[str, object]:
    """Return what is known about an image; what is not known is None."""
    from db.jobs.problems import every_problem

    row = found.result
    problem = every_problem().get(row.error or "")
    return {
        "image": row.image,
        "cohort": row.cohort,
        "state": row.state,
        "error": row.error,
        "meaning": problem.meaning() if problem else None,
        "file": row.file,
        # Without identifiers, it is the digest or the number of the image, which are shown anyhow.
        "source": row.source if is_open else None,
        "frame": found.frame or None,
        "bytes": found.size,
        "changed": None if found.modified is None else local_time(found.modified, seconds=True),
        "digest": found.digest,
        "study": row.study,
        "series": row.series,
        "instance": row.instance,
        "patient": row.patient,
        "accession": row.accession,
        "claimed": counted(found.attempts, "time"),
        "batch": found.batch_id,
        "worker": found.worker,
        "finished": None if found.finished_at is None else local_time(found.finished_at, seconds=True),
    }


def _prediction(prediction: PredictionExplained) -> dict[str, object]:
    from scheduler.exports.target import DIGITS

    return {
        "model": prediction.model,
        "label": prediction.label,
        "probability": f"{prediction.probability:.{DIGITS}f}",
        "threshold": f"{prediction.threshold:.{DIGITS}f}",
        **{name: f"{chance:.{DIGITS}f}" for name, chance in (prediction.types or {}).items()},
        "familiarity": None if prediction.familiarity is None else f"{prediction.familiarity:.{DIGITS}f}",
        "caution": prediction.caution,
        "time": local_time(prediction.predicted_at, seconds=True),
        "in results": "yes" if prediction.is_current else "no: the image was sent to another model since",
        "weights": prediction.weights_digest,
        "input": prediction.input_digest,
        "precision": prediction.precision,
        "runtime": prediction.runtime,
        "preprocessing": prediction.preprocessing,
        "software": prediction.software,
    }


def _as_json(found: ImageExplained) -> dict[str, Any]:
    """Return an image as JSON values; times as ISO 8601."""
    from db.queries.results import iso_time

    def times(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: iso_time(value)
            if name in ("modified", "finished_at", "predicted_at") and value is not None
            else value
            for name, value in values.items()
        }

    whole = times(asdict(found))
    return whole | {"predictions": [times(one) for one in whole["predictions"]]}
