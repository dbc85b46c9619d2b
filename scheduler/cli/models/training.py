"""Commands on training: retrain, runs, runs cancel."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.text import counted
from scheduler.cli.completion import models, recipes
from scheduler.cli.console import console, errors, print_json, print_table
from scheduler.cli.help import CommandGroup
from scheduler.cli.models.plan import (
    check_weights,
    checked_source,
    choose_recipe,
    going_on,
    missing_weights,
)
from scheduler.cli.models.runs import print_runs
from scheduler.cli.ready import ready_database
from scheduler.cli.study.cohorts import AsJson

if TYPE_CHECKING:
    from db.engine import Database
    from db.tables import TrainingRun
    from training.run.conclusion import Finished
    from training.run.progress import Step


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: pneumoscreen retrain /data/labelled --weights /data/imagenet")(retrain)
    group = typer.Typer(
        cls=CommandGroup, epilog="Example: pneumoscreen runs --json", invoke_without_command=True
    )
    group.callback()(runs)
    group.command("cancel", epilog="Example: pneumoscreen runs cancel 3")(cancel)
    app.add_typer(group, name="runs")


def retrain(  # noqa: PLR0913, PLR0917  (a command's options are its parameters)
    data: Annotated[
        Path | None,
        typer.Argument(
            help="A folder that holds NORMAL/ and PNEUMONIA/ (or BACTERIAL/ and VIRAL/).", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="thesis or clinical (the default); with --from it is site.",
            autocompletion=recipes,
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Go on from this model on the labels of this site: its id, or champion.",
            autocompletion=models,
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="With --from: a folder with the labelled images that this model learned from, so that it "
            "does not forget them.",
            show_default=False,
        ),
    ] = None,
    backbones: Annotated[
        str, typer.Option(help="Backbones to compare, separated by commas.")
    ] = "resnet18,resnet34,resnet50,alexnet",
    epochs: Annotated[
        int | None, typer.Option(help="Epochs after the frozen one; the recipe's by default.", min=1)
    ] = None,
    classes: Annotated[
        str, typer.Option(help="normal,pneumonia or normal,bacterial,viral.")
    ] = "normal,pneumonia",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the initial ImageNet weights; by default torchvision's cache.",
            envvar="PNEUMOSCREEN_WEIGHTS",
            show_default=False,
        ),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Use random weights for backbones with no weights file.")
    ] = False,
    wd: Annotated[
        float | None, typer.Option(help="Weight decay; 0.01 by default, 0.1 in the thesis' text.", min=0)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds to train each backbone with.", min=1)] = 1,
    labels: Annotated[bool, typer.Option("--labels", help="Use the imported labels too.")] = False,
    promote: Annotated[
        str, typer.Option(help="auto makes the winner champion if it passes the gate; ask leaves it to you.")
    ] = "ask",
    names: Annotated[
        bool, typer.Option("--names", help="Name files in the report. Names may hold patient data.")
    ] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Let a training worker do the run.")] = False,
    resume: Annotated[
        int | None, typer.Option(help="Continue this run, which was stopped or failed.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare backbones on labelled images, write a report, and test the winner at the gate.

    With --from, one model goes on learning from the labels of this site.
    """
    from db.training.runs import open_run, reopen_run
    from training.data.classes import parse_classes
    from training.plan import Plan, check_promote

    database = ready_database(with_champion=True)
    if resume is None:
        chosen = choose_recipe(recipe, start, epochs=epochs, weight_decay=wd, seeds=seeds)
        compared = tuple(name.strip() for name in backbones.split(","))
        plan = Plan(
            recipe=chosen,
            data=checked_source(data, labels=labels),
            use_labels=labels,
            classes=parse_classes(classes),
            backbones=compared,
            weights=None if weights is None else weights.resolve(),
            random_weights=missing_weights(compared, weights) if random_weights else (),
            promote=check_promote(promote),
            names=names,
        )
        plan = going_on(database, plan, start, replay)
        check_weights(plan)
        with database.write() as session:
            resume = open_run(session, plan.model_dump(mode="json"), for_worker=queue).id
    else:
        with database.write() as session:
            reopen_run(session, resume, for_worker=queue)
    if queue:
        _queue(resume, as_json=as_json)
    else:
        _train(database, resume, as_json=as_json)


def _queue(run_id: int, *, as_json: bool) -> None:
    from scheduler.cli.system.running import say_missing_workers
    from worker.broker.notify import ask_for_batches

    ask_for_batches()
    if as_json:
        print_json({"run": run_id})
    else:
        console.print(f"Run {run_id} waits for a training worker; `pneumoscreen runs` shows its progress.")
        say_missing_workers({"training", "housekeeping"}, "the run waits")


