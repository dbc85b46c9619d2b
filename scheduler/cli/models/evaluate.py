"""The command that measures a model: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from db.text import counted
from scheduler.cli.completion import models
from scheduler.cli.console import console, errors, print_json, print_table
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson
from scheduler.disclaimer import DISCLAIMER

Labelled = Annotated[
    Path, typer.Argument(help="A folder that holds NORMAL/ and PNEUMONIA/.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: pneumoscreen evaluate /data/labelled --json")(evaluate)


def evaluate(
    data: Labelled,
    model: Annotated[
        str | None,
        typer.Option(
            help="Id of the model; the champion by default.", show_default=False, autocompletion=models
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on labelled images: accuracy, AUC, sensitivity, specificity with 95% intervals."""
    from db.models.registry import champion, find_model, registered_card
    from scheduler.cli.progress_line import Part, ProgressLine
    from scheduler.ingest.source import SourceMissing

    if not data.exists():
        raise SourceMissing
    database = ready_database(with_champion=True)
    with database.read() as session:
        wanted = find_model(session, model) if model else champion(session)
    with ProgressLine(errors) as line:
        line.show([Part("loading the model ...")])
        from training.evaluation.model import evaluate as measure

        result = measure(
            data,
            database.models_folder / wanted.name,
            digest=wanted.weights_digest,
            card=registered_card(wanted),
            on_images=lambda count: line.show([Part(f"{counted(count, 'image')} measured ...")]),
        )
    if as_json:
        print_json(result.as_json())
    else:
        print_table(
            ("measure", "value", "95% interval"),
            [
                (name, _number(one.value), f"{_number(one.low)} to {_number(one.high)}")
                for name, one in result.measures.named().items()
            ],
            title=f"{wanted.name} on {counted(result.measures.n, 'image')}, "
            f"threshold {result.measures.threshold:.4f}",
        )
        console.print(DISCLAIMER, style="dim")
    if result.unreadable:
        errors.print(f"Left out, because they cannot be read: {counted(result.unreadable, 'image')}.")
    raise typer.Exit(1 if result.unreadable else 0)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
