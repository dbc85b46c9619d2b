"""Tables and one line of progress, in terminals of several widths, in a file and in a pipe."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from scheduler.cli import console as output
from scheduler.cli.console import print_table
from scheduler.cli.progress_line import Part, ProgressLine

HEAD = ("cohort", "state", "what to do")
ROWS: list[tuple[object, ...]] = [
    ("trial-7", "ingesting", "Give the same `submit` again, then look at /data/hospital/trial-7/readme.txt"),
    ("trial-8", "ready", None),
]
WORDS = {word for row in (HEAD, *ROWS) for cell in row if cell for word in str(cell).split()}


def printed(
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    *,
    terminal: bool,
    head: tuple[str, ...] = HEAD,
    rows: list[tuple[object, ...]] = ROWS,
) -> list[str]:
    file = io.StringIO()
    monkeypatch.setattr(
        output, "console", Console(file=file, force_terminal=terminal, width=width, color_system=None)
    )
    print_table(head, rows)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_word_of_a_table_is_broken_in_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed(monkeypatch, width, terminal=True)
    assert {word for line in lines for word in line.split()} >= WORDS
    # A longer line only holds one word that is longer than its part of the width.
    assert all(len(line) <= width or "/data/hospital" in line for line in lines)


def test_the_counts_of_a_cohort_fit_into_80_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = ("priority", "total", "pending", "queued", "running", "done", "skipped", "failed")
    head = ("cohort", "state", *counts)
    row = ("screening-7", "finished", 0, 300, 0, 0, 0, 300, 0, 0)
    lines = printed(monkeypatch, 80, terminal=True, head=head, rows=[row])
    assert all(len(line) <= 80 for line in lines)
    assert [line.split() for line in lines if "priority" in line or "finished" in line] == [
        list(head), list(map(str, row)),
    ]  # fmt: skip


def test_a_table_in_a_pipe_has_one_line_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    head, first, second = printed(monkeypatch, 30, terminal=False)
    assert re.split("  +", head) == list(HEAD)
    assert re.split("  +", first) == list(ROWS[0])
    assert re.split("  +", second) == ["trial-8", "ready"]


PARTS = [
    Part("12000/20000 images"), Part("24.1 images/s", rank=3), Part("0:05:32 left", rank=4),
    Part("11800 done", rank=6), Part("190 skipped", rank=5), Part("10 failed", rank=1),
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_progress_in_a_terminal_is_one_line_that_keeps_the_failures(width: int) -> None:
    file = io.StringIO()
    with ProgressLine(Console(file=file, force_terminal=True, width=width), stays=True) as line:
        line.show(PARTS, done=0.6)
    (drawn,) = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", file.getvalue()).splitlines()[-1:]
    assert len(drawn) < width
    assert "12000/20000 images" in drawn
    assert "10 failed" in drawn
    assert ("11800 done" in drawn) == (width > 80)


def test_progress_in_a_file_is_one_line_a_minute_and_the_last_state() -> None:
    file, now = io.StringIO(), 0.0
    with ProgressLine(Console(file=file, width=60), stays=True, clock=lambda: now) as line:
        for second in range(150):
            now = float(second)
            line.show([Part(f"{second}/150 images"), Part("a long part that no width leaves out", rank=9)])
    lines = file.getvalue().splitlines()
    assert [re.findall(r"\d+/150", one) for one in lines] == [["60/150"], ["120/150"], ["149/150"]]
    assert all("a long part" in one for one in lines)


def test_the_last_state_is_not_repeated_in_a_file() -> None:
    file, now = io.StringIO(), 0.0
    with ProgressLine(Console(file=file), stays=True, clock=lambda: now) as line:
        now = 61.0
        line.show([Part("150/150 images")])
    assert file.getvalue().count("150/150 images") == 1


def test_a_count_that_took_less_than_a_minute_leaves_nothing_in_a_file() -> None:
    file = io.StringIO()
    with ProgressLine(Console(file=file)) as line:
        line.show([Part("20 files listed ...")])
    assert file.getvalue() == ""
