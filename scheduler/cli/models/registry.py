"""Commands on the registry: list, show, promote, rollback and import models."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.text import counted
from scheduler.cli.completion import models as complete_models
from scheduler.cli.console import console, errors, print_json, print_table
from scheduler.cli.help import CommandGroup
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson
from scheduler.local_time import local_time

if TYPE_CHECKING:
    from db.models.registry import GateNotPassed
    from db.tables import Acceptance, Event, Model

ModelName = Annotated[
    str, typer.Argument(help="Id of the model.", show_default=False, autocompletion=complete_models)
]

_MEASURES = ("auc", "sensitivity", "specificity")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    models = typer.Typer(
        cls=CommandGroup,
        help="The registered models, and the champion, which screens.",
        no_args_is_help=True,
    )
    models.command("list", epilog="Example: pneumoscreen models list --json")(list_)
    models.command("show", epilog="Example: pneumoscreen models show resnet50-8b7f4c4ca860")(show)
    models.command("promote", epilog="Example: pneumoscreen models promote resnet50-8b7f4c4ca860")(promote)
    models.command("rollback", epilog="Example: pneumoscreen models rollback")(rollback)
    models.command("import", epilog="Example: pneumoscreen models import /data/resnet50-8b7f4c4ca860")(
        import_
    )
    app.add_typer(models, name="models")


def list_(as_json: AsJson = False) -> None:
    """List models, the latest first, with the scores of each on its own validation images."""
    from db.models.registry import all_models
    from db.trust.acceptances import newest_acceptances

    with ready_database(with_champion=True).read() as session:
        models, accepted = all_models(session), newest_acceptances(session)
    if as_json:
        print_json([_as_json(model, accepted.get(model.id)) for model in models])
        return
    print_table(
        ("model", "state", "registered", *_MEASURES, "threshold", "accepted here"),
        [
            (
                model.name,
                model.state,
                local_time(model.created_at),
                *(_measure(model, name) for name in _MEASURES),
                f"{model.threshold:.4f}",
                _accepted(accepted.get(model.id)),
            )
            for model in models
        ],
    )


def _validation(model: Model) -> dict[str, Any]:
    found = model.card.get("metrics", {}).get("validation", {})
    return found if isinstance(found, dict) else {}


def _measure(model: Model, name: str, *, interval: bool = False) -> str:
    """Return a model's score, or an empty text if its card has no valid one."""
    from pydantic import ValidationError

    from db.models.card import Measure

    try:
        one = Measure.model_validate(_validation(model).get(name) or {})
    except ValidationError:
        return ""
    if one.value is None:
        return ""
    has_interval = one.low is not None and one.high is not None
    return f"{one.value:.3f}" + (f" ({one.low:.3f} to {one.high:.3f})" if interval and has_interval else "")


def _accepted(acceptance: Acceptance | None) -> str:
    if acceptance is None:
        return "not measured"
    return "yes" if acceptance.accepted else "no"


def _acceptance_json(acceptance: Acceptance) -> dict[str, Any]:
    names = ("accepted", "by", "images", "data_fingerprint", "reasons", "figures", "created_at")
    return {name: getattr(acceptance, name) for name in names}


def _as_json(model: Model, acceptance: Acceptance | None = None) -> dict[str, Any]:
    return {
        "model": model.name,
        "state": model.state,
        "backbone": model.backbone,
        "created_at": model.created_at,
        "threshold": model.threshold,
        "weights_digest": model.weights_digest,
        "validation": _validation(model),
        "acceptance": None if acceptance is None else _acceptance_json(acceptance),
    }


