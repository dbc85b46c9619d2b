"""Splits into a training side and a held-out side."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.labelled import LabelledImage
from training.data.patients import number_patients, patient_group
from training.data.splits import TooFewLabelled, grouped_split, random_split


def labelled(count: int) -> list[LabelledImage]:
    """Make three images of each pneumonia patient, bacterial and viral, and one of each normal patient."""
    sick = [
        LabelledImage(Path(name), "PNEUMONIA", patient_group(Path(name), "PNEUMONIA"))
        for number in range(count)
        for name in (
            f"person{number}_bacteria_1.jpeg",
            f"person{number}_bacteria_2.jpeg",
            f"person{number}_virus_3.jpeg",
        )
    ]
    normal = [
        LabelledImage(Path(f"IM-{n}.jpeg"), "NORMAL", patient_group(Path(f"IM-{n}.jpeg"), "NORMAL"))
        for n in range(count)
    ]
    return sick + normal


def split(images: list[LabelledImage], digests: list[str], seed: int = 42) -> tuple[list[int], list[int]]:
    labels = [image.label for image in images]
    valid = grouped_split(
        labels, number_patients([image.group for image in images], digests, [(1, 70)]), seed=seed
    ).tolist()
    return [index for index in range(len(images)) if index not in valid], valid


def test_no_patient_and_no_duplicate_is_on_both_sides() -> None:
    images = labelled(40)
    digests = [str(index) for index in range(len(images))]
    digests[0] = digests[60]  # two patients share the bytes of an image, so they are on one side
    for seed in range(5):
        train, valid = split(images, digests, seed)
        assert sorted([*train, *valid]) == list(range(len(images)))
        assert {images[i].group for i in train}.isdisjoint({images[i].group for i in valid})
        assert {digests[i] for i in train}.isdisjoint({digests[i] for i in valid})
        assert (1 in valid) == (70 in valid)  # the two images look the same
        assert {images[i].label for i in valid} == {"NORMAL", "PNEUMONIA"}
        assert len(valid) == pytest.approx(len(images) / 5, rel=0.2)


def test_a_split_is_the_same_for_the_same_seed_alone() -> None:
    images = labelled(40)
    digests = [str(index) for index in range(len(images))]
    first, same, other = (split(images, digests, seed)[1] for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_a_class_with_too_few_patients_is_refused() -> None:
    images = labelled(3)
    groups = number_patients([image.group for image in images], [str(n) for n in range(12)])
    with pytest.raises(TooFewLabelled):
        grouped_split([image.label for image in images], groups)


def test_the_random_split_is_that_of_the_thesis() -> None:
    from fastai.data.transforms import RandomSplitter

    labels = ["NORMAL", "PNEUMONIA"] * 50
    assert random_split(labels).tolist() == list(RandomSplitter(0.2, seed=42)(labels)[1])
