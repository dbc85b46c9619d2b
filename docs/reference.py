"""The generator of the reference: commands, settings, codes, states, results, manual. `make docs` runs it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pydantic import SecretStr
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import db
import deploy
import scheduler
import training
import worker
from db.errors import PneumoscreenError
from db.jobs.problems import ImageFailed, ImageSkipped, every_problem
from db.models.cautions import every_caution
from db.settings import ENV_PREFIX, RoomSettings
from db.transitions import LIFECYCLES, transitions
from scheduler.cli import app
from scheduler.exports.columns import COLUMNS

HERE = Path(__file__).parent

_NOTE = "<!-- Written by `make docs` from the code. Change it there. -->\n"


_EXIT_CODES = """\
0 all well, 1 finished with failed images, 2 usage or configuration, 130 interrupted;
`screen` and `demo` also 143 after TERM and 129 after HUP."""


def commands() -> str:
    """Return every command with its help."""
    # A fixed width: the pages must not depend on the terminal that they are written in.
    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
    parts = ["# Commands\n", _NOTE]
    for words in _commands():
        shown = runner.invoke(app, [*words, "--help"], prog_name="pneumoscreen")
        parts.append(f"## {' '.join(words) or 'pneumoscreen'}\n\n```\n{shown.output.strip()}\n```\n")
    parts.append(f"Exit codes: {_EXIT_CODES}\n")
    return "\n".join(parts)


def _commands() -> Iterator[list[str]]:
    yield []
    for command in app.registered_commands:
        yield [command.name or getattr(command.callback, "__name__", "")]
    for group in app.registered_groups:
        if group.typer_instance is None:
            continue
        if group.typer_instance.info.invoke_without_command is True:
            yield [str(group.name)]
        for command in group.typer_instance.registered_commands:
            yield [str(group.name), str(command.name)]


def manual() -> str:
    """Return every command with its help as a manual page, in the macros of man(7)."""
    parts = [
        '.\\" Written by `make docs` from the code. Change it there.',
        '.TH PNEUMOSCREEN 1 "" pneumoscreen "User Commands"',
        f".SH NAME\npneumoscreen \\- {_roff(str(app.info.help).partition('.')[0])}",
        ".SH SYNOPSIS\npneumoscreen [OPTIONS] COMMAND [ARGS]...",
        ".SH COMMANDS",
    ]
    for words in _commands():
        command = get_command(app)
        context = command.context_class(command, info_name="pneumoscreen", **command.context_settings)
        for word in words:
            command = cast(TyperGroup, command).commands[word]
            context = command.context_class(command, info_name=word, parent=context)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.append(f'.SS "{_roff(usage)}"')
        parts += [f".PP\n{_roff(' '.join(part.split()))}" for part in str(command.help).split("\n\n")]
        records = (parameter.get_help_record(context) for parameter in command.get_params(context))
        parts += [f'.TP\n.B "{_roff(name)}"\n{_roff(meaning)}' for name, meaning in filter(None, records)]
        parts.append(f".PP\n{_roff(str(command.epilog))}")
    parts.append(f".SH EXIT STATUS\n{_roff(_EXIT_CODES)}")
    return "\n".join(parts) + "\n"


def _roff(text: str) -> str:
    """Return text without what the formatter would obey."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def settings() -> str:
    """Return every setting with its default and the comment above it in the code."""
    _import_everything()
    parts = [
        "# Settings\n",
        _NOTE,
        "Each is read from the environment, else from a file of its name in the secrets folder (in lower\n"
        "case, as `pneumoscreen_broker_url`), else from `pneumoscreen.toml` (in lower case, without the\n"
        "prefix, as `lease_seconds = 30`).\n",
        "These settings name the places that are searched:\n",
        "| setting | default | meaning |\n| --- | --- | --- |\n"
        "| `PNEUMOSCREEN_HOME` | the platform's user data folder | The data directory. |\n"
        "| `PNEUMOSCREEN_CONFIG` | `pneumoscreen.toml` in the data directory | The file of settings. |\n"
        "| `PNEUMOSCREEN_SECRETS` | `secrets` in the data directory | The folder of secret files. |\n",
    ]
    for room in sorted(RoomSettings.rooms, key=lambda room: str(room.__doc__)):
        title = (room.__doc__ or "").strip().rstrip(".")
        comments = _comments(Path(str(importlib.import_module(room.__module__).__file__)))
        parts.append(f"## {title}\n\n| setting | default | meaning |\n| --- | --- | --- |")
        for name, field in room.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if isinstance(default, SecretStr):
                default = default.get_secret_value()
            parts.append(f"| `{ENV_PREFIX}{name.upper()}` | `{default!r}` | {comments[name]} |")
        parts.append("")
    return "\n".join(parts)


