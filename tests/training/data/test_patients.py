"""Patients of labelled images."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from training.data.labelled import find_labelled
from training.data.patients import Group


def tree(tmp_path: Path, *names: str) -> dict[str, Group]:
    """Make empty files and return their groups by path."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return {str(image.path.relative_to(tmp_path)): image.group for image in find_labelled(tmp_path)}


def test_a_patient_is_identified_by_the_file_name_else_by_the_folder_else_each_file_is_a_patient(
    tmp_path: Path,
) -> None:
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
