"""Commands for the acceptance of a model at this site: accept, sample-size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.text import counted
from scheduler.cli.completion import models
from scheduler.cli.console import console, errors, print_json, print_table
from scheduler.cli.models.evaluate import Labelled
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson
from scheduler.disclaimer import DISCLAIMER

if TYPE_CHECKING:
    from training.acceptance.figures import Figures
    from training.acceptance.measurement import Acceptance, SiteImages
    from training.acceptance.tuning import Tuned
    from training.evaluation.measures import Measure


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: pneumoscreen accept /data/labelled --by 'Dr. Muster'")(accept)
    app.command("sample-size", epilog="Example: pneumoscreen sample-size --width 0.1 --prevalence 0.3")(
        sample_size
    )


def accept(  # noqa: PLR0913, PLR0917  (a command's options are its parameters)
    data: Labelled,
    model: Annotated[
        str | None,
        typer.Option(
            help="Id of the model; the champion by default.", show_default=False, autocompletion=models
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Who measures; by default the user of this machine.", show_default=False),
    ] = None,
    sensitivity: Annotated[
        float, typer.Option(help="What the lower end of its 95% interval must reach.", min=0, max=1)
    ] = 0.90,
    specificity: Annotated[
        float, typer.Option(help="What the lower end of its 95% interval must reach.", min=0, max=1)
    ] = 0.80,
    tune: Annotated[
        bool, typer.Option("--tune", help="Make a version with a threshold and temperature for this site.")
    ] = False,
    target: Annotated[
        float, typer.Option(help="With --tune: the sensitivity that the threshold aims at.", min=0.5, max=1)
    ] = 0.97,
    promote: Annotated[
        str,
        typer.Option(
            help="With --tune: auto makes the version champion if it passes the gate, ask does not."
        ),
    ] = "ask",
    as_json: AsJson = False,
) -> None:
    """Measure a model on labelled images of this site, and record whether it is accepted here.

    Results say `accepted` or `not accepted at this site` from then on. No prediction is blocked.
    """
    from db.models.registry import champion, find_model
    from scheduler.cli.progress_line import Part, ProgressLine
    from scheduler.ingest.source import SourceMissing
    from training.plan import check_promote

    if not data.exists():
        raise SourceMissing
    how, database = check_promote(promote), ready_database(with_champion=True)
    with database.read() as session:
        wanted = find_model(session, model) if model else champion(session)
    with ProgressLine(errors) as line:
        line.show([Part("loading ...")])
        from training.acceptance.criteria import Criteria
        from training.acceptance.measurement import accept as measure
        from training.acceptance.measurement import read_site
        from training.acceptance.tuning import tune as make_version

        criteria = Criteria(sensitivity=sensitivity, specificity=specificity)
        site = read_site(database, wanted, data, types=tune, on_step=lambda step: line.show([Part(step)]))
        found = measure(database, site, site.answers, criteria=criteria, by=by)
        tuned = after = None
        if tune:
            line.show([Part("tuning ...")])
            tuned = make_version(database, site, target_sensitivity=target, promote=how)
            after = measure(database, site, tuned.answers, criteria=criteria, by=by)
    if as_json:
        print_json(_as_json(site, found, tuned, after))
    else:
        _print(found)
        if tuned is not None and after is not None:
            _print_tuned(tuned, after)
        _print_help(after or found)
        console.print(DISCLAIMER, style="dim")
    _print_left_out(site)
    raise typer.Exit(1 if site.unreadable else 0)


def _as_json(
    site: SiteImages, found: Acceptance, tuned: Tuned | None, after: Acceptance | None
) -> dict[str, Any]:
    version = None if tuned is None or after is None else after.as_json() | tuned.as_json()
    return found.as_json() | {
        "data_fingerprint": site.fingerprint,
        "unreadable": site.unreadable,
        "contradicting": list(site.contradicting),
        "tuned": version,
    }


def _print(found: Acceptance) -> None:
    """Print measures beside those of the card, subgroups, and the verdict with its reasons."""
    figures = found.figures
    print_table(
        ("measure", "here", "in the card"),
        [(name, _text(here), _text(figures.card.get(key))) for name, key, here in _measures(figures)],
        title=f"{found.model} on {counted(figures.n, 'image')} of this site, "
        f"{figures.positive} with pneumonia",
    )
    if figures.subgroups:
        print_table(
            ("subgroup", "sensitivity", "specificity"),
            [
                (
                    f"{one.attribute} {one.value}",
                    _text(one.sensitivity, "fewer than 20"),
                    _text(one.specificity, "fewer than 20"),
                )
                for one in figures.subgroups
            ],
        )
    for reason in found.verdict.reasons:
        console.print(f"- {reason}", markup=False)
    verdict = "accepted" if found.verdict.accepted else "not accepted"
    console.print(f"{found.model} is {verdict} at this site, measured by {found.by}.", markup=False)


def _print_help(found: Acceptance) -> None:
    """Print what can be done about a model that is not accepted."""
    if not found.verdict.accepted:
        console.print(
            "If there are too few images, label more. If the AUC is high, --tune fits the threshold. If it "
            "is low, `pneumoscreen retrain DATA --from champion` teaches the model.",
            markup=False,
        )


def _measures(figures: Figures) -> list[tuple[str, str, Measure]]:
    from training.evaluation.measures import Measure

    calibration = figures.calibration
    return [
        ("AUC", "auc", figures.auc),
        ("sensitivity", "sensitivity", figures.sensitivity),
        ("specificity", "specificity", figures.specificity),
        ("Brier score (0 is best)", "", Measure(calibration.brier, None, None)),
        ("calibration in the large (0 is best)", "", calibration.in_the_large),
        ("calibration slope (1 is best)", "", calibration.slope),
    ]


def _text(measure: Measure | None, unknown: str = "") -> str:
    if measure is None or measure.value is None:
        return unknown
    if measure.low is None or measure.high is None:
        return f"{measure.value:.3f}"
    return f"{measure.value:.3f} ({measure.low:.3f} to {measure.high:.3f})"


def _print_tuned(tuned: Tuned, after: Acceptance) -> None:
    card, decision = tuned.card, tuned.decision
    console.print()
    console.print(
        f"Tuned version {card.model_id}: threshold {card.threshold:.4f}, temperature {card.temperature:.3f}. "
        "Each image is judged by a tuning that other patients fitted.",
        markup=False,
    )
    _print(after)
    if decision is not None:
        answer = "yes" if decision.passed else "no"
        console.print(f"Gate: {answer} to {card.model_id}: {'; '.join(decision.reasons)}.", markup=False)
    if tuned.promoted:
        console.print(f"{card.model_id} is champion now.", markup=False)
    elif decision is not None and decision.passed:
        console.print(f"To make it champion: pneumoscreen models promote {card.model_id}", markup=False)


def _print_left_out(site: SiteImages) -> None:
    for digest in site.contradicting:
        errors.print(f"left out, its labels contradict one another: {digest[:12]}", markup=False)
    if site.unreadable:
        errors.print(f"Left out, because they cannot be read: {counted(site.unreadable, 'image')}.")


_Expected = Annotated[float, typer.Option(help="The value that is expected here.", min=0.01, max=0.999)]


def sample_size(
    sensitivity: _Expected = 0.95,
    specificity: _Expected = 0.90,
    width: Annotated[
        float, typer.Option(help="Width of the 95% interval that is wanted.", min=0.005, max=0.9)
    ] = 0.1,
    prevalence: Annotated[
        float,
        typer.Option(help="Share of pneumonia among the images as they are taken.", min=0.001, max=0.999),
    ] = 0.3,
    as_json: AsJson = False,
) -> None:
    """Tell how many labelled images `accept` needs, one of each patient, for intervals of a width."""
    from training.acceptance.sample_size import sample_size as needed

    found = needed(sensitivity=sensitivity, specificity=specificity, width=width, prevalence=prevalence)
    if as_json:
        print_json(found.as_json())
        return
    print_table(
        ("images", "number", "why"),
        [
            ("with pneumonia", found.positive, f"sensitivity {sensitivity:g} within {width:g}"),
            ("without pneumonia", found.negative, f"specificity {specificity:g} within {width:g}"),
            ("in all, as they are taken", found.consecutive, f"pneumonia in {prevalence:.0%} of them"),
        ],
    )
