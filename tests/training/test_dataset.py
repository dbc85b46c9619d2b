"""Labelled folders, patients and splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.dataset import (
    LabelledFolderMissing,
    LabelledImage,
    TooFewLabelled,
    find_labelled,
    fingerprint,
    grouped_split,
    patient_group,
)


def labelled(count: int) -> list[LabelledImage]:
    """Make three images of each pneumonia patient, bacterial and viral, and one of each normal one."""
    sick = [
        LabelledImage(Path(name), "PNEUMONIA", patient_group(Path(name)))
        for number in range(count)
        for name in (
            f"person{number}_bacteria_1.jpeg",
            f"person{number}_bacteria_2.jpeg",
            f"person{number}_virus_3.jpeg",
        )
    ]
    normal = [LabelledImage(Path(f"IM-{n}.jpeg"), "NORMAL", f"IM-{n}") for n in range(count)]
    return sick + normal


def test_images_are_labelled_by_their_folder(tmp_path: Path) -> None:
    for name in ("NORMAL/a.jpeg", "PNEUMONIA/deep/person7_virus_1.jpeg", "NORMAL/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [(image.path.name, image.label, image.group) for image in find_labelled(tmp_path)] == [
        ("a.jpeg", "NORMAL", "a"),
        ("person7_virus_1.jpeg", "PNEUMONIA", "person7"),
    ]


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "NORMAL" / "a.jpeg").touch()
    with pytest.raises(LabelledFolderMissing, match="PNEUMONIA"):
        find_labelled(tmp_path)


def test_no_patient_and_no_duplicate_is_on_both_sides() -> None:
    images = labelled(40)
    digests = [str(index) for index in range(len(images))]
    digests[0] = digests[60]  # two patients share the bytes of an image, and so a side
    train, valid = grouped_split(images, digests)
    assert sorted([*train, *valid]) == list(range(len(images)))
    assert {images[i].group for i in train}.isdisjoint({images[i].group for i in valid})
    assert {digests[i] for i in train}.isdisjoint({digests[i] for i in valid})
    assert {images[i].label for i in valid} == {"NORMAL", "PNEUMONIA"}
    assert len(valid) == pytest.approx(len(images) / 5, rel=0.2)


def test_a_split_is_the_same_for_the_same_seed_alone() -> None:
    images = labelled(40)
    digests = [str(index) for index in range(len(images))]
    first, same, other = (grouped_split(images, digests, seed=seed)[1].tolist() for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_a_class_with_too_few_patients_is_refused() -> None:
    images = labelled(3)
    with pytest.raises(TooFewLabelled):
        grouped_split(images, [str(index) for index in range(len(images))])


def test_the_fingerprint_is_of_the_data_and_not_of_its_order() -> None:
    assert fingerprint(["a", "b"], ["N", "P"]) == fingerprint(["b", "a"], ["P", "N"])
    assert fingerprint(["a", "b"], ["N", "P"]) != fingerprint(["a", "b"], ["P", "N"])
