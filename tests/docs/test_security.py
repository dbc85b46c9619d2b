"""The pages on security and reliability: their promises name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize("page", ["security", "reliability"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / f"{page}.md").read_text()))
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 25
    assert named - written == set()


def test_every_item_of_the_security_page_names_a_test() -> None:
    cannots = re.findall(r"^- Can't .*?(?=^- |^$)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(cannots) > 15
    for one in cannots:
        assert "`test_" in one, one
