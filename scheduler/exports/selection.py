"""The selection of rows, columns and identifiers that a table of results shows."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.queries.counts import count_images
from db.queries.results import Disclosure
from db.states import ImageState
from db.tables import Cohort
from scheduler.exports.columns import Column, choose_columns
from scheduler.ingest.pseudonym import uid_pseudonyms


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows and columns a table of results has, and which identifiers it shows."""

    #: Whether it shows UIDs and paths instead of pseudonyms and digests.
    identifiers: bool = False
    #: Whether it has the column `file`, and the column `accession`.
    names: bool = False
    accession: bool = False
    #: The states of its images; empty means all.
    states: tuple[ImageState, ...] = ()
    #: The names of its columns; empty means all.
    columns: tuple[str, ...] = ()

    def chosen(self) -> tuple[Column, ...]:
        """Return the columns. Raises ColumnUnknown, ColumnHidden."""
        options = (("--names", self.names), ("--accession", self.accession))
        return choose_columns([option for option, given in options if given], self.columns)

    @property
    def disclosure(self) -> Disclosure:
        """What the rows show. Raises the errors of the site's key at the first UID."""
        pseudonym = None if self.identifiers else uid_pseudonyms()
        return Disclosure(pseudonym=pseudonym, names=self.names, accession=self.accession)

    def count(self, session: Session, cohort: Cohort) -> int:
        """Return how many rows it has now. It reads no image."""
        counts = count_images(session, [cohort.id]).get(cohort.id, {})
        return sum(images for (state, _), images in counts.items() if state in self.all_states)

    @property
    def all_states(self) -> tuple[ImageState, ...]:
        """The states of its images."""
        return tuple(dict.fromkeys(self.states)) or tuple(ImageState)

    def left_out(self) -> str:
        """Return a sentence on what the table does not show, and how to get it; empty if it shows all."""
        hidden = []
        if not self.names and not self.identifiers:
            hidden.append("file names (`--names` adds them)")
        if not self.identifiers:
            hidden.append("UIDs and whole paths (`--identifiers` adds them)")
        return f"Left out: {', '.join(hidden)}." if hidden else ""

    def command(self, cohort: str, *, out: str = "") -> str:
        """Return the command that shows this table of a cohort, or writes it to a file."""
        words = ["pneumoscreen", "results", cohort]
        for state in self.states:
            words += ["--state", state]
        words += [f"--{option}" for option in ("names", "identifiers", "accession") if getattr(self, option)]
        words += ["--columns", ",".join(self.columns)] if self.columns else []
        return shlex.join([*words, "--out", out] if out else words)


#: Every row and every column, without identifiers.
ALL = Selection()
