"""Labelled images and the folders that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.labelled import (
    LabelledFolderMissing,
    LabelledFolderUnreadable,
    LabelledImage,
    as_classes,
    contradictions,
    find_labelled,
)
from training.data.patients import Group, ToldBy


def test_a_class_that_cannot_be_listed_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "NORMAL").touch()
    with pytest.raises(LabelledFolderUnreadable, match="Not a directory"):
        find_labelled(tmp_path)


def test_images_are_labelled_by_their_folder(tmp_path: Path) -> None:
    for name in ("NORMAL/a.jpeg", "PNEUMONIA/deep/person7_virus_1.jpeg", "NORMAL/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [(image.path.name, image.label, image.group.told_by) for image in find_labelled(tmp_path)] == [
        ("a.jpeg", "NORMAL", "nothing"),
        ("person7_virus_1.jpeg", "VIRAL", "name"),
    ]
    assert [image.label for image in as_classes(find_labelled(tmp_path), ("NORMAL", "PNEUMONIA"))] == [
        "NORMAL",
        "PNEUMONIA",
    ]


def test_a_type_that_would_have_to_be_guessed_is_left_out() -> None:
    names = ("NORMAL", "BACTERIAL", "VIRAL")
    images = [
        LabelledImage(Path(str(n)), label, Group(str(n), ToldBy.NOTHING))
        for n, label in enumerate((*names, "PNEUMONIA"))
    ]
    assert [image.label for image in as_classes(images, names)] == list(names)


def test_the_same_bytes_under_two_classes_are_found() -> None:
    labels = ["NORMAL", "PNEUMONIA", "BACTERIAL", "PNEUMONIA", "VIRAL", "BACTERIAL", "NORMAL"]
    assert contradictions(labels, ["a", "a", "b", "b", "c", "c", "d"]) == [0, 1, 4, 5]
    readings = {"d": {"VIRAL"}, "b": {"PNEUMONIA"}, "c": {"NORMAL"}}
    assert contradictions(labels, ["x", "x2", "b", "b", "y", "y2", "d"], readings) == [6]


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "NORMAL" / "a.jpeg").touch()
    with pytest.raises(LabelledFolderMissing, match="PNEUMONIA"):
        as_classes(find_labelled(tmp_path), ("NORMAL", "PNEUMONIA"))
