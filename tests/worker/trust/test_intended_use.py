"""The intended use of a model: what a header says is compared with it."""

from __future__ import annotations

import pytest

from db.models.card import IntendedUse
from worker.imaging.picture import HeaderFacts
from worker.trust.intended_use import is_outside

USE = IntendedUse(age_years=(1, 5), views=("AP", "PA"), modalities=("CR", "DX", "DR"))

NOTHING = {"instance_uid": None, "body_part": "", "view_position": "", "modality": ""}
FACTS = {**NOTHING, "manufacturer": "", "age": "", "size": "10x10"}


def outside(use: IntendedUse | None = USE, **said: str) -> bool:
    return is_outside(use, HeaderFacts(**(FACTS | said)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("age", "expected"),
    [("", False), ("0.9", True), ("1.0", False), ("5.9", False), ("6.0", True), ("71.0", True), ("x", False)],
)
def test_an_age_outside_of_it_is_told(age: str, expected: bool) -> None:
    assert outside(age=age) == expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [("", False), ("PA", False), ("AP", False), ("LLD", True), ("RL", True), ("FRONTAL", False)],
)
def test_a_view_outside_of_it_is_told_if_the_word_is_known(view: str, expected: bool) -> None:
    assert outside(view_position=view) == expected


@pytest.mark.parametrize(
    ("modality", "expected"), [("", False), ("CR", False), ("CR/DX", False), ("OT", True), ("RG", True)]
)
def test_a_modality_outside_of_it_is_told(modality: str, expected: bool) -> None:
    assert outside(modality=modality) == expected


def test_a_card_that_says_nothing_has_nothing_outside_of_it() -> None:
    said = {"age": "80.0", "view_position": "LLD", "modality": "OT"}
    assert not outside(None, **said)
    assert not outside(IntendedUse(), **said)
