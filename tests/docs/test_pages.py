"""The pages for people: their commands run as written and print what the pages show; their links exist."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.docs.pages import (
    PAGES,
    ROOT,
    Command,
    Outcome,
    blocks,
    first_missing,
    home_of_the_user,
    rewritten,
    run_all,
)

#: The pages that run in every test run; the others take minutes.
SHORT = ("README.md", "docs/data-manager.md")
#: Every page that is written by hand.
WRITTEN = ("README.md", *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").glob("*.md")))


@pytest.fixture
def user_home() -> Iterator[Path]:
    """Give the home of the pages' user."""
    with home_of_the_user() as home:
        yield home


def runs(page: str) -> ParameterSet:
    """Return a page as a test whose name says how many of its blocks are run, and how many are not."""
    text = (ROOT / page).read_text()
    ran, others = len(blocks(text, "console")), len(blocks(text, "sh"))
    marks = () if page in SHORT else pytest.mark.long
    return pytest.param(page, marks=marks, id=f"{page}: {ran} blocks run, {others} not")


@pytest.mark.parametrize("page", [runs(page) for page in PAGES])
def test_the_commands_of_a_page_print_what_it_shows(page: str, user_home: Path) -> None:
    for command, outcome in run_all((ROOT / page).read_text(), user_home):
        everything = "\n".join(outcome.printed)
        assert outcome.code not in (126, 127), f"{command.text} could not be run: {everything}"
        assert "Traceback" not in everything
        assert command.shown or outcome.code == 0, f"{command.text} ended with {outcome.code}: {everything}"
        missing = first_missing(command, outcome)
        assert missing is None, f"{page} shows\n{missing}\nbut {command.text} printed\n{everything}"


@pytest.mark.parametrize("page", PAGES)
def test_only_blocks_of_the_marked_kind_hold_prompts(page: str) -> None:
    text = (ROOT / page).read_text()
    for block in blocks(text, "console"):
        assert block.startswith("$ ")
    for kind in ("", "sh", "toml"):
        assert not any(line.startswith("$ ") for block in blocks(text, kind) for line in block.splitlines())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_which_of_its_blocks_are_run(page: str) -> None:
    if page != "README.md":
        assert "lines with `$` are commands" in " ".join((ROOT / page).read_text().split()).lower()


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    kept = string.ascii_lowercase + string.digits + " -_"
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M
    )
    return {"".join(char for char in one.lower() if char in kept).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", WRITTEN)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            linked = (file.parent / path).resolve() if path else file
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", WRITTEN)
def test_no_page_installs_a_package_that_is_not_on_pypi(page: str) -> None:
    for block in blocks((ROOT / page).read_text(), "sh"):
        assert not re.search(r"pip install [\"']?pneumoscreen", block)


def test_a_line_that_is_not_printed_is_found_whatever_digests_and_times_are() -> None:
    command = Command("x", ("trial-7  15  done", "...", "audit head: 0123456789ab", "at 2026-05-01 10:00:00"))
    printed = ("trial-7 15 done", "more", "audit head: ffff456789ab", "at 2027-01-02 03:04:05")
    assert first_missing(command, Outcome("x", printed, 0)) is None
    assert first_missing(command, Outcome("x", ("trial-7 14 done", *printed[1:]), 0)) == "trial-7  15  done"
    assert first_missing(command, Outcome("x", printed[::-1], 0)) is not None


def test_a_page_is_written_again_with_what_its_commands_print() -> None:
    page = "# A page\n\n```console\n$ one\nold\n$ two\n...\nlast\n```\n\n```sh\nnot run\n```\n"
    outcomes = iter([Outcome("one", ("new",), 0), Outcome("two", ("first", "last"), 0)])
    assert rewritten(page, outcomes) == page.replace("old", "new")


def test_the_readme_names_the_limits_before_anything_is_screened() -> None:
    before = " ".join((ROOT / "README.md").read_text().partition("make demo")[0].split())
    for limit in ("never a diagnosis", "pneumonia", "frontal", "children of 1 to 5 years from one hospital"):
        assert limit in before


@pytest.mark.parametrize("page", ["security.md", "reliability.md", "operate.md", "it.md", "data-manager.md"])
def test_no_cell_of_a_table_is_a_paragraph(page: str) -> None:
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if line.startswith("| "):
            assert max(len(cell) for cell in line.split(" | ")) <= 150, line


@pytest.mark.parametrize("page", ["security.md", "reliability.md"])
def test_the_names_of_tests_are_in_an_appendix(page: str) -> None:
    for_people, heading, appendix = (ROOT / "docs" / page).read_text().partition("\n## Appendix")
    assert heading
    assert "`test_" not in for_people
    assert appendix.count("`test_") > 50


def test_the_version_of_torch_on_the_page_for_it_is_the_pinned_one() -> None:
    (pinned,) = re.findall(r'"(torch==[\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert set(re.findall(r"torch==[\d.]+", (ROOT / "docs" / "it.md").read_text())) == {pinned}
