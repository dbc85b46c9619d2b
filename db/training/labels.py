"""Labels: readers' findings, and which of them count for each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Row, func, insert, or_, select
from sqlalchemy.orm import Session

from db.audit.events import record
from db.engine import insert_new
from db.tables import Image, KeptImage, Label, LabelClass, Study

#: Types of pneumonia, which imply it.
TYPES = frozenset({LabelClass.BACTERIAL, LabelClass.VIRAL})

#: Rows written per statement: SQLite takes at most 32,766 values in one.
_CHUNK = 2_000


def contradict(classes: Set[str]) -> bool:
    """Tell whether the classes of one image contradict one another. PNEUMONIA agrees with its types."""
    return (LabelClass.NORMAL in classes and len(classes) > 1) or classes >= TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reader's finding in one image, which is named by digest or by SOP Instance UID."""

    digest: str | None = None
    instance_uid: str | None = None
    #: The path or URL of the image, if the reading names it.
    uri: str | None = None
    #: The patient's pseudonym, if it is known.
    patient_key: str | None = None
    class_name: LabelClass
    reader: str
    #: YYYY-MM-DD, or empty.
    read_on: str = ""
    #: The name of the file of labels.
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFile:
    """An image and the readings that count: the latest of each reader."""

    digest: str | None
    instance_uid: str | None
    #: The path or URL of the image, if a cohort has or had it, or a reading names it.
    uri: str | None
    #: The patient's pseudonym, if a cohort or a reading has it.
    patient: str | None
    readings: dict[str, LabelClass]
    #: When the latest of them was imported.
    labelled_at: float

    @property
    def contradicts(self) -> bool:
        """Whether readers disagree."""
        return contradict(set(self.readings.values()))

    @property
    def class_name(self) -> LabelClass:
        """The most specific class that its readers agree on. They must not contradict."""
        found = set(self.readings.values())
        return next(iter(found & TYPES), next(iter(found)))


def add_readings(session: Session, readings: Iterable[Reading]) -> int:
    """Add readings and return how many are new; an existing reading is not added again."""
    before = session.scalars(select(func.count()).select_from(Label)).one()
    statement = insert_new(session, Label)
    stream = iter(readings)
    while chunk := list(islice(stream, _CHUNK)):
        rows = [
            {
                "digest": one.digest,
                "instance_uid": one.instance_uid,
                "uri": one.uri,
                "patient_key": one.patient_key,
                "class_name": one.class_name,
                "reader": one.reader,
                "read_on": one.read_on,
                "source": one.source,
            }
            for one in chunk
        ]
        session.execute(statement, rows)
    new = session.scalars(select(func.count()).select_from(Label)).one() - before
    record(session, "labels.import", "labels", new=new)
    return new


def known_instances(session: Session, uids: Sequence[str]) -> set[str]:
    """Return those SOP Instance UIDs that a cohort has, or that an archived and labelled image had."""
    found: set[str] = set()
    for start in range(0, len(uids), _CHUNK):
        chunk = uids[start : start + _CHUNK]
        for table in (Image, KeptImage):
            query = select(table.instance_uid).where(table.instance_uid.in_(chunk))
            found |= {uid for uid in session.scalars(query) if uid is not None}
    return found


def keep_labelled(session: Session, cohort_id: int) -> None:
    """Note where the labelled images of a cohort are, before its rows are deleted.

    Otherwise labels by SOP Instance UID and by digest would lose their file.
    """
    labelled = or_(
        select(Label.id).where(Label.digest == Image.digest).exists(),
        select(Label.id).where(Label.instance_uid == Image.instance_uid).exists(),
    )
    files = (
        select(Image.digest, Image.instance_uid, Image.uri, Study.patient_key)
        .outerjoin(Study, Study.id == Image.study_id)
        .where(Image.cohort_id == cohort_id, labelled)
        .order_by(Image.id)
    )
    session.execute(insert(KeptImage).from_select(["digest", "instance_uid", "uri", "patient_key"], files))


def labelled_files(session: Session) -> list[LabelledFile]:
    """Return every labelled image, with or without contradictions, in the order of the imports.

    A reading by digest and one by SOP Instance UID are of the same image if an image of a cohort has both. An
    image has its digest once it was screened.
    """
    by_digest = {row.digest: row for row in _images(session, "digest")}
    by_instance = {row.instance_uid: row for row in _images(session, "instance_uid")}
    grouped: dict[str, list[Label]] = defaultdict(list)
    for label in session.scalars(select(Label).order_by(Label.read_on, Label.id)):
        image = by_instance.get(label.instance_uid) if label.digest is None else None
        digest = label.digest or (image.digest if image is not None else None)
        grouped[digest or f"instance {label.instance_uid}"].append(label)
    files = []
    for key, labels in grouped.items():
        digest = None if key.startswith("instance ") else key
        instance_uid = next((label.instance_uid for label in labels if label.instance_uid), None)
        image = by_digest.get(digest) or by_instance.get(instance_uid)
        files.append(
            LabelledFile(
                digest=digest,
                instance_uid=instance_uid,
                uri=_last(labels, "uri") or (image.uri if image is not None else None),
                patient=(image.patient_key if image is not None else None) or _last(labels, "patient_key"),
                # In the order of their days, so that a reader's latest reading counts.
                readings={label.reader: label.class_name for label in labels},
                labelled_at=max(label.created_at for label in labels),
            )
        )
    return sorted(files, key=lambda file: file.labelled_at)


def _last(labels: Sequence[Label], name: str) -> str | None:
    """Return the value of the latest label that has one."""
    return next((value for one in reversed(labels) if (value := getattr(one, name)) is not None), None)


def _images(session: Session, by: str) -> Iterator[Row[str | None, str | None, str, str | None]]:
    """Yield the images that labels name by this column: first the archived ones, then those of cohorts."""
    kept = select(KeptImage.digest, KeptImage.instance_uid, KeptImage.uri, KeptImage.patient_key)
    yield from session.execute(
        kept.join(Label, getattr(KeptImage, by) == getattr(Label, by)).order_by(KeptImage.id)
    )
    held = select(Image.digest, Image.instance_uid, Image.uri, Study.patient_key)
    yield from session.execute(
        held.join(Label, getattr(Image, by) == getattr(Label, by))
        .outerjoin(Study, Study.id == Image.study_id)
        .order_by(Image.id.desc())
    )


def added_since(session: Session, moment: float) -> int:
    """Return how many readings were imported after a moment; at most so many images have new labels."""
    return session.scalars(select(func.count()).where(Label.created_at > moment)).one()
