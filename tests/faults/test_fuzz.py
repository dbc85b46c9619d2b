"""Thousands of damaged files of every kind: no crash of the worker, no hang, no lost row.

`FUZZ` is the number of files; `make fuzz` tries twenty thousand.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom.data
import pytest
from numpy.random import Generator
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL

from db.engine import Database
from db.jobs.problems import ImageProblem, every_problem
from db.queries.progress import progress
from scheduler.ingest import open_source
from scheduler.ingest.dicom import read_identity
from scheduler.submit import submit
from tests.faults.invariant import check
from tests.worker.imaging.test_archive_formats import jp2, jpeg2000, jpeg_ls
from tests.worker.imaging.tiffs import grey, packed, tiff
from tests.worker.screening.batches import try_again
from worker.decoding.codecs import available_decoders
from worker.decoding.pool import DecoderPool
from worker.imaging.picture import Picture
from worker.settings import WorkerSettings

TRIES = int(os.environ.get("FUZZ", "2000"))
#: Seconds and bytes that one file may take; the limits on a user's machine are larger.
SETTINGS = WorkerSettings.model_validate(
    {"decode_threads": 2, "decode_seconds": 20, "decoder_memory_bytes": 2 * 2**30}
)
#: Larger files are mostly pixels, where damage has the least effect.
_LARGEST_SEED = 150_000
_EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\1\0\0\0",
)

Kind = str
Damaged = tuple[Kind, bytes]


@pytest.fixture(scope="module")
def seeds() -> dict[Kind, list[bytes]]:
    """Give good files by kind: rasters, and DICOM of every transfer syntax, most of them from pydicom."""
    found: dict[Kind, list[bytes]] = {}
    noise = np.random.default_rng(4).integers(0, 255, (96, 80)).astype(np.uint8)
    for form, options in (
        ("JPEG", {}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ):
        buffer = BytesIO()
        PIL.Image.fromarray(noise).save(buffer, form, **options)
        found.setdefault(form, []).append(buffer.getvalue())
    for form, contents in archived(noise.astype(np.uint16) * 257).items():
        found.setdefault(form, []).extend(contents)
    folder = Path(pydicom.data.__file__).parent / "test_files"
    for path in sorted(folder.rglob("*.dcm")):
        if 0 < path.stat().st_size < _LARGEST_SEED:
            found.setdefault("header", []).append(path.read_bytes())
            syntax, content = for_us(path)
            found.setdefault(syntax, []).append(content)
    codestreams = Path(__file__).parent.parent / "worker" / "imaging" / "htj2k"
    for uid, name in ((HTJ2KLossless, "lossless"), (HTJ2KLosslessRPCL, "rpcl"), (HTJ2K, "lossy")):
        dataset = dcmread(folder / "JPEG2000.dcm", force=True)
        dataset.file_meta.TransferSyntaxUID = uid
        dataset.PixelData = encapsulate([(codestreams / f"{name}.j2c").read_bytes()])
        dataset.Modality = "CR"
        found[uid.name] = [saved(dataset)]
    found["presentation"] = [saved(dataset) for dataset in presented(folder)]
    return found


def archived(deep: np.ndarray) -> dict[Kind, list[bytes]]:
    """Write 16-bit greyscale as archives ship it."""
    twelve = deep >> 4
    return {
        "JPEG 2000 file": [jp2(jpeg2000(deep, 16)), jpeg2000(twelve, 12)],
        "JPEG-LS file": [jpeg_ls(deep), jpeg_ls(twelve)],
        "TIFF": [
            tiff(grey(deep, order=">"), big=True, order=">"),
            tiff(grey(np.stack([deep, deep], axis=2))),
            tiff(packed(twelve, 12), below=(grey(deep[::4, ::4]),)),
        ],
    }


def presented(folder: Path) -> Iterator[pydicom.Dataset]:
    """Yield radiographs with look-up tables, shutters, padding, overlays or contradictory bits."""
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "US", list(range(4096)))
    shutter = {
        "ShutterShape": ["RECTANGULAR", "CIRCULAR", "POLYGONAL"],
        "ShutterLeftVerticalEdge": 4,
        "ShutterRightVerticalEdge": 50,
        "ShutterUpperHorizontalEdge": 5,
        "ShutterLowerHorizontalEdge": 60,
        "CenterOfCircularShutter": [32, 32],
        "RadiusOfCircularShutter": 30,
        "VerticesOfThePolygonalShutter": [1, 1, 60, 2, 50, 60],
    }
    for elements in (
        {"ModalityLUTSequence": [table], "VOILUTSequence": [table], "PixelRepresentation": 0},
        shutter,
        {"BitsStored": 10, "HighBit": 9, "PixelRepresentation": 0},
    ):
        for name in ("MR_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"):
            dataset = dcmread(folder / f"{name}.dcm")
            dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)
            dataset.add_new("PixelPaddingValue", "US" if dataset.PixelRepresentation == 0 else "SS", 128)
            dataset.add_new((0x6000, 0x0102), "US", 12)
            yield dataset


def for_us(path: Path) -> tuple[Kind, bytes]:
    """Make a file of any modality look like a chest radiograph, so that its pixels are decoded."""
    content = path.read_bytes()
    try:
        dataset = dcmread(BytesIO(content), force=True)
        if "PixelData" not in dataset:
            return "header", content
        dataset.Modality = "CR"
        for keyword in ("BodyPartExamined", "NumberOfFrames", "PresentationIntentType", "ViewPosition"):
            if keyword in dataset:
                del dataset[keyword]
        return dataset.file_meta.TransferSyntaxUID.name, saved(dataset)
    except Exception:  # some of them are broken on purpose
        return "header", content


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def damage(content: bytes, draw: Generator) -> bytes:
    """Damage a file as networks, disks and attackers do."""
    changed = bytearray(content)
    for _ in range(draw.integers(1, 6)):
        if not changed:
            break
        # Half of the damage is near the beginning, where headers are.
        span = len(changed) if draw.random() < 0.5 else min(len(changed), 600)
        at, length = int(draw.integers(span)), int(draw.integers(1, 64))
        match int(draw.integers(7)):
            case 0:
                changed[at] = int(draw.integers(256))
            case 1:
                changed[at] ^= 1 << int(draw.integers(8))
            case 2:
                changed[at : at + 4] = _EXTREMES[int(draw.integers(len(_EXTREMES)))]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * int(draw.integers(1, 20))
            case 5:
                changed[at:at] = draw.bytes(length)
            case _ if draw.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def damaged(seeds: dict[Kind, list[bytes]], tries: int) -> list[Damaged]:
    draw = np.random.default_rng(20)
    kinds = sorted(seeds)
    chosen = [kinds[number % len(kinds)] for number in range(tries)]
    return [(kind, damage(seeds[kind][int(draw.integers(len(seeds[kind])))], draw)) for kind in chosen]


def test_the_seeds_hold_every_transfer_syntax(seeds: dict[Kind, list[bytes]]) -> None:
    # JPEG Lossless is present in its usual form, process 14 with first-order prediction.
    assert set(available_decoders()) - set(seeds) == {"JPEG Lossless, Non-Hierarchical (Process 14)"}


def test_damaged_files_give_a_picture_or_a_reason_in_time(seeds: dict[Kind, list[bytes]]) -> None:
    came: Counter[str] = Counter()
    files = damaged(seeds, TRIES)
    with DecoderPool(SETTINGS) as decoders:
        for start in range(0, len(files), 500):
            waiting: list[tuple[Kind, Future[Picture]]] = [
                (kind, decoders.submit(lambda content=content: content))  # type: ignore[misc]
                for kind, content in files[start : start + 500]
            ]
            for _, future in waiting:
                try:
                    assert future.result(timeout=120).pixels.shape == (224, 224, 3)
                    came["picture"] += 1
                except ImageProblem as problem:
                    came[problem.code] += 1
    print(f"\n{len(files)} files: {dict(came.most_common())}")
    assert came.total() == TRIES
    assert set(came) - {"picture"} <= set(every_problem())
    # Some files still gave a picture, so the damage was not too coarse; no error was unforeseen.
    assert came["picture"] > TRIES / 20
    assert came["screening-failed"] == 0


def test_damaged_headers_are_read_in_time_at_ingest(seeds: dict[Kind, list[bytes]]) -> None:
    longest = 0.0
    for _, content in damaged({kind: seeds[kind] for kind in seeds if kind not in ("PNG", "BMP")}, TRIES):
        start = time.monotonic()
        with suppress(ImageProblem):
            read_identity(BytesIO(content))
        longest = max(longest, time.monotonic() - start)
    assert longest < 5


@pytest.mark.usefixtures("model")
def test_every_damaged_file_has_a_row_that_ends(
    database: Database, seeds: dict[Kind, list[bytes]], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    suffixes = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "BMP": ".bmp"}
    suffixes |= {"JPEG 2000 file": ".jp2", "JPEG-LS file": ".jls"}
    files = damaged(seeds, min(TRIES, 200))
    for number, (kind, content) in enumerate(files):
        (folder / f"{number}{suffixes.get(kind, '.dcm')}").write_bytes(content)
    submitted = submit(database, open_source(str(folder)), name="trial")
    assert submitted.found == len(files) - submitted.ignored
    try_again(database)
    check(database, ended=True)
    with database.read() as session:
        assert progress(session)[0].total == submitted.found
