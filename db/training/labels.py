"""Labels: what readers found, which of it holds, and what contradicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Row, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.audit.events import record
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
    """What one reader found in one image, which is given by digest or by SOP Instance UID."""

    digest: str | None = None
    instance_uid: str | None = None
    #: Where the image is, if that is how it was given.
    uri: str | None = None
    #: Pseudonym of the patient, if it is known.
    patient_key: str | None = None
    class_name: LabelClass
    reader: str
    #: YYYY-MM-DD, or empty.
    read_on: str = ""
    #: Name of the file that it came in with.
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFile:
    """An image and the readings that hold: the latest of each reader."""

    digest: str | None
    instance_uid: str | None
    #: Where the image is, if a cohort holds or held it or a reading named its path.
    uri: str | None
    #: Pseudonym of the patient, if a cohort or a reading tells.
    patient: str | None
    readings: dict[str, LabelClass]
    #: When the last of them came in.
    labelled_at: float

    @property
    def contradicts(self) -> bool:
        """Whether readers disagree."""
        return contradict(set(self.readings.values()))

    @property
    def class_name(self) -> LabelClass:
        """The most that its readers agree on; only where they do."""
        found = set(self.readings.values())
        return next(iter(found & TYPES), next(iter(found)))


def add_readings(session: Session, readings: Iterable[Reading]) -> int:
    """Add readings and return how many are new; one that is there already adds nothing."""
    before = session.scalars(select(func.count()).select_from(Label)).one()
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Label).on_conflict_do_nothing()
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
    """Return those SOP Instance UIDs that a cohort holds, or held of an image that has labels."""
    found: set[str] = set()
    for start in range(0, len(uids), _CHUNK):
        chunk = uids[start : start + _CHUNK]
        for table in (Image, KeptImage):
            query = select(table.instance_uid).where(table.instance_uid.in_(chunk))
            found |= {uid for uid in session.scalars(query) if uid is not None}
    return found


def keep_labelled(session: Session, cohort_id: int) -> None:
    """Remember where the labelled images of a cohort are, whose rows are about to be deleted.

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
    """Return every labelled image, settled or not, in the order in which its labels came in.

    A reading by digest and one by SOP Instance UID meet where a cohort's image has both; an image has its
    digest once it has been screened.
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
                # In the order of their days: a reader's last word stands.
                readings={label.reader: label.class_name for label in labels},
                labelled_at=max(label.created_at for label in labels),
            )
        )
    return sorted(files, key=lambda file: file.labelled_at)


def _last(labels: Sequence[Label], name: str) -> str | None:
    """Return what the latest label that tells it says."""
    return next((value for one in reversed(labels) if (value := getattr(one, name)) is not None), None)


def _images(session: Session, by: str) -> Iterator[Row[str | None, str | None, str, str | None]]:
    """Yield the images that labels name by this column; those of cohorts come after what archives left."""
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
    """Return how many readings came in after a moment; no more images than that have new labels."""
    return session.scalars(select(func.count()).where(Label.created_at > moment)).one()


def new_since(session: Session, moment: float) -> int:
    """Return how many images have settled labels of which one came in after a moment."""
    return sum(1 for file in labelled_files(session) if not file.contradicts and file.labelled_at > moment)
