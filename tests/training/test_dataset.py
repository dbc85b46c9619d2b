"""Labelled folders, patients and splits."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from training.data.dataset import (
    Group,
    LabelledFolderMissing,
    LabelledFolderUnreadable,
    LabelledImage,
    ToldBy,
    TooFewLabelled,
    as_classes,
    contradictions,
    find_labelled,
    fingerprint,
    grouped_split,
    patient_group,
    patients,
    random_split,
)


def labelled(count: int) -> list[LabelledImage]:
    """Make three images of each pneumonia patient, bacterial and viral, and one of each normal one."""
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


def tree(tmp_path: Path, *names: str) -> dict[str, Group]:
    """Make empty files and return their groups by path."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return {str(image.path.relative_to(tmp_path)): image.group for image in find_labelled(tmp_path)}


def test_a_patient_is_told_by_the_name_else_by_the_folder_else_each_file_is_one(tmp_path: Path) -> None:
    groups = tree(
        tmp_path,
        "NORMAL/p1/1.png", "NORMAL/p1/2.png", "NORMAL/p1/study/3.png", "NORMAL/p2/1.png", "NORMAL/1.png",
        "PNEUMONIA/p1/9.png", "PNEUMONIA/1.png", "PNEUMONIA/2.png", "PNEUMONIA/p2/person7_virus_1.png",
        "PNEUMONIA/person7_bacteria_2.png",
    )  # fmt: skip
    one = [groups[f"NORMAL/p1/{name}"] for name in ("1.png", "2.png", "study/3.png")]
    assert set(one) == {groups["PNEUMONIA/p1/9.png"]}
    assert one[0].told_by == "folder"
    assert groups["PNEUMONIA/p2/person7_virus_1.png"] == groups["PNEUMONIA/person7_bacteria_2.png"]
    assert groups["PNEUMONIA/person7_bacteria_2.png"].told_by == "name"
    alone = [groups[name] for name in ("NORMAL/1.png", "PNEUMONIA/1.png", "PNEUMONIA/2.png")]
    assert {group.told_by for group in alone} == {"nothing"}
    assert len({*alone, one[0], groups["NORMAL/p2/1.png"], groups["PNEUMONIA/person7_bacteria_2.png"]}) == 6


@pytest.mark.shared
def test_the_thesis_images_group_by_the_names_of_their_files(shared: Path) -> None:
    images = find_labelled(shared / "chest_xray_224")
    groups, names = defaultdict(set), defaultdict(set)
    for image in images:
        person = re.match(r"person(\d+)_", image.path.name)
        groups[image.group.key].add(image.path)
        names[person[0] if person else image.path.stem].add(image.path)
    assert len(images) == 5232
    assert {frozenset(paths) for paths in groups.values()} == {frozenset(paths) for paths in names.values()}


def test_a_type_that_would_have_to_be_guessed_is_left_out() -> None:
    names = ("NORMAL", "BACTERIAL", "VIRAL")
    images = [
        LabelledImage(Path(str(n)), label, Group(str(n), ToldBy.NOTHING))
        for n, label in enumerate((*names, "PNEUMONIA"))
    ]
    assert [image.label for image in as_classes(images, names)] == list(names)


def test_the_same_bytes_under_two_classes_are_found() -> None:
    labels = ["NORMAL", "PNEUMONIA", "BACTERIAL", "PNEUMONIA", "VIRAL", "BACTERIAL", "NORMAL"]
    images = [
        LabelledImage(Path(str(n)), label, Group(str(n), ToldBy.NOTHING)) for n, label in enumerate(labels)
    ]
    assert contradictions(images, ["a", "a", "b", "b", "c", "c", "d"]) == [0, 1, 4, 5]
    readings = {"d": {"VIRAL"}, "b": {"PNEUMONIA"}, "c": {"NORMAL"}}
    assert contradictions(images, ["x", "x2", "b", "b", "y", "y2", "d"], readings) == [6]


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "NORMAL" / "a.jpeg").touch()
    with pytest.raises(LabelledFolderMissing, match="PNEUMONIA"):
        as_classes(find_labelled(tmp_path), ("NORMAL", "PNEUMONIA"))


def split(images: list[LabelledImage], digests: list[str], seed: int = 42) -> tuple[list[int], list[int]]:
    labels = [image.label for image in images]
    valid = grouped_split(labels, patients(images, digests, [(1, 70)]), seed=seed).tolist()
    return [index for index in range(len(images)) if index not in valid], valid


def test_no_patient_and_no_duplicate_is_on_both_sides() -> None:
    images = labelled(40)
    digests = [str(index) for index in range(len(images))]
    digests[0] = digests[60]  # two patients share the bytes of an image, and so a side
    for seed in range(5):
        train, valid = split(images, digests, seed)
        assert sorted([*train, *valid]) == list(range(len(images)))
        assert {images[i].group for i in train}.isdisjoint({images[i].group for i in valid})
        assert {digests[i] for i in train}.isdisjoint({digests[i] for i in valid})
        assert (1 in valid) == (70 in valid)  # they look the same
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
    with pytest.raises(TooFewLabelled):
        grouped_split([image.label for image in images], patients(images, [str(n) for n in range(12)]))


def test_the_random_split_is_the_thesis() -> None:
    from fastai.data.transforms import RandomSplitter

    labels = ["NORMAL", "PNEUMONIA"] * 50
    assert random_split(labels).tolist() == list(RandomSplitter(0.2, seed=42)(labels)[1])


def test_the_fingerprint_is_of_the_data_and_not_of_its_order() -> None:
    assert fingerprint(["a", "b"], ["N", "P"]) == fingerprint(["b", "a"], ["P", "N"])
    assert fingerprint(["a", "b"], ["N", "P"]) != fingerprint(["a", "b"], ["P", "N"])