def _train(database: Database, run_id: int, *, as_json: bool) -> None:
    from scheduler.cli.progress_line import Part, ProgressLine

    with ProgressLine(errors, stays=True) as line:
        line.show([Part("reading images ...")])
        from training.run.lifecycle import train

        def show(step: Step) -> None:
            parts = [Part(step.backbone), Part(f"{step.part:.0%}", rank=1)]
            if step.seconds_left is not None:
                parts.append(Part(f"{timedelta(seconds=round(step.seconds_left))} left", rank=2))
            if step.epochs:
                epoch = step.epochs[-1]
                losses = f"loss {epoch.train_loss:.4f} / {epoch.valid_loss:.4f}"
                parts += [Part(losses, rank=4), Part(f"accuracy {epoch.accuracy:.4f}", rank=3)]
            line.show(parts, done=step.part)

        try:
            finished = train(database, run_id, on_step=show)
        except KeyboardInterrupt:
            errors.print(f"Stopped. `pneumoscreen retrain --resume {run_id}` continues from the last epoch.")
            raise
    if as_json:
        print_json(_finished_json(finished))
    else:
        _print_finished(finished)
    raise typer.Exit(1 if finished.failed else 0)


def _finished_json(finished: Finished) -> dict[str, Any]:
    decision = finished.decision
    return {
        "run": finished.run_id,
        "report": str(finished.report),
        "models": [one.model_id for one in finished.outcomes],
        "failed": [{"backbone": one.backbone, "problem": one.problem} for one in finished.failed],
        "aucs": {one.model_id: auc for one, auc in zip(finished.outcomes, finished.aucs, strict=True)},
        "winner": finished.winner,
        "choice": list(finished.choice),
        "gate": None if decision is None else {"passed": decision.passed, "reasons": decision.reasons},
        "promoted": finished.promoted,
        "contradicting": finished.contradicting,
        "without_file": finished.without_file,
    }


def _print_finished(finished: Finished) -> None:
    """Print table 4 of the thesis with the AUC, the winner, the gate's decision and the report's path."""
    print_table(
        ("backbone", "train_loss", "valid_loss", "accuracy", "AUC", "model"),
        [
            (
                one.backbone,
                f"{one.epochs[-1].train_loss:.5f}",
                f"{one.epochs[-1].valid_loss:.5f}",
                f"{one.epochs[-1].accuracy:.5f}",
                f"{auc:.4f}",
                one.model_id,
            )
            for one, auc in zip(finished.outcomes, finished.aucs, strict=True)
        ],
        title=f"Run {finished.run_id}",
    )
    for failed in finished.failed:
        errors.print(f"{failed.backbone} was not trained: {failed.problem}", markup=False)
    for digest in finished.contradicting:
        errors.print(f"left out, its labels contradict one another: {digest[:12]}", markup=False)
    if finished.without_file:
        errors.print(
            f"left out, no readable file is known: {counted(finished.without_file, 'labelled image')}",
            markup=False,
        )
    for sentence in finished.choice:
        console.print(sentence, markup=False)
    decision = finished.decision
    if decision is not None:
        answer = "yes" if decision.passed else "no"
        console.print(f"Gate: {answer} to {finished.winner}: {'; '.join(decision.reasons)}.", markup=False)
        if decision.passed and not finished.promoted:
            console.print(f"To make it champion: pneumoscreen models promote {finished.winner}", markup=False)
    if finished.promoted:
        console.print(f"{finished.winner} is champion now.", markup=False)
    console.print(f"Report: {finished.report}", markup=False, soft_wrap=True)


def runs(context: typer.Context, as_json: AsJson = False) -> None:
    """List training runs: how far they have come, and how they ended.

    A run that is done is shown by its winner: the last epoch, and the AUC on the held-out images.
    """
    from db.training.runs import all_runs

    if context.invoked_subcommand is not None:
        return
    with ready_database().read() as session:
        found = all_runs(session)
    if as_json:
        print_json([_run_json(run) for run in found])
        return
    print_runs(found)


def cancel(
    run: Annotated[int, typer.Argument(help="Id of the run, as `runs` shows it.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Cancel a queued training run, before a worker begins it; `retrain --resume` queues it again."""
    from db.training.runs import cancel_run

    with ready_database().write() as session:
        cancel_run(session, run)
    if as_json:
        print_json({"run": run, "state": "stopped"})
    else:
        console.print(f"Run {run} is cancelled. `pneumoscreen retrain --resume {run}` starts it again.")


def _run_json(run: TrainingRun) -> dict[str, Any]:
    return {
        "run": run.id,
        "state": run.state,
        "recipe": run.plan["recipe"]["name"],
        "backbones": run.plan["backbones"],
        "progress": run.progress,
        "problem": run.problem,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
    }
