"""Headers of chest films: `header` makes one, `refused` names the problem of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom import Dataset, Sequence
from pydicom.uid import ComputedRadiographyImageStorage

from worker.gate.header import judge_header
from worker.gate.modality import Sources

Header = Callable[..., Dataset]
Refused = Callable[..., str | None]


def make_header(**elements: Any) -> Dataset:
    """Make the header of a radiograph that names neither part nor view; None removes an element."""
    header = Dataset()
    header.SOPClassUID = ComputedRadiographyImageStorage
    header.Modality = "CR"
    header.Rows = header.Columns = 100
    header.BitsAllocated = 16
    header.PixelData = b"\0\0"
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    return header


def make_code(value: str, meaning: str, scheme: str = "SCT") -> Sequence:
    """Make a sequence of one coded item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


@pytest.fixture(scope="session")
def header() -> Header:
    return make_header


@pytest.fixture(scope="session")
def code() -> Callable[..., Sequence]:
    return make_code


@pytest.fixture(scope="session")
def refused() -> Refused:
    """Return the code of the problem of a radiograph with these elements, None if it passes."""

    def refuse(*, chest_only: bool = False, **elements: Any) -> str | None:
        problem = judge_header(make_header(**elements), Sources(chest_only=chest_only)).problem
        return None if problem is None else problem.code

    return refuse
