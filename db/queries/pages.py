"""Pages of cohorts and images, with filters, as a web page or an API reads them.

A page begins after a row's id and names the id after which the next page begins (key-set pagination): a late
page costs as much as the first. A page of images reads a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.queries.progress import Progress, progress_of
from db.queries.results import IDENTIFIERS, Disclosure, ResultRow, image_chunks, read_results
from db.states import CohortState, ImageState
from db.tables import Cohort, Image, Prediction

#: Rows on a page if the reader does not say.
LIMIT = 50

#: Images that a page with a filter examines at most. No index has problems or labels in the order of images:
#: a page has to search for them.
EXAMINED = 10_000

#: States that have a problem.
_WITH_PROBLEM = (ImageState.SKIPPED, ImageState.FAILED)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and where the next ones begin."""

    rows: tuple[Row, ...]
    #: The `after` of the next page; None if this is the last one.
    next_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFilter:
    """Which images are wanted. None means any; an image must meet every condition."""

    state: ImageState | None = None
    #: The code of a problem.
    problem: str | None = None
    #: A label of its prediction.
    label: str | None = None
    #: The least P(PNEUMONIA) of its prediction.
    min_probability: float | None = None

    @property
    def states(self) -> tuple[ImageState, ...]:
        """The states that an image which meets the conditions can be in."""
        possible = tuple(ImageState) if self.state is None else (self.state,)
        if self.problem is not None:
            possible = tuple(state for state in possible if state in _WITH_PROBLEM)
        if self.label is not None or self.min_probability is not None:
            possible = tuple(state for state in possible if state is ImageState.DONE)
        return possible

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The other conditions, which an image of these states must meet."""
        found = []
        if self.problem is not None:
            found.append(Image.problem == self.problem)
        if self.label is not None:
            found.append(Prediction.label == self.label)
        if self.min_probability is not None:
            found.append(Prediction.probability >= self.min_probability)
        return found


def list_cohorts(
    session: Session,
    *,
    after: int | None = None,
    limit: int = LIMIT,
    states: Collection[CohortState] | None = None,
    nightly: str | None = None,
) -> Page[Progress]:
    """Return a page of cohorts with their progress, the newest first.

    `after` is the id of the last cohort of the page before. `nightly` names a schedule.
    """
    query = select(Cohort).order_by(Cohort.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Cohort.id < after)
    if states is not None:
        query = query.where(Cohort.state.in_(states))
    if nightly is not None:
        query = query.where(Cohort.nightly == nightly)
    found = session.scalars(query).all()
    cohorts = found[:limit]
    is_last = len(found) <= limit
    return Page(tuple(progress_of(session, cohorts)), None if is_last else cohorts[-1].id)


def list_images(
    session: Session,
    cohort: Cohort,
    *,
    after: int = 0,
    limit: int = LIMIT,
    wanted: ImageFilter | None = None,
    disclosure: Disclosure = IDENTIFIERS,
) -> Page[ResultRow]:
    """Return a page of a cohort's images in the order in which they were added.

    A page with a filter can hold fewer rows than `limit`, or none, and still have a next one: it examines at
    most `EXAMINED` images.
    """
    wanted = wanted or ImageFilter()
    if not wanted.states:
        return Page((), None)
    conditions = wanted.conditions
    # The index of cohort, state and id answers a filter without conditions.
    examined = EXAMINED if conditions else limit + 1
    rows: list[ResultRow] = []
    for image_ids in image_chunks(session, cohort.id, after=after, limit=examined, states=wanted.states):
        left = limit + 1 - len(rows)
        rows += read_results(session, cohort, image_ids, *conditions, limit=left, disclosure=disclosure)
        examined -= len(image_ids)
        after = image_ids[-1]
        if len(rows) > limit:
            return Page(tuple(rows[:limit]), rows[limit - 1].image)
    # Nothing is left to examine, or the page has examined as many as it may.
    return Page(tuple(rows), None if examined else after)
