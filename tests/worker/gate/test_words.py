"""The words in the texts of a header."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pydicom import Dataset

from worker.gate.words import Vocabulary, plain, texts_of

Header = Callable[..., Dataset]


def test_a_word_matches_as_a_whole_without_accents_and_in_any_case() -> None:
    words = Vocabulary("hand, *bone, lumb*, upper arm, Kräuter")
    for text in ("Hand", "LEFT HAND", "hand_left", "HAND2", "jawbone", "BONE", "Lumbar", "lumb", "UPPER ARM",
                 "upper-arm", "UPPERARM", "kräuter", "KRAUTER"):  # fmt: skip
        assert words.names(plain(text)), text
    for text in ("handled", "BONES", "PLUMBUM", "UPPER LARM", "ARM", "", "   "):
        assert not words.names(plain(text)), text


def test_words_without_spaces_match_anywhere_and_single_characters_alone() -> None:
    words = Vocabulary("胸部, 手, *膝*")
    for text in ("右胸部正位", "手", "手 AP", "右膝"):
        assert words.names(plain(text)), text
    for text in ("胸", "手术"):
        assert not words.names(plain(text)), text


def test_letters_that_were_lost_are_found_again() -> None:
    words = Vocabulary("Tórax, Göğüs, Kopf")
    for text in ("T?RAX", "T\ufffdRAX", "G?G?S"):
        assert words.names(plain(text)), text
    for text in ("T??RAX", "?", "KOX?F", "?ORAX", "T?X"):
        assert not words.names(plain(text)), text


def test_an_element_that_is_missing_or_cannot_be_read_says_nothing(header: Header) -> None:
    unreadable = header(SeriesDescription="Chest")
    unreadable.__class__ = type("Unreadable", (Dataset,), {"get": _fail})
    assert texts_of(unreadable, "SeriesDescription") == []
    assert texts_of(header(), "SeriesDescription") == []
    assert texts_of(header(SeriesDescription=""), "SeriesDescription") == []


def _fail(*_: Any) -> None:
    raise ValueError("the bytes of the value")


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_hostile_text_costs_no_time(header: Header) -> None:
    words = Vocabulary("hand, p a, lumb*")
    for text in ("A" * 10**6, "A?" * 10**5, "P " * 10**5, ["LUMB"] * 10**4):
        hostile = header(SeriesDescription=text)
        start = time.perf_counter()
        for one in texts_of(hostile, "SeriesDescription"):
            words.names(one)
        assert time.perf_counter() - start < 1
