"""The lock files: every package with its version, its hashes and its licence."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted(file.stem for file in (ROOT / "deploy" / "locks").glob("*.txt"))

#: The extras of each kind of machine.
MACHINES = {
    "scheduler": ("remote",),
    "worker": ("worker", "cpu", "remote"),
    "local": ("local",),
    "dev": ("dev",),
}

#: Licences of packages that users install; none of them puts the whole work under copyleft.
LICENCES = {
    "0BSD", "2-clause BSD", "Apache", "Apache 2.0", "Apache License 2.0", "Apache Software License",
    "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD 3-Clause License", "BSD License",
    "BSD-2-Clause", "BSD-3-Clause", "BSD-derived (http://www.repoze.org/LICENSE.txt)", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU", "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Python Software Foundation License", "Zlib",
}  # fmt: skip

#: Packages with other licences, each with the reason why it is permitted.
EXCEPTIONS = {
    "psycopg": "LGPL: a library of its own, which we import and do not change",
    "psycopg-binary": "the same, with libpq (PostgreSQL's licence) and OpenSSL (Apache) inside",
    "paramiko": "LGPL: only for the tests; users of sftp:// install it themselves",
}
FOR_TESTS_ALONE = {"paramiko"}

#: Packages that others name and that nobody installs from a lock, each with the reason.
LEFT_OUT = {"openvino-telemetry": "tells OpenVINO's makers over the network that it was imported"}


@cache
def pins(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Return a lock's pins with their hashes; one package has several if Pythons or systems differ."""
    text = (ROOT / "deploy" / "locks" / f"{lock}.txt").read_text().replace("\\\n", " ")
    lines = [line.split("--hash=") for line in text.splitlines() if not line.startswith("#")]
    return [(Requirement(pin.strip()), [one.strip() for one in hashes]) for pin, *hashes in lines]


def pinned(lock: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for pin, _ in pins(lock):
        found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def version(pin: Requirement) -> Version:
    (only,) = pin.specifier
    assert only.operator == "=="
    return Version(only.version)


def of(requirement: Requirement) -> Iterator[Requirement]:
    """Yield the requirements of a package on this machine, with the extras that are asked for."""
    if requirement.name == "pneumoscreen":
        project = PYPROJECT["project"]
        texts = list(project["dependencies"]) + PYPROJECT["build-system"]["requires"]
        texts += [text for extra in requirement.extras for text in project["optional-dependencies"][extra]]
    else:
        texts = distribution(requirement.name).requires or []
    for one in map(Requirement, texts):
        if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in {"", *requirement.extras}):
            yield one


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_one_version_and_has_hashes(lock: str) -> None:
    assert pins(lock)
    for pin, hashes in pins(lock):
        assert pin.url is None
        version(pin)
        assert hashes, f"{pin.name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_lock_has_every_package_that_its_machine_needs(machine: str) -> None:
    have = pinned("torch") | pinned(machine)
    to_do = [Requirement(f"pneumoscreen[{','.join(MACHINES[machine])}]")]
    done = set()
    while to_do:
        requirement = to_do.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT:
            assert name not in have, LEFT_OUT[name]
            continue
        if name != "pneumoscreen":
            assert name in have, f"run `make lock`: {requirement} is not in {machine}.txt"
            for pin in have[name]:
                assert requirement.specifier.contains(version(pin)), f"run `make lock`: {pin}, {requirement}"
        if (name, *sorted(requirement.extras)) not in done:
            done.add((name, *sorted(requirement.extras)))
            to_do += of(requirement)


@pytest.mark.parametrize("machine", [*MACHINES, "torch"])
def test_the_locks_pin_the_same_versions(machine: str) -> None:
    everything = pinned("torch") | pinned("dev")
    for name, here in pinned(machine).items():
        assert {version(pin) for pin in here} == {version(pin) for pin in everything[name]}, name


def test_the_build_of_torch_is_only_in_its_own_lock() -> None:
    cuda = {name for name in pinned("torch") if name.startswith(("torch", "triton", "nvidia", "cuda"))}
    assert len(cuda) > 10
    for machine in MACHINES:
        assert cuda.isdisjoint(pinned(machine)), machine
    assert pinned("torch").keys() - cuda <= pinned("worker").keys()


def licences(name: str) -> set[str]:
    """Return the licences that a package declares: as an expression, as classifiers or as a line of text."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return set(re.split(r" (?:AND|OR) |[()]", expression)) - {""}
    classifiers = metadata.get_all("Classifier") or []
    declared = {one.rsplit(" :: ", 1)[1] for one in classifiers if one.startswith("License :: ")}
    line = (metadata.get("License") or "").strip().split("\n")[0]
    return declared or set(re.split(r" AND ", line))


@pytest.mark.parametrize("machine", MACHINES)
def test_every_licence_permits_redistribution(machine: str) -> None:
    seen = 0
    for name in pinned(machine):
        try:
            declared = licences(name)
        except PackageNotFoundError:  # for another system or Python
            assert all(pin.marker is not None for pin in pinned(machine)[name]), f"{name} is not installed"
            continue
        seen += 1
        assert name in EXCEPTIONS or declared <= LICENCES, f"{name}: {declared}"
        assert machine == "dev" or name not in FOR_TESTS_ALONE
    assert seen > 50


@pytest.mark.parametrize("role", ["scheduler", "worker", "training"])
def test_container_images_install_only_locked_packages(role: str) -> None:
    text = (ROOT / "deploy" / "docker" / f"{role}.Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install (.*)", text)
    assert len(installs) == 2
    for install in installs:
        assert "--no-deps" in install
        assert "--require-hashes" in install or install.endswith("--no-build-isolation .")
        for lock in re.findall(r"-r (\S+)", install):
            assert f"deploy/locks/{lock}" in text
