"""Rows and files per second of an ingest, against what the database and the file system can do alone."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from sqlalchemy import Connection, text

from db.engine import Database
from db.jobs.cohorts import open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.ingests import begin_ingest, end_ingest
from scheduler.ingest.sources.folder import FolderSource
from scheduler.ingest.walk import Walk
from scheduler.settings import SchedulerSettings
from tests.bench.figures import Figures
from tests.pictures import save_film

ROWS, ROUNDS = 20_000, 3
#: The wanted share of what the database can do, by its name.
GOALS = {"postgresql": 0.5, "sqlite": 0.8}
BARE = {"postgresql": "COPY", "sqlite": "executemany"}
FILES, HEADERS, PER_FOLDER = 100_000, 10_000, 1_000

_COLUMNS = (
    "cohort_id", "source_id", "study_id", "series_uid", "instance_uid", "uri", "frame", "size", "modified",
    "listed_at", "state", "problem", "attempts",
)  # fmt: skip

pytestmark = pytest.mark.bench


def rasters(name: str) -> list[NewImage]:
    """Return images of files that are not DICOM."""
    return [
        NewImage(uri=f"/data/{name}/2026/IM{one:07d}.jpeg", size=100_000 + one, modified=1.7e9 + one)
        for one in range(ROWS)
    ]


def dicom(name: str) -> list[NewImage]:
    """Return images of DICOM files, two in each study."""
    uid = f"1.2.826.0.1.3680043.8.498.{int(name.encode().hex(), 16)}"
    return [
        NewImage(
            uri=f"/data/{name}/2026/IM{one:07d}",
            size=100_000 + one,
            modified=1.7e9 + one,
            study_uid=f"{uid}.{one // 2}",
            series_uid=f"{uid}.1.{one}",
            instance_uid=f"{uid}.2.{one}",
            patient_key=f"{one // 2:064x}",
        )
        for one in range(ROWS)
    ]


def ours(database: Database, name: str, images: Sequence[NewImage]) -> float:
    """Add images as `submit` does; return rows per second."""
    size = SchedulerSettings().ingest_images
    start = time.perf_counter()
    with database.write() as session:
        cohort_id = open_cohort(session, name, source=f"/data/{name}").id
        ingest = begin_ingest(session, cohort_id, f"/data/{name}", owner="bench", lease_seconds=60)
    for first in range(0, len(images), size):
        with database.write() as session:
            add_images(session, cohort_id, images[first : first + size], ingest=ingest, source_id=1)
    with database.write() as session:
        end_ingest(session, ingest)
    return len(images) / (time.perf_counter() - start)


def bare(database: Database, name: str, images: Sequence[NewImage]) -> float:
    """Insert the same rows as fast as the database can, in one transaction; return rows per second."""
    with database.write() as session:
        cohort_id = open_cohort(session, name, source=f"/data/{name}").id
    keys = {image.study_uid: image.patient_key for image in images if image.study_uid}
    ids = {uid: 1_000_000 * cohort_id + number for number, uid in enumerate(keys)}
    studies = [(ids[uid], cohort_id, uid, key) for uid, key in keys.items()]
    rows = [
        (
            cohort_id, 1, ids.get(image.study_uid or ""), image.series_uid, image.instance_uid, image.uri,
            image.frame, image.size, image.modified, image.listed_at, "pending", image.problem, 0,
        )
        for image in images
    ]  # fmt: skip
    insert = copy if database.engine.dialect.name == "postgresql" else executemany
    with database.engine.begin() as connection:
        seconds = insert(connection, "studies", ("id", "cohort_id", "study_uid", "patient_key"), studies)
        seconds += insert(connection, "images", _COLUMNS, rows)
        start = time.perf_counter()
    return len(images) / (seconds + time.perf_counter() - start)


def copy(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> float:
    """COPY text that was made before into a table without triggers; return seconds."""
    into = "bare_images" if table == "images" else table
    lines = "".join("\t".join("\\N" if one is None else str(one) for one in row) + "\n" for row in rows)
    cursor = connection.connection.cursor()
    start = time.perf_counter()
    with cursor.copy(f"COPY {into} ({', '.join(columns)}) FROM STDIN") as stream:  # type: ignore[attr-defined]
        stream.write(lines.encode())
    return time.perf_counter() - start


def executemany(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> float:
    """Insert rows by one `executemany`; return seconds."""
    marks = ", ".join("?" * len(columns))
    start = time.perf_counter()
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  (our own names)
    connection.connection.cursor().executemany(statement, rows)
    return time.perf_counter() - start


@pytest.mark.parametrize("make", [rasters, dicom])
def test_an_ingest_is_nearly_as_fast_as_the_database(
    database: Database, make: Callable[[str], list[NewImage]], figures: Figures
) -> None:
    kind = database.engine.dialect.name
    if kind == "postgresql":
        # A table with the same indexes and constraints, and without the counters' triggers.
        with database.engine.begin() as connection:
            connection.execute(text("CREATE TABLE bare_images (LIKE images INCLUDING ALL)"))
            for column, other in (("cohort_id", "cohorts"), ("study_id", "studies"), ("batch_id", "batches")):
                connection.execute(
                    text(f"ALTER TABLE bare_images ADD FOREIGN KEY ({column}) REFERENCES {other} (id)")
                )
    alone, mine = [], []
    for number in range(ROUNDS):
        alone.append(bare(database, f"{number}a", make(f"{number}a")))
        mine.append(ours(database, f"{number}b", make(f"{number}b")))
    share = statistics.median(one / other for one, other in zip(mine, alone, strict=True))
    subject = f"ingest of {make.__name__} into {kind}"
    figures.add(
        subject, "COPY" if kind == "postgresql" else "executemany", statistics.median(alone), "rows/s"
    )
    figures.add(subject, "add_images", statistics.median(mine), "rows/s")
    figures.add(subject, "share", share, "", goal=GOALS[kind])
    if kind == "postgresql":
        with database.engine.begin() as connection:
            connection.execute(text("DROP TABLE bare_images"))
    assert share >= GOALS[kind]


def link_files(folder: Path, files: int, original: Path) -> None:
    """Make a folder of many small files; most are links to one, as the file system allows so many."""
    for start in range(0, files, PER_FOLDER):
        inner = folder / f"{start // PER_FOLDER:05d}"
        inner.mkdir(parents=True)
        for number in range(start, min(start + PER_FOLDER, files)):
            (inner / f"IM{number:07d}{original.suffix}").hardlink_to(original)


def scandir(folder: str) -> int:
    """Count the files below a folder with `os.scandir` alone."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += scandir(entry.path) if entry.is_dir() else 1
    return count


