"""Steps of a run: each in a process of its own, with a limit of its time.

An error of a GPU costs a process the GPU for good, and a call of its driver may hang. So a step that fails or
hangs is ended, and costs the other steps nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.bench import Bench

#: Seconds that the embedded stack may take to stop.
_STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a run."""

    name: str
    run: Callable[[Bench], None]
    #: The longest time that it may take.
    seconds: float
    #: Whether it starts the embedded stack, which outlives its process.
    starts_stack: bool = False


def run_step(step: Step, bench: Bench, log: Path, seconds: float) -> None:
    """Run a step to its end, `seconds` at most. Its outcome is in the findings, its output in the log."""
    context = multiprocessing.get_context("forkserver")
    # The imports, which take seconds, are made once. They do not touch the GPU: no fork survives that.
    context.set_forkserver_preload(["tests.gpu.imported"])
    start = time.monotonic()
    process = context.Process(target=_in_process, args=(step, bench, log))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        bench.findings.fail(f"it was ended after {seconds:.0f} s")
    elif process.exitcode < 0:
        bench.findings.fail(f"it was killed by signal {-process.exitcode}")
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    if step.starts_stack:
        stopping = context.Process(target=_stop_stack, args=(bench, log))
        stopping.start()
        stopping.join(_STOP_SECONDS)
        stopping.kill()
    bench.findings.measure("seconds", time.monotonic() - start, "s")


def _in_process(step: Step, bench: Bench, log: Path) -> None:
    os.setsid()
    _write_to(log)
    print(f"--- {step.name}", flush=True)
    try:
        step.run(bench)
    except BaseException as error:
        traceback.print_exc()
        bench.findings.fail(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
        _show_logs(bench)
        os._exit(1)
    sys.stdout.flush()
    # Not through the exit handlers: after an error of a GPU they hang.
    os._exit(0)


def _stop_stack(bench: Bench, log: Path) -> None:
    from deploy.stack import Stack

    _write_to(log)
    for home in bench.scratch.glob("home-*"):
        os.environ["PNEUMOSCREEN_HOME"] = str(home)
        Stack().stop()


def _write_to(log: Path) -> None:
    """Write everything that this process and its children print to the log."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)


def _show_logs(bench: Bench) -> None:
    """Print the ends of the logs of the stack's processes."""
    for file in sorted(bench.scratch.glob("home-*/logs/*.log")):
        print(f"--- end of {file.name}\n{file.read_text(errors='replace')[-3000:]}", flush=True)
