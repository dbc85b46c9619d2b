"""Duplicates: which of several copies of one SOP Instance in a cohort is screened.

Of the images of a cohort with the same SOP Instance UID and frame, one is the primary copy: it is screened,
or its header excludes it. The others are skipped as `duplicate-instance`. If the primary copy fails, or has
no pixels, the first duplicate is promoted in its place, because its file may be intact.

Every function works in the transaction of a caller that has locked the cohort, and is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, true
from sqlalchemy.orm import Session, aliased

from db.jobs.problems import DuplicateInstance, ImageProblem, NoPixels
from db.states import ImageState
from db.tables import Image
from db.transitions import ImageChange, change


def may_be_of_one_copy(problem: ImageProblem) -> bool:
    """Tell whether another copy of an instance may be free of a problem.

    This is so for every failure: one copy may be truncated or deleted. Of the reasons to skip an image it is
    so for `no-pixels` alone, because one file may end before its pixels. The other reasons are in the header
    and the picture, which all copies share, and `cancelled` is not about a file.
    """
    return problem.state is ImageState.FAILED or isinstance(problem, NoPixels)


def skip_duplicates(session: Session, cohort_id: int, *, since: int = 0) -> int:
    """Skip pending images whose instance has another primary copy; return how many.

    Of several pending copies the first is the primary one. Rows before `since` are left out.
    """
    other = aliased(Image)
    has_primary = exists().where(
        _same_instance(other, Image),
        _is_primary(other),
        or_(other.state != ImageState.PENDING, other.id < Image.id),
        other.id != Image.id,
    )
    return change(
        session,
        Image,
        ImageChange.SKIP_DUPLICATE,
        Image.cohort_id == cohort_id,
        Image.id >= since,
        Image.instance_uid.is_not(None),
        has_primary,
        problem=DuplicateInstance.code,
    )


def promote_duplicates(session: Session, cohort_id: int, failed: Sequence[int] | None = None) -> int:
    """Let a duplicate be screened for every instance that has no primary copy left; return how many.

    `failed` are the images that have just failed; None stands for all of the cohort.
    """
    lost, duplicate, other = aliased(Image), aliased(Image), aliased(Image)
    which = true() if failed is None else lost.id.in_(failed)
    first = (
        select(func.min(duplicate.id))
        .select_from(lost)
        .join(duplicate, _same_instance(lost, duplicate))
        .where(
            lost.cohort_id == cohort_id,
            which,
            or_(lost.state == ImageState.FAILED, _has_no_pixels(lost)),
            duplicate.state == ImageState.SKIPPED,
            duplicate.problem == DuplicateInstance.code,
            ~exists().where(_same_instance(other, duplicate), _is_primary(other)),
        )
        .group_by(duplicate.instance_uid, duplicate.frame)
    )
    return change(
        session, Image, ImageChange.PROMOTE_DUPLICATE, Image.id.in_(first), problem=None, batch_id=None
    )


def _same_instance(one: type[Image], other: type[Image]) -> ColumnElement[bool]:
    return and_(
        one.cohort_id == other.cohort_id,
        one.instance_uid == other.instance_uid,
        one.frame == other.frame,
    )


def _has_no_pixels(image: type[Image]) -> ColumnElement[bool]:
    return and_(image.state == ImageState.SKIPPED, image.problem == NoPixels.code)


def _is_primary(image: type[Image]) -> ColumnElement[bool]:
    excluded = and_(
        image.state == ImageState.SKIPPED,
        image.problem.not_in((DuplicateInstance.code, NoPixels.code)),
    )
    return or_(image.state.not_in((ImageState.SKIPPED, ImageState.FAILED)), excluded)