def timed(count: int, do: Callable[[], int]) -> float:
    """Return files per second, the median of three times."""
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        assert do() == count
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def save_dicom(file: Path) -> Path:
    """Write the header of a radiograph, and a few bytes of pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = pydicom.Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.StudyInstanceUID, header.SeriesInstanceUID = (
        "1.2.826.0.1.3680043.8.498.2",
        "1.2.826.0.1.3680043.8.498.3",
    )
    header.SpecificCharacterSet, header.PatientName, header.PatientID = "ISO_IR 100", "Doe^Jane", "4711"
    header.StudyDate, header.StudyTime, header.AccessionNumber = "20260501", "120000", "A1"
    header.Modality, header.BodyPartExamined, header.ViewPosition = "CR", "CHEST", "PA"
    header.Manufacturer, header.InstitutionName, header.StudyDescription = "M", "Ward 7", "Chest"
    header.Rows = header.Columns = 8
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.PixelData = bytes(64)
    header.save_as(file, enforce_file_format=True)
    return file


def test_a_folder_of_many_files_is_scanned_quickly(tmp_path: Path, figures: Figures) -> None:
    folder = tmp_path / "files"
    for part in range(FILES // HEADERS):
        link_files(folder / f"{part}", HEADERS, save_film(tmp_path / f"{part}.png", part))
    alone = timed(FILES, lambda: scandir(str(folder)))
    listed = timed(FILES, lambda: sum(1 for _ in FolderSource(folder).entries()))
    inspected = timed(FILES, lambda: sum(1 for _ in Walk(FolderSource(folder))))
    figures.add("folder of 100,000 files", "os.scandir alone", alone, "files/s")
    figures.add("folder of 100,000 files", "listed with size and time", listed, "files/s")
    figures.add("folder of 100,000 files", "share of os.scandir", listed / alone, "")
    figures.add("folder of 100,000 files", "listed, opened and recognised", inspected, "files/s")


def test_dicom_headers_are_read_quickly(tmp_path: Path, figures: Figures) -> None:
    folder = tmp_path / "files"
    link_files(folder, HEADERS, save_dicom(tmp_path / "one.dcm"))
    entries = list(FolderSource(folder).entries())
    source = FolderSource(folder)
    one = timed(HEADERS, lambda: sum(source.inspect(entry) is not None for entry in entries))
    walked = timed(HEADERS, lambda: sum(1 for _ in Walk(FolderSource(folder))))
    figures.add("10,000 DICOM headers", "by one thread", one, "headers/s")
    figures.add("10,000 DICOM headers", "by the walk, with the listing", walked, "headers/s")
