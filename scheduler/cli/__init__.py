"""The `pneumoscreen` command line: parse, call one function, print.

Each command imports what it needs inside its function, so that `status` does not wait for it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from db.atomic import DiskFull, is_full, keep_private
from db.errors import PneumoscreenError
from scheduler.cli.help import CommandGroup
from scheduler.cli.models import acceptance, evaluate, registry, training
from scheduler.cli.signals import Ended
from scheduler.cli.study import cohorts, images, labels, nightly, results, screening
from scheduler.cli.system import audit, database, stack
from worker.files.silence import silence_libraries

#: Exit codes: 0 all well, 1 finished with failed images, 2 usage or configuration.
EXIT_FAILED_IMAGES = 1
EXIT_USAGE = 2
#: The signal's number is added, as shells do.
EXIT_SIGNALLED = 128


class PackageMissing(PneumoscreenError):
    """A package is missing. In the clone: `pip install '.[worker]'` for a worker, `'.[local]'` for all."""

    code = "package-missing"


class FileTrouble(PneumoscreenError):
    """A file or folder cannot be used. Check that the paths exist, and may be read and written."""

    code = "file-trouble"


class Unforeseen(PneumoscreenError):
    """An unexpected error. Please report it with the lines above, which hold no patient data."""

    code = "unforeseen"


app = typer.Typer(
    name="pneumoscreen",
    cls=CommandGroup,
    help="Batch screening of chest X-rays for pneumonia. A research and triage aid, never a diagnosis.",
    epilog="Example: pneumoscreen demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (
    screening,
    stack,
    cohorts,
    results,
    images,
    evaluate,
    acceptance,
    nightly,
    training,
    registry,
    labels,
    database,
    audit,
):
    room.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pneumoscreen {version('pneumoscreen')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> NoReturn:
    """Run the command line. An expected error prints one line, never a traceback.

    For an unexpected error, lines of code are printed and not its text: libraries quote headers and paths.
    """
    keep_private()
    silence_libraries()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    try:
        app()
    except PneumoscreenError as error:
        _complain(error)
    except ModuleNotFoundError as error:
        _complain(PackageMissing(f"no {error.name}"))
    except OSError as error:
        # Without the file's name, which may hold a patient's name.
        _complain(DiskFull() if is_full(error) else FileTrouble(os.strerror(error.errno or 0)))
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGNALLED + signal.SIGINT)
    except Ended as ended:
        sys.exit(EXIT_SIGNALLED + ended.number)
    except Exception as error:
        sys.stderr.writelines(traceback.format_tb(error.__traceback__))
        _complain(Unforeseen(type(error).__name__))
    sys.exit(0)


def _complain(error: PneumoscreenError) -> NoReturn:
    sys.stderr.write(f"error [{error.code}]: {error}\n")
    sys.exit(EXIT_USAGE)
