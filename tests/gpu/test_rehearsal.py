"""The run on a GPU, rehearsed on the CPU: its steps work, and what one of them costs the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.gpu.bench import REHEARSAL, Bench
from tests.gpu.findings import Findings, read_findings, table, value_of
from tests.gpu.occupancy import Occupancy, Sample
from tests.gpu.steps import Step, run_step

ROOT = Path(__file__).parent.parent.parent


def rehearse(out: Path, *options: str) -> str:
    """Rehearse; check that every step reaches its end and keeps its promises; return the table."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.run", "--rehearse", "--out", str(out), *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + (out / "log.txt").read_text()
    return done.stdout


def test_steps_that_compare_pictures_are_rehearsed(tmp_path: Path) -> None:
    steps = ("pictures", "single precision", "full memory", "lost device")
    shown = rehearse(tmp_path, *(option for step in steps for option in ("--only", step)))
    assert "broken" not in shown
    found = read_findings(tmp_path / "findings.jsonl")
    assert (value_of(found, "single precision", "largest difference of fp32 from the CPU") or 0) < 1e-4
    assert {file.name for file in tmp_path.iterdir()} == {
        "findings.jsonl", "log.txt", "occupancy.svg", "results.json", "table.txt",
    }  # fmt: skip
    assert (tmp_path / "table.txt").read_text() == shown
    assert json.loads((tmp_path / "results.json").read_text())[0]["step"] == "machine"


@pytest.mark.long
def test_every_step_is_rehearsed(tmp_path: Path) -> None:
    # A busy machine takes ten minutes.
    assert "predicted once" in rehearse(tmp_path, "--seconds", "1800")


def note_and_go_on(bench: Bench) -> None:
    bench.findings.measure("found", 7, "images/s")
    time.sleep(60)


def die(bench: Bench) -> None:
    bench.findings.measure("found", 7, "images/s")
    os.kill(os.getpid(), signal.SIGSEGV)


def err(bench: Bench) -> None:
    bench.findings.measure("found", 7, "images/s")
    raise ValueError("too bad\nmore")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (note_and_go_on, "it was ended after 1 s"),
        (die, "it was killed by signal 11"),
        (err, "ValueError: too bad"),
    ],
)
def test_what_a_step_has_found_stays_if_it_does_not_end(tmp_path: Path, run: object, reason: str) -> None:
    findings = Findings("a step", tmp_path / "findings.jsonl")
    bench = Bench(findings, REHEARSAL, "cpu", tmp_path)
    run_step(Step("a step", run, 60), bench, tmp_path / "log.txt", 1 if run is note_and_go_on else 60)  # type: ignore[arg-type]
    found = read_findings(findings.file)
    assert value_of(found, "a step", "found") == 7
    assert [one.detail for one in found if one.is_bad] == [reason]


def test_a_later_value_replaces_an_earlier_one_and_half_a_line_is_none(tmp_path: Path) -> None:
    findings = Findings("a step", tmp_path / "findings.jsonl")
    findings.measure("rate", 1, "images/s")
    findings.check("promise", False, "not yet")
    findings.measure("rate", 1234.5, "images/s")
    with findings.file.open("a") as file:
        file.write('{"step": "a st')
    found = read_findings(findings.file)
    assert [(one.what, one.value) for one in found] == [("rate", 1234.5), ("promise", "broken")]
    assert [line.split() for line in table(found).splitlines()[2:]] == [
        ["rate", "1,234", "images/s"], ["promise", "broken", "not", "yet"],
    ]  # fmt: skip


def test_the_occupancy_is_drawn_and_its_mean_is_that_of_the_last_step() -> None:
    occupancy = Occupancy(
        [
            Sample(1, {"cores": 0.1, "GPU": 0.2}),
            Sample(2, {"cores": 0.4}),
            Sample(3, {"cores": 0.6, "GPU": 0.9}),
        ],
        [(0.0, "first"), (1.5, "second & last")],
    )
    assert (occupancy.mean("cores"), occupancy.mean("GPU")) == (0.5, 0.9)
    assert occupancy.mean("GPU memory") is None
    drawn = ElementTree.fromstring(occupancy.picture())  # noqa: S314  (our own)
    texts = ["".join(one.itertext()) for one in drawn.iter() if one.tag.endswith("text")]
    assert "second & last, 2 s" in texts