def show(model: ModelName, as_json: AsJson = False) -> None:
    """Show how a model was trained, its scores, and its events in the audit log."""
    from db.models.registry import find_model, model_events
    from db.trust.acceptances import newest_acceptances

    with ready_database(with_champion=True).read() as session:
        found = find_model(session, model)
        events, acceptance = model_events(session, found), newest_acceptances(session).get(found.id)
    if as_json:
        print_json(
            _as_json(found, acceptance) | {"card": found.card, "events": [_event_json(one) for one in events]}
        )
        return
    facts = {
        "state": found.state,
        "backbone": found.backbone,
        "classes": ", ".join(found.card["classes"]),
        "threshold": f"{found.threshold:.4f}",
        "preprocessing": found.card["preprocessing"],
        **_trust(found),
        **{name: _measure(found, name, interval=True) for name in _MEASURES},
        "accepted here": _acceptance_text(acceptance),
        **{name: value for name, value in found.card["training"].items() if isinstance(value, int | str)},
    }
    print_table(("fact", "value"), facts.items(), title=found.name)
    print_table(
        ("when", "who", "what", "detail"),
        [(local_time(one.at), one.actor, one.action, _detail(one)) for one in events],
        title="Audit log",
    )


def _acceptance_text(acceptance: Acceptance | None) -> str:
    if acceptance is None:
        return "not measured: `pneumoscreen accept DATA` measures it"
    when, images = local_time(acceptance.created_at), counted(acceptance.images, "image")
    return f"{_accepted(acceptance)}, by {acceptance.by} on {images}, {when}: {'; '.join(acceptance.reasons)}"


def _trust(model: Model) -> dict[str, str]:
    """Return what a model is meant for, and what it can tell a picture's familiarity by."""
    use, known = model.card.get("intended_use") or {}, model.card.get("familiarity")
    age = use.get("age_years")
    meant = [
        f"{age[0]} to {age[1]} years" if age else "",
        ", ".join(use.get("views") or ()),
        ", ".join(use.get("modalities") or ()),
    ]
    learnt = f"learnt from {known['images']} pictures, and {known['held_out']} held out" if known else ""
    return {
        "intended use": "; ".join(filter(None, meant)) or "not stated",
        "familiarity": learnt or "it cannot tell whether a picture is unfamiliar",
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {"at": event.at, "actor": event.actor, "action": event.action, "detail": event.detail}


def _detail(event: Event) -> str:
    parts = {name: value for name, value in event.detail.items() if value is not None}
    return "; ".join(
        f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in parts.items()
    )


def promote(
    model: ModelName,
    yes: Annotated[
        bool, typer.Option("--yes", help="Promote it even if the gate has not said yes to it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a model the champion: new batches use it, existing batches keep theirs.

    A candidate that the gate of `retrain` never compared with a champion, or to which it said no, is promoted
    only after a confirmation or with --yes.
    """
    from db.models.registry import GateNotPassed, check_gate, find_model
    from db.models.registry import promote as crown

    database = ready_database(with_champion=True)
    try:
        with database.read() as session:
            check_gate(session, find_model(session, model))
    except GateNotPassed as error:
        if not yes:
            _confirm(error, model, as_json=as_json)
    with database.write() as session:
        champion = crown(session, model)
    _say(champion, as_json)


def _confirm(doubt: GateNotPassed, model: str, *, as_json: bool) -> None:
    """Ask a person at a terminal whether to promote a model; raise the doubt if there is none."""
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise doubt
    errors.print(f"The gate has not said yes to {model}: {doubt.detail}.", markup=False)
    errors.print(f"`pneumoscreen evaluate DATA --model {model}` measures it.", markup=False)
    typer.confirm("Make it champion all the same?", abort=True, err=True)


def rollback(as_json: AsJson = False) -> None:
    """Make the previous champion the champion again."""
    from db.models.registry import rollback as go_back

    with ready_database(with_champion=True).write() as session:
        champion = go_back(session)
    _say(champion, as_json)


def _say(champion: Model, as_json: bool) -> None:
    if as_json:
        print_json({"champion": champion.name})
    else:
        console.print(f"{champion.name} is champion.", markup=False)


def import_(
    folder: Annotated[Path, typer.Argument(help="A folder with model.json and the files that it names.")],
    as_json: AsJson = False,
) -> None:
    """Register a model that was trained elsewhere, as a candidate."""
    from db.models.registry import import_model

    if find_spec("torch") is not None:
        # If no worker is installed here, the first worker that loads the model makes these checks.
        from training.fitting.candidate import check_candidate

        check_candidate(folder)
    model = import_model(ready_database(with_champion=True), folder)
    if as_json:
        print_json(_as_json(model))
    else:
        console.print(f"{model.name} is registered as a {model.state}.", markup=False)
