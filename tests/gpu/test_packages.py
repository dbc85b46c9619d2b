"""The packages that a run on a GPU machine brings along are complete, and their lock's entries are found."""

from __future__ import annotations

import re
import tarfile
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.gpu.packages import LEFT_OUT, NEEDED, THERE, requirements, unpack

ROOT = Path(__file__).parent.parent.parent


def asked_for(lines: list[str]) -> set[str]:
    """Return the names of what requirements ask for on the machine."""
    environment = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}
    found = [Requirement(line) for line in lines]
    return {
        re.sub("[-_.]+", "-", one.name).lower()
        for one in found
        if one.marker is None or one.marker.evaluate(environment)
    }


@pytest.mark.parametrize("package", NEEDED)
def test_what_a_packed_package_needs_is_packed_or_there(package: str) -> None:
    assert asked_for(requires(package) or []) <= {*NEEDED, *THERE, *LEFT_OUT}


def test_what_we_need_is_packed_or_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours = project["dependencies"] + extras["worker"] + extras["local"][1:]
    assert asked_for(ours) <= {*NEEDED, *THERE, *LEFT_OUT}


def test_each_package_has_one_entry_of_the_lock_with_hashes() -> None:
    lock = (ROOT / "deploy" / "locks" / "local.txt").read_text()
    entries = requirements(lock)
    assert [entry.partition("==")[0] for entry in entries] == [*NEEDED]
    assert all("--hash=sha256:" in entry and ";" not in entry for entry in entries)


def test_the_newest_of_several_entries_is_taken_and_its_marker_left_out() -> None:
    packages = "\n".join(f"{name}==1.0 \\\n    --hash=sha256:0" for name in NEEDED if name != "click")
    click = "click==2.0 ; python_full_version < '3.12' \\\n    --hash=sha256:1\n"
    newer = "click==3.0 ; python_full_version >= '3.12' \\\n    --hash=sha256:2\n"
    found = requirements(f"# by uv\n{click}{newer}{packages}")
    assert [entry for entry in found if entry.startswith("click==")] == ["click==3.0\\\n    --hash=sha256:2"]


def test_an_archive_replaces_the_folder(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")
    with tarfile.open(tmp_path / "archive.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "module.py", "package/module.py")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "old.py").write_text("")
    unpack(tmp_path / "archive.tar.xz", tmp_path / "site")
    assert [file.name for file in (tmp_path / "site").rglob("*.py")] == ["module.py"]
