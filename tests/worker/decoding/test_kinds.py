"""Every kind of file ends as the page on image files says, and so does every file that pydicom brings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_files

from db.jobs.problems import ImageProblem, every_problem
from tests.worker.decoding.kinds import Kind, grey, kinds, raster
from worker.decoding.decode import decode_file
from worker.gate.steps import problems_of
from worker.imaging.limits import DEFAULTS
from worker.imaging.picture import Picture

PAGE = Path(__file__).parents[3] / "docs" / "files.md"
KINDS = list(kinds())

HEAD = """# Image files

<!-- Written by `make docs` from tests/worker/decoding/test_kinds.py. Change it there. -->

A file ends as `done` with a probability, or as `skipped` or `failed` with a [code](codes.md). A test makes
each file of the first tables, and compares its picture with the right one.
"""


def end_of(content: bytes) -> tuple[str, np.ndarray | None]:
    """Return the code of a file's problem, empty if there is none, and its picture."""
    try:
        decoded = decode_file(content, DEFAULTS)
        picture = Picture(pixels=decoded.pixels, digest="", facts=decoded.facts)
        (problem,) = problems_of([picture])
    except ImageProblem as found:
        return found.code, None
    return ("" if problem is None else problem.code), decoded.pixels


@pytest.fixture(scope="module")
def right() -> np.ndarray:
    """Return the picture that every file holds."""
    return decode_file(raster(grey(16), "PNG"), DEFAULTS).pixels.astype(float)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_file_gives_the_right_picture_or_its_code(kind: Kind, right: np.ndarray) -> None:
    code, pixels = end_of(kind.make())
    assert code == kind.code
    if not code:
        assert pixels is not None
        assert np.abs(pixels - right).mean() <= kind.levels


def test_the_page_names_every_kind() -> None:
    page = written_page()
    if os.environ.get("WRITE_PAGES"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run `make docs`"


def written_page() -> str:
    """Return the page on image files."""
    parts = [HEAD]
    for section in dict.fromkeys(kind.section for kind in KINDS):
        rows = [(kind.name, kind.code) for kind in KINDS if kind.section == section]
        parts.append(f"## {section}\n\n{table('file', rows)}")
    parts.append(f"## pydicom's test files\n\n{table('file', pydicom_files())}")
    return "\n".join(parts)


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """Return files and how they end as a table."""
    lines = [f"| {title} | state | code |", "| --- | --- | --- |"]
    for name, code in rows:
        state = every_problem()[code].state if code else "done"
        lines.append(f"| {name} | {state} | {f'`{code}`' if code else ''} |")
    return "\n".join(lines) + "\n"


def pydicom_files() -> list[tuple[str, str]]:
    """Return how each file ends that comes with pydicom; their folders are part of the names."""
    files = [Path(file) for file in get_testdata_files()]
    root = Path(os.path.commonpath([str(file) for file in files]))
    found = sorted((str(file.relative_to(root)), file) for file in files if file.is_file())
    return [(name, end_of(file.read_bytes())[0]) for name, file in found]
