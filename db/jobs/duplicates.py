"""Copies of one SOP Instance in a cohort: which of them is screened.

Of all rows of a cohort with the same SOP Instance UID and frame, one holds the place: it is screened, or the
header rules it out. The others are skipped as `duplicate-instance`. A row that fails, or that turns out to
hold no pixels, gives its place up, and the first of the others takes it: its file may be the intact one.

All functions work in the transaction of a caller that has locked the cohort, and are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, CursorResult, and_, exists, func, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from db.jobs.problems import DuplicateInstance, ImageProblem, NoPixels
from db.states import ImageState
from db.tables import Image

#: A duplicate.
_DUPLICATE = {"state": ImageState.SKIPPED, "problem": DuplicateInstance.code}


def gives_place_up(problem: ImageProblem) -> bool:
    """Whether a problem may be that of one copy alone.

    Every failure may: a copy may be truncated, or gone. Of what is skipped only `no-pixels` may, for a file
    may end before its pixels do; the other reasons stand in the header, which all copies share. `cancelled`
    says nothing of a file.
    """
    return problem.state is ImageState.FAILED or isinstance(problem, NoPixels)


def skip_duplicates(session: Session, cohort_id: int, *, since: int = 0) -> int:
    """Skip pending images whose instance another row holds the place of; return how many.

    Of several pending ones the first stays. `since` is the first row that is looked at.
    """
    other = aliased(Image)
    held = exists().where(
        _same_instance(other, Image),
        _holds_place(other),
        or_(other.state != ImageState.PENDING, other.id < Image.id),
        other.id != Image.id,
    )
    return _move(
        session,
        Image.cohort_id == cohort_id,
        Image.id >= since,
        Image.state == ImageState.PENDING,
        Image.instance_uid.is_not(None),
        held,
        **_DUPLICATE,
    )


def take_over(session: Session, cohort_id: int, lost: Sequence[int] | None = None) -> int:
    """Let a duplicate be screened for every instance whose place nobody holds; return how many.

    `lost` are the images that have just given theirs up; None looks at all of the cohort.
    """
    gave_up, duplicate, other = aliased(Image), aliased(Image), aliased(Image)
    which = true() if lost is None else gave_up.id.in_(lost)
    first = (
        select(func.min(duplicate.id))
        .select_from(gave_up)
        .join(duplicate, _same_instance(gave_up, duplicate))
        .where(
            gave_up.cohort_id == cohort_id,
            which,
            or_(gave_up.state == ImageState.FAILED, _has_no_pixels(gave_up)),
            duplicate.state == ImageState.SKIPPED,
            duplicate.problem == DuplicateInstance.code,
            ~exists().where(_same_instance(other, duplicate), _holds_place(other)),
        )
        .group_by(duplicate.instance_uid, duplicate.frame)
    )
    return _move(session, Image.id.in_(first), state=ImageState.PENDING, problem=None, batch_id=None)


def _same_instance(one: type[Image], other: type[Image]) -> ColumnElement[bool]:
    return and_(
        one.cohort_id == other.cohort_id,
        one.instance_uid == other.instance_uid,
        one.frame == other.frame,
    )


def _has_no_pixels(image: type[Image]) -> ColumnElement[bool]:
    return and_(image.state == ImageState.SKIPPED, image.problem == NoPixels.code)


def _holds_place(image: type[Image]) -> ColumnElement[bool]:
    ruled_out = and_(
        image.state == ImageState.SKIPPED,
        image.problem.not_in((DuplicateInstance.code, NoPixels.code)),
    )
    return or_(image.state.not_in((ImageState.SKIPPED, ImageState.FAILED)), ruled_out)


def _move(session: Session, *which: ColumnElement[bool], **values: object) -> int:
    result = session.execute(
        update(Image).where(*which).values(**values).execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount
