"""What a step of a run finds out: promises that it checked, and numbers that it measured.

Each finding is one line of JSON, written at once: what is known when the time runs out still counts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    step: str
    what: str
    #: `kept` or `broken` for a promise, a number for a measurement, else a text.
    value: str | float
    unit: str = ""
    detail: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether a promise is broken, or the step failed."""
        return self.value in ("broken", "failed")


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of one step, in a file that other steps add to as well."""

    step: str
    file: Path

    def check(self, promise: str, kept: bool, detail: str = "") -> None:
        """Note whether a promise is kept."""
        self._add(Finding(self.step, promise, "kept" if kept else "broken", detail=detail))

    def measure(self, what: str, value: float, unit: str, detail: str = "") -> None:
        """Note a number. A later one of the same name replaces it."""
        self._add(Finding(self.step, what, float(value), unit, detail))

    def note(self, what: str, text: str) -> None:
        """Note a fact, or what could not be done here."""
        self._add(Finding(self.step, what, text))

    def fail(self, reason: str) -> None:
        """Note that the step has not reached its end."""
        self._add(Finding(self.step, "the step", "failed", detail=reason))

    def _add(self, finding: Finding) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(finding)) + "\n")


def read_findings(file: Path) -> list[Finding]:
    """Return all findings in the order of their first notes, each with its last value."""
    if not file.exists():
        return []
    # A process that was killed may have written half a line.
    lines = (line for line in file.read_text().splitlines() if line.endswith("}"))
    found = [Finding(**json.loads(line)) for line in lines]
    return list({(one.step, one.what): one for one in found}.values())


def value_of(findings: list[Finding], step: str, what: str) -> float | None:
    """Return a number that was measured, None if it was not."""
    return next(
        (float(one.value) for one in findings if (one.step, one.what) == (step, what) and one.unit), None
    )


def table(findings: list[Finding]) -> str:
    """Return findings as text, a block for each step."""
    lines = []
    for step in dict.fromkeys(one.step for one in findings):
        lines.append(f"\n{step}")
        for one in (one for one in findings if one.step == step):
            value = one.value if isinstance(one.value, str) else f"{_rounded(one.value)} {one.unit}"
            lines.append(f"  {one.what:58} {value:>18}  {one.detail}".rstrip())
    return "\n".join(lines) + "\n"


def _rounded(value: float) -> str:
    return (
        f"{value:.2e}" if 0 < abs(value) < 0.01 else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    )
