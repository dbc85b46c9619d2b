"""The commands `worker` and `beat` of Celery alone: `python -m worker.broker.command -A worker.tasks worker`.

The arguments are those of `celery`. Its own command line also imports Flower and a shell, which is a quarter
of what a worker's start costs. The embedded stack starts several processes at once, while an image waits.
"""

from __future__ import annotations

import gc

# Imports create many objects and free few: the garbage collector would search all of them and find nothing.
gc.disable()

import click  # noqa: E402  (only after the collector is off)
from celery.app.utils import find_app  # noqa: E402
from celery.bin.base import CLIContext  # noqa: E402
from celery.bin.beat import beat  # noqa: E402
from celery.bin.worker import worker  # noqa: E402


@click.group()
@click.option("-A", "--app", required=True)
@click.pass_context
def main(context: click.Context, app: str) -> None:
    """Run a command of Celery for an application, which is found as `celery` finds it."""
    context.obj = CLIContext(app=find_app(app), no_color=None, workdir=None)
    gc.freeze()
    gc.enable()


main.add_command(worker)
main.add_command(beat)

if __name__ == "__main__":
    main()
