"""The state that Flower reads at its start, and what it shows of a task."""

from __future__ import annotations

import os
import shelve
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.flower.restrictions import redact
from deploy.flower.state import is_ours_alone


@pytest.fixture
def folder(home: Path) -> Path:
    """Write a state as Flower does."""
    assert is_ours_alone(home / "flower")
    with shelve.open(str(home / "flower" / "state")) as state:  # noqa: S301  (our own)
        state["events"] = 1
    for file in (home / "flower").iterdir():
        file.chmod(0o600)
    assert (home / "flower").stat().st_mode & 0o777 == 0o700
    return home / "flower"


def test_a_state_of_our_own_is_read(folder: Path) -> None:
    assert is_ours_alone(folder)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_state_that_others_can_write_is_not_read(folder: Path, mode: int) -> None:
    next(folder.iterdir()).chmod(mode)
    assert not is_ours_alone(folder)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_state_in_a_folder_that_others_can_write_is_not_read(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    assert not is_ours_alone(folder)


def test_a_state_behind_a_link_is_not_read(folder: Path) -> None:
    file = next(folder.iterdir())
    file.rename(folder.parent / "planted")
    file.symlink_to(folder.parent / "planted")
    assert not is_ours_alone(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_state_of_somebody_else_is_not_read(folder: Path) -> None:
    os.chown(next(folder.iterdir()), 12345, 12345)
    assert not is_ours_alone(folder)


def test_flower_starts_without_a_state_that_is_not_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runpy

    from deploy import programs

    monkeypatch.setenv("PNEUMOSCREEN_FLOWER_PASSWORD", "for-tests")
    config = str(Path(programs.__file__).parent / "flower" / "flowerconfig.py")
    assert runpy.run_path(config)["persistent"] is True
    folder.chmod(0o777)
    assert runpy.run_path(config)["persistent"] is False


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("{'batch': 23, 'cohort': 4}", "batch 23 of cohort 4"),
        ("None", ""),
        (None, ""),
        ("{'batch': 23, 'cohort': 4} Doe^Jane", ""),
        ("{'batch': 'Doe^Jane', 'cohort': 4}", ""),
        ("'/data/doe-jane/1.dcm'", ""),
    ],
)
def test_flower_shows_the_screened_batch_and_its_cohort_by_row_id_and_nothing_else(
    result: str | None, shown: str
) -> None:
    task = redact(
        SimpleNamespace(args="(17,)", result=result, kwargs="{'a': 1}", traceback="x", exception=None)
    )
    assert (task.args, task.result, task.kwargs, task.traceback) == ("(17,)", shown, "", "")
