"""Files that are written completely or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from db.atomic import write_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give an empty folder."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_a_file_appears_when_it_is_complete_and_only_its_owner_can_read_it(folder: Path) -> None:
    with write_whole(folder / "a") as file:
        file.write(b"whole")
        assert not (folder / "a").exists()
    assert (folder / "a").read_bytes() == b"whole"
    assert (folder / "a").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("replace", [True, False])
def test_an_interrupted_write_leaves_the_earlier_file_and_nothing_else(folder: Path, replace: bool) -> None:
    (folder / "a").write_bytes(b"earlier")
    with pytest.raises(KeyError), write_whole(folder / "a", replace=replace) as file:
        file.write(b"part")
        raise KeyError
    assert (folder / "a").read_bytes() == b"earlier"
    assert [one.name for one in folder.iterdir()] == ["a"]


def test_of_two_concurrent_writes_of_one_file_the_last_one_stays(
    folder: Path,
) -> None:
    with write_whole(folder / "a") as last:
        last.write(b"la")
        with write_whole(folder / "a") as first:
            first.write(b"first")
        assert (folder / "a").read_bytes() == b"first"
        last.write(b"st")
    assert (folder / "a").read_bytes() == b"last"
    assert [one.name for one in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("has_links", [True, False])
def test_without_replace_the_second_of_two_concurrent_writes_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "a file system without hard links")

    if not has_links:
        monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileExistsError), write_whole(folder / "a", replace=False) as second:
        with write_whole(folder / "a", replace=False) as first:
            first.write(b"first")
        second.write(b"second")
    assert (folder / "a").read_bytes() == b"first"
    assert [one.name for one in folder.iterdir()] == ["a"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(b"untouched")
    (folder / "a").symlink_to(folder / "elsewhere")
    with write_whole(folder / "a") as file:
        file.write(b"own")
    assert (folder / "elsewhere").read_bytes() == b"untouched"
    assert (folder / "a").read_bytes() == b"own"
    assert not (folder / "a").is_symlink()
