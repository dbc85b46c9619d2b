"""The generated reference pages: they match the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", ["commands.md", "settings.md", "codes.md", "states.md", "results.md", "pneumoscreen.1"]
)
def test_pages_are_up_to_date(reference: ModuleType, page: str) -> None:
    assert (DOCS / page).read_text() == reference.PAGES[page](), "run `make docs`"


def test_the_manual_page_has_every_option_and_obeys_no_text(reference: ModuleType) -> None:
    lines = reference.manual().splitlines()
    macros = {line.split()[0] for line in lines if line.startswith((".", "'"))}
    assert macros == {'.\\"', ".TH", ".SH", ".SS", ".PP", ".TP", ".B"}
    shown = re.findall(r"^  (-\S+)", reference.commands(), re.MULTILINE)
    named = [line.split('"')[1].replace("\\", "").split()[0] for line in lines if line.startswith('.B "\\-')]
    assert len(named) > 50
    assert named == shown


def test_every_command_has_an_example(reference: ModuleType) -> None:
    sections = reference.commands().split("\n## ")[1:]
    assert len(sections) >= 13
    for section in sections:
        assert "Example: pneumoscreen " in section, section.splitlines()[0]


def test_every_code_is_used_once_and_says_what_to_do(reference: ModuleType) -> None:
    from db.errors import PneumoscreenError
    from db.jobs.problems import every_problem

    reference.codes()
    errors = [*every_problem().values(), *set(reference._command_errors(PneumoscreenError))]
    codes = [error.code for error in errors]
    assert len(codes) == len(set(codes))
    for error in errors:
        assert len(error.meaning()) > 30
        assert error.meaning().endswith(".")