def _comments(file: Path) -> dict[str, str]:
    """Return the `#:` comment above each annotated name of a module."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#:"):
            waiting.append(text[2:].strip())
        else:
            if waiting and ":" in text:
                found[text.split(":")[0]] = " ".join(waiting)
            waiting = []
    return found


def codes() -> str:
    """Return every code with which an image or a command may end, and every caution of a prediction."""
    _import_everything()
    parts = ["# Codes\n", _NOTE]
    for title, kind in (("Skipped images", ImageSkipped), ("Failed images", ImageFailed)):
        parts.append(f"## {title}\n\n| code | meaning |\n| --- | --- |")
        parts += [
            f"| `{code}` | {problem.meaning()} |"
            for code, problem in sorted(every_problem().items())
            if issubclass(problem, kind)
        ]
        parts.append("")
    parts.append("## Cautions beside a prediction\n\n| code | meaning |\n| --- | --- |")
    parts += [f"| `{code}` | {caution.meaning()} |" for code, caution in sorted(every_caution().items())]
    parts.append("")
    parts.append("## Errors of a command\n\n| code | meaning |\n| --- | --- |")
    errors = {error.code: error for error in _command_errors(PneumoscreenError)}
    parts += [f"| `{code}` | {error.meaning()} |" for code, error in sorted(errors.items())]
    return "\n".join(parts) + "\n"


def _command_errors(kind: type[PneumoscreenError]) -> Iterator[type[PneumoscreenError]]:
    for error in kind.__subclasses__():
        if error.__name__ != "ImageProblem":
            yield error
            yield from _command_errors(error)


def _import_everything() -> None:
    """Import every module, so that every class is known, but no module that only runs as a program."""
    for room in (db, worker, training, scheduler, deploy):
        for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
            if ".migrations" not in module.name and not module.name.endswith(("__main__", "flowerconfig")):
                importlib.import_module(module.name)


def states() -> str:
    """Return the states of every kind of row, and the transitions between them."""
    parts = [
        "# States\n",
        _NOTE,
        "Code changes a state only by one of these transitions (`db/transitions.py`): the states of the\n"
        "transition are the condition of the UPDATE. An arrow from a state to itself is a renewal.\n",
    ]
    for lifecycle in LIFECYCLES:
        table = transitions(lifecycle)
        parts.append(f"## {lifecycle.__name__.removesuffix('Change')}\n\n```mermaid\nstateDiagram-v2")
        for name, one in table.items():
            label = name.lower().replace("_", " ")
            for source in one.sources or ("[*]",):
                parts.append(f"    {_node(source)} --> {_node(one.to)}: {label}")
        parts.append("```\n\n| transition | from | to | when |\n| --- | --- | --- | --- |")
        for name, one in table.items():
            sources = ", ".join(f"`{source}`" for source in one.sources) or "a new row"
            parts.append(f"| {name.lower().replace('_', ' ')} | {sources} | `{one.to}` | {one.meaning} |")
        parts.append("")
    return "\n".join(parts)


def _node(state: str) -> str:
    """Return the name of a state for Mermaid, which reads a hyphen as the beginning of an arrow."""
    return str(state).replace("-", "_")


_RESULTS = """\
`pneumoscreen results COHORT --out FILE` writes one row for each image of a cohort, in the order in which the
images were added. The suffix of the file decides the format:

- `.csv`: commas, UTF-8 with a byte order mark, as Excel and pandas read it. Text that a spreadsheet would
  take for a formula begins with an apostrophe. Probabilities have six digits.
- `.xlsx`: an Excel workbook. The sheet `results` has the rows: text is text and never a formula, numbers have
  all digits. The sheet `about` has the digest of the audit log. Excel opens 1,048,575 rows at most.
- `.parquet`: for pandas, R and databases. Numbers have all digits. The digest of the audit log is in the
  file's metadata.
- `.json`: an array of objects, one on each line; an empty cell is `null`. Probabilities have six digits.

What a table has beyond the default:

- `--names` adds the column `file`, by which a table can be joined to a list of the study, and nothing else.
- `--identifiers` shows UIDs and whole paths instead of pseudonyms and digests.
- `--accession` adds the column `accession`. It is empty unless `PNEUMOSCREEN_KEEP_ACCESSION` was on when the
  images were added.
- `--state failed` keeps only images in this state; give it several times for several states.
- `--columns image,file,probability` keeps only these columns, in this order.

Without `--out`, the first rows are shown in the terminal. `pneumoscreen show image NUMBER` prints everything
about one image.

If the pictures of the cohort are unlike those that the model learned from, `results` says so on standard
error. Then do not trust the numbers before `pneumoscreen accept DATA` has measured the model on labelled
images of your site, and accepted it. How it is found: a rank-sum test compares the familiarities of the
newest pictures, 51,200 at most, with the held-out pictures of the training hospital. The pictures are unlike
these if the held-out picture is the more familiar one in at least 80% of all pairs (the effect size A of
Vargha and Delaney), and chance alone makes such a difference less often than once in a thousand times. Fewer
than 20 pictures say nothing, and neither does a model without statistics of familiarity.

## Columns

Scripts can rely on the first eleven; new columns are added at the end.

| column | type | meaning | empty if |
| --- | --- | --- | --- |"""


def results() -> str:
    """Return the formats and the columns of a results table."""
    parts = ["# Results\n", _NOTE, _RESULTS]
    for column in COLUMNS:
        meaning = f"{column.meaning} Only with `{column.option}`." if column.option else column.meaning
        parts.append(f"| `{column.name}` | {column.kind} | {meaning} | {column.empty} |")
    return "\n".join(parts) + "\n"


PAGES = {
    "commands.md": commands,
    "settings.md": settings,
    "codes.md": codes,
    "states.md": states,
    "results.md": results,
    "pneumoscreen.1": manual,
}


def main() -> None:
    """Write the pages."""
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
