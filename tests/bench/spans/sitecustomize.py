"""Notes when functions of the product begin and end, in every Python that a bench starts.

Python imports this module by its name when it starts, from the folder that `PYTHONPATH` names. It does
nothing without `BENCH_SPANS`, the file that a line is added to for each call: process, function, begin and
end by `time.time`. So the product itself holds nothing for benches.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: The functions to watch, by module.
WATCHED = {
    "scheduler.cli": ("main",),
    "db.upkeep.migrate": ("upgrade",),
    "db.models.registry": ("ensure_champion",),
    "scheduler.submit": ("submit",),
    "scheduler.cli.watch": ("watch",),
    "scheduler.cli.study.results": ("show_results", "write_file"),
    "scheduler.dispatch": ("dispatch",),
    "deploy.stack": ("Stack._bring_up", "Stack._stop"),
    "worker.runtime.loading": ("load_model",),
    "worker.decoding.pool": ("_Decoder.__init__",),
    "worker.screening.batch": ("Screener.screen",),
    "worker.runtime.openvino.runtime": ("OpenVinoRuntime.probabilities",),
    "worker.runtime.torch.runtime": ("TorchRuntime.probabilities",),
}


def note(what: str, begin: float, end: float) -> None:
    """Add a line. One write of few bytes to a file that is open for appending is not torn."""
    line = json.dumps([PROCESS, what, begin, end]) + "\n"
    file = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function that does the same, and notes each call."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        begin = time.time()
        if name == "main":  # it ends the process
            note("imports", STARTED, begin)
        try:
            return function(*arguments, **named)
        finally:
            note(name, begin, time.time())

    return call


def watch_functions(module: ModuleType, names: Sequence[str]) -> None:
    """Replace functions of a module, or methods of its classes, by those that are noted."""
    for path in names:
        owner: Any = module
        *classes, name = path.split(".")
        for one in classes:
            owner = getattr(owner, one)
        setattr(owner, name, watched(getattr(owner, name), path))


class Finder(MetaPathFinder):
    """Finds the modules that are watched, as the other finders do, and watches their functions."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec, whose loader watches the functions once the module is loaded."""
        if self._asking or fullname not in WATCHED:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            watch_functions(module, WATCHED[fullname])

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def process_name() -> str:
    """Return what the process is: the Celery application and command, or the command line's command."""
    words = sys.orig_argv
    if "-A" in words:
        at = words.index("-A")
        return " ".join(
            [*words[at + 1 : at + 3], *(words[words.index("-n") + 1 :][:1] if "-n" in words else ())]
        )
    return " ".join(words[1:3])


FILE = os.environ.get("BENCH_SPANS", "")
if FILE:
    STARTED, PROCESS = time.time(), process_name()
    note("start", STARTED, STARTED)
    sys.meta_path.insert(0, Finder())
