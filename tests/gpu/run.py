"""The checks and measurements on a GPU: `python -m tests.gpu.run`, which `make gpu` calls.

It needs no network and makes its own pictures. Without a GPU, or with `--rehearse`, it rehearses every step
on the CPU with few pictures. It writes into a folder as it goes: what is done when the time runs out counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.gpu import epochs, exactness, pictures, speed, whole
from tests.gpu.bench import FULL, REHEARSAL, Bench, cores
from tests.gpu.findings import Findings, read_findings, table, value_of
from tests.gpu.occupancy import Occupancy
from tests.gpu.steps import Step, run_step

#: The most valuable ones first. Each limit is about twice what a step should take on an H100.
STEPS = (
    Step("pictures", pictures.make, 60),
    Step("single precision", exactness.single_precision, 60),
    Step("adaptive precision", exactness.adaptive, 45),
    Step("full memory", exactness.memory, 45),
    Step("lost device", exactness.lost, 30),
    Step("screening", whole.screening, 150, starts_stack=True),
    Step("forward passes", speed.forward, 75),
    Step("decoding", speed.decoding, 60),
    Step("deaths", whole.deaths, 100, starts_stack=True),
    Step("training", epochs.retraining, 120),
    Step("plain fastai", epochs.plain_fastai, 45),
)

#: The goal of a screening from end to end, as a share of the smaller of its bounds.
_GOAL = 0.85


def main() -> int:
    """Run the steps; return 0 if every promise is kept."""
    options = _options()
    on_gpu = not options.rehearse and _has_gpu()
    results = Results(options.out)
    deadline = time.monotonic() + options.seconds
    wanted = [step for step in STEPS if not options.only or step.name in options.only]
    with tempfile.TemporaryDirectory(prefix="pneumoscreen-gpu-") as scratch, Occupancy() as occupancy:
        _describe(results.of("machine"), on_gpu=on_gpu)
        for step in wanted:
            findings = results.of(step.name)
            left = deadline - time.monotonic()
            if left < 1:
                findings.fail("no time was left")
                continue
            bench = Bench(findings, FULL if on_gpu else REHEARSAL, "cuda" if on_gpu else "cpu", Path(scratch))
            occupancy.begin(step.name)
            # A machine without a GPU needs longer even for the few pictures of a rehearsal.
            run_step(step, bench, results.log, min(left, step.seconds if on_gpu else 3 * step.seconds))
            for name in ("GPU", "cores"):
                if (share := occupancy.mean(name)) is not None:
                    findings.measure(f"{name} in use", 100 * share, "%", "of the step's time")
            results.write(occupancy)
        _compare(results)
        results.write(occupancy)
    sys.stdout.write(table(results.read()))
    return int(any(one.is_bad for one in results.read()))


class Results:
    """The files that a run writes into its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lines, self.log = folder / "findings.jsonl", folder / "log.txt"
        for file in (self._lines, self.log):
            file.unlink(missing_ok=True)

    def of(self, step: str) -> Findings:
        """Return what a step writes its findings to."""
        return Findings(step, self._lines)

    def read(self) -> list:
        """Return all findings so far."""
        return read_findings(self._lines)

    def write(self, occupancy: Occupancy) -> None:
        """Write the table, the JSON document and the picture again."""
        found = self.read()
        (self._folder / "table.txt").write_text(table(found))
        (self._folder / "results.json").write_text(json.dumps([asdict(one) for one in found], indent=1))
        (self._folder / "occupancy.svg").write_text(occupancy.picture())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("OUT") or "build/gpu/results"
    parser.add_argument("--out", type=Path, default=Path(default), help="folder of the results (%(default)s)")
    parser.add_argument("--seconds", type=float, default=470, help="time of the whole run (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU with few pictures")
    parser.add_argument(
        "--only", action="append", metavar="STEP", choices=[step.name for step in STEPS],
        help="run this step alone; may be given several times, and most steps need `pictures`",
    )  # fmt: skip
    return parser.parse_args()


def _has_gpu() -> bool:
    """Tell whether there is a GPU. torch is not asked: this process starts others that must use it first."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def _describe(findings: Findings, *, on_gpu: bool) -> None:
    from importlib.metadata import version

    for package in ("torch", "torchvision", "fastai", "numpy", "pillow"):
        findings.note(package, version(package))
    findings.note("Python", platform.python_version())
    findings.measure("cores", cores(), "cores")
    if not on_gpu:
        findings.note("GPU", "none: this is a rehearsal, its numbers say nothing")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    findings.note("GPU", done.stdout.strip() or done.stderr.strip()[:100])


def _compare(results: Results) -> None:
    """Compare screening from end to end with the smaller of its bounds, of the same run."""
    found = results.read()
    whole_rate = value_of(found, "screening", "many: first batch to last")
    decoded = value_of(found, "decoding", "jpeg, our decoders")
    computed = [
        float(one.value) for one in found
        if one.step == "forward passes" and one.what.startswith("runtime, bf16") and one.unit
    ]  # fmt: skip
    if whole_rate and decoded and computed:
        bound = min(decoded, max(computed))
        findings = results.of("end to end")
        findings.measure(
            "share of the smaller bound", 100 * whole_rate / bound, "%", f"of {bound:,.0f} images/s"
        )
        findings.note("goal", f"{_GOAL:.0%}")


if __name__ == "__main__":
    sys.exit(main())
