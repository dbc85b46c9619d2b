"""The commands of the pages for people: they are run, and compared with what the page shows.

A block that begins with three backticks and `console` is run: a line that begins with `$ ` is a command, and
the lines below it are what it prints. Blocks of any other kind are not run, because they need root, another
server or a network.

`make pages` runs the pages and writes what the commands print now into them.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.docs.example import write_example

ROOT = Path(__file__).parent.parent.parent
#: The pages that hold commands which are run.
PAGES = ("README.md", "docs/data-manager.md", "docs/it.md", "docs/researcher.md", "docs/troubleshooting.md")

#: The user of the pages.
USER = "anna"
#: Width of the pages' terminal, in characters.
COLUMNS = 100
#: A page's line of this alone stands for any lines, or none; in a line it stands for any text.
ANYTHING = "..."

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What differs from run to run: digests, dates, times, fractions, durations, and numbers of four digits or
#: more, which are ports; process ids; the ids of nightly runs and the rows of a backup, because housekeeping
#: notes a schedule's first slot when it gets to it.
_VARIES = re.compile(
    r"\b\d{8}T\d{6}Z\b|\b[0-9a-f]{8,}\b|\d{4}-\d\d-\d\d|\d\d?:\d\d(:\d\d)?|\d+\.\d+(\.\d+)*"
    r"|\b\d+(?= s\b)|\b\d{4,}\b|(?<=RUNNING )\d+"
    # The runtime depends on the machine.
    r"|\b(torch|openvino)-\S+|(?<=runtime good )\S+ \S+"
    r"|(?<=Nightly run )\d+|^\d+(?= ward-7 )|\d+(?= rows and \d+ model)"
)
#: A model's id: its backbone and the beginning of its digest.
_MODEL = re.compile(r"\b([a-z]+\d*)-[0-9a-f]{12}\b")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a page, and the lines that the page shows below it."""

    text: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was run, what it printed, line by line, and its exit code."""

    text: str
    printed: tuple[str, ...]
    code: int


def blocks(page: str, kind: str) -> list[str]:
    """Return the text of a page's blocks of one kind, as `console` or `sh`."""
    return [found[2] for found in _BLOCK.finditer(page) if found[1] == kind]


def commands(block: str) -> Iterator[Command]:
    """Yield the commands of a `console` block."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        length = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
        if "<<END" in lines[0]:
            length = lines.index("END") + 1
        yield Command("\n".join(lines[:length]), tuple(lines[length:]))


def page_commands(page: str) -> list[Command]:
    """Return all commands of a page that are run, in order."""
    return [command for block in blocks(page, "console") for command in commands(block)]


@contextmanager
def home_of_the_user() -> Iterator[Path]:
    """Make a home with the files of the example; its path is as long as the one that the pages show.

    In this way tables break at the same places. At the end, what runs there is stopped.
    """
    home = Path("/tmp") / f"p{secrets.token_hex(2)}"  # noqa: S108, for it is as long as /home/anna
    home.mkdir(mode=0o700)
    try:
        write_example(home)
        yield home
    finally:
        run(Command("pneumoscreen down", ()), home)
        shutil.rmtree(home)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of the pages' user, whose data directory is below `home`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PNEUMOSCREEN_", "XDG_"))
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"HOME": str(home), "PATH": path, "COLUMNS": str(COLUMNS), "TZ": "UTC"}


def run_all(page: str, home: Path) -> Iterator[tuple[Command, Outcome]]:
    """Run the commands of a page in order, in the user's home.

    A model that was trained here has another digest in its id than the page's. So an id in a command stands
    for the model with that backbone which was printed last.
    """
    ids: dict[str, str] = {}

    def here(found: re.Match[str]) -> str:
        return ids.get(found[1], found[0])

    for command in page_commands(page):
        outcome = run(replace(command, text=_MODEL.sub(here, command.text)), home)
        ids.update({found[1]: found[0] for line in outcome.printed for found in _MODEL.finditer(line)})
        yield command, outcome


def run(command: Command, home: Path, seconds: float = 1200) -> Outcome:
    """Run a command with bash in the user's home, and return what it printed, errors too."""
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=home, env=environment(home), text=True, timeout=seconds, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    printed = done.stdout.replace(str(home), f"/home/{USER}")
    printed = re.sub(rf"(?<![\w./]){re.escape(getpass.getuser())}(?![\w./])", USER, printed)
    printed = re.sub(r"(?<=password )\S+", "...", printed)
    return Outcome(command.text, tuple(_trimmed(printed.splitlines())), done.returncode)


def _trimmed(lines: list[str]) -> Iterator[str]:
    """Yield lines without trailing spaces and bars of progress, with one empty line between others."""
    space = False
    any_yet = False
    for line in lines:
        if not line.strip():
            space = any_yet
        elif "━" not in line:
            if space:
                yield ""
            yield line.rstrip()
            space, any_yet = False, True


def first_missing(command: Command, outcome: Outcome) -> str | None:
    """Return the first line of the page that the command did not print, in the page's order, or None."""
    printed = iter(outcome.printed)
    for line in command.shown:
        if line not in ("", ANYTHING) and not any(_matches(line, one) for one in printed):
            return line
    return None


def _matches(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in _comparable(shown).split(ANYTHING))
    return re.fullmatch(pattern, _comparable(printed)) is not None


def _comparable(line: str) -> str:
    """Return a line without what differs from run to run, and without the widths of columns."""
    return _VARIES.sub("#", re.sub(r"\s+", " ", re.sub("─+", "─", line.strip())))


def _with_gaps(command: Command, outcome: Outcome) -> Iterator[str]:
    """Yield what was printed, with the gaps that the page has in its lines."""
    with_gaps = [line for line in command.shown if ANYTHING in line and line != ANYTHING]
    for line in outcome.printed:
        yield next((one for one in with_gaps if _matches(one, line)), line)


def rewritten(page: str, outcomes: Iterator[Outcome]) -> str:
    """Return the page with what its commands printed; what is still right stays as it is."""

    def write(found: re.Match[str]) -> str:
        if found[1] != "console":
            return found[0]
        lines = []
        for command in commands(found[2]):
            outcome = next(outcomes)
            is_whole = len([line for line in command.shown if line]) == len(
                list(filter(None, outcome.printed))
            )
            is_right = (is_whole or ANYTHING in command.shown) and first_missing(command, outcome) is None
            lines += [f"$ {outcome.text}", *(command.shown if is_right else _with_gaps(command, outcome))]
        return "\n".join(["```console", *lines, "```"])

    return _BLOCK.sub(write, page)


def main(names: Sequence[str]) -> None:
    """Run pages, all by default, and write into them what their commands print."""
    for name in names or PAGES:
        outcomes = []
        with home_of_the_user() as home:
            for _, outcome in run_all((ROOT / name).read_text(), home):
                outcomes.append(outcome)
                print(f"$ {outcome.text}", *outcome.printed, f"[{outcome.code}]", sep="\n", flush=True)
        (ROOT / name).write_text(rewritten((ROOT / name).read_text(), iter(outcomes)))


if __name__ == "__main__":
    main(sys.argv[1:])
