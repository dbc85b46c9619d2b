"""The facts of a DICOM header that a worker keeps."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from worker.imaging.elements import age_in_years


def header(**elements: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("stated", "years"), [("004Y", "4.0"), ("018M", "1.5"), ("026W", "0.5"), ("010D", "0.0"), ("old", "")]
)
def test_an_age_string_gives_years(stated: str, years: str) -> None:
    assert age_in_years(header(PatientAge=stated)) == years


def test_without_an_age_the_dates_tell_it() -> None:
    assert age_in_years(header(PatientBirthDate="20160301", StudyDate="20200901")) == "4.5"


@pytest.mark.parametrize(
    ("born", "seen"), [("20160301", ""), ("", "20200901"), ("20210101", "20200901"), ("18000101", "20200901")]
)
def test_dates_that_say_nothing_give_no_age(born: str, seen: str) -> None:
    assert age_in_years(header(PatientBirthDate=born, StudyDate=seen)) == ""
