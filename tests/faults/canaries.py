"""Canaries: values planted wherever patient data may lie, and the search for them in output."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tests.pictures import save_film, small_film
from worker.phantoms import write_phantoms

#: The beginning of every planted word.
WORD = "qzcanary"
#: Planted values that are no words: a date of birth, and the beginning of UIDs.
BIRTH_DATE, UID = "18730419", "1.2.826.0.1.7750121"


def word(where: str) -> str:
    """Return the canary of a place, in capitals, because some DICOM elements allow nothing else."""
    return f"{WORD}{where}".upper()


def find(content: bytes, *wanted: str) -> set[str]:
    """Return the surroundings of canaries, or of `wanted` values: as text, hexadecimal, UTF-16 and base64."""
    found = set()
    values = [value.lower().encode() for value in wanted or (WORD, BIRTH_DATE, UID)]
    for text in (content, *_unwrapped(content)):
        lower = text.lower()
        for value in values:
            text_forms = (value, value.decode().encode("utf-16-le"))
            forms = (*text_forms, value.hex().encode(), value.upper().hex().encode())
            for form in forms:
                found |= {_around(lower, at) for at in _places(lower, form)}
    return found


def _places(content: bytes, value: bytes) -> Iterator[int]:
    at = content.find(value)
    while at >= 0:
        yield at
        at = content.find(value, at + 1)


def _around(content: bytes, at: int) -> str:
    return content[max(at - 60, 0) : at + 60].decode(errors="replace")


def _unwrapped(content: bytes) -> Iterator[bytes]:
    """Yield the decoded base64 of the content: the bodies of Celery's messages are encoded so."""
    for run in re.findall(rb"[A-Za-z0-9+/]{12,}={0,2}", content):
        try:
            yield base64.b64decode(run + b"=" * (-len(run) % 4))
        except binascii.Error:
            continue


def plant(folder: Path) -> None:
    """Write good and bad images with canaries in their headers, file names and folders."""
    folder = folder / word("folder") / f"{word('doe')}^JANE"
    folder.mkdir(parents=True)
    _plant_dicom(folder)
    _plant_rasters(folder)
    (folder / f"{word('text')}.jpg").write_text(word("content"))
    (folder / f"{word('empty')}.dcm").touch()
    os.mkfifo(folder / f"{word('pipe')}.png")
    film(Path(os.fsdecode(os.fsencode(folder / word("bytes")) + b"\xff.png")))


def film(path: Path, seed: int = 0) -> Path:
    """Write a small phantom, whose folder may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_film(path, seed)


#: Damage to a DICOM file that makes a reader quote the damaged value.
_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "birth": lambda file: file.replace(BIRTH_DATE.encode(), b"QZCANARY"),
    "window": lambda file: file.replace(b"20482048.5", b"QZCANARYWC"),
    "frames": lambda file: file.replace(b"11111111", b"QZCANARY"),
    "charset": lambda file: file.replace(b"ISO_IR 100", b"QZCANARYCS"),
    "name": lambda file: file.replace(b"^JANE^", b"\x1b$)\xff\xfe^"),
    "modality": lambda file: file.replace(b"CR", b"QZ"),
    "syntax": lambda file: file.replace(b"1.2.840.10008.1.2.1\0", b"QZCANARY.1.2.3.4.5\0\0"),
    "cut": lambda file: file[:900],
    "header": lambda file: file[:300] + b"QZCANARY" * 40 + file[300:],
}


def _plant_dicom(folder: Path) -> None:
    from pydicom import dcmread

    (cr,) = (path for path in write_phantoms(folder.parent / "drawn", 3) if path.suffix == "")
    for number, (name, damage) in enumerate([("good", bytes), ("bodypart", bytes), *_DAMAGE.items()]):
        dataset = dcmread(cr)
        dataset.preamble = word("preamble").encode().ljust(128)
        dataset.file_meta.SourceApplicationEntityTitle = word("aetitle")[:16]
        dataset.SpecificCharacterSet = "ISO_IR 100"
        for keyword in ("PatientID", "AccessionNumber", "StudyDescription", "InstitutionName", "StudyID"):
            setattr(dataset, keyword, f"{word(keyword[:7])}{number}"[:16])
        dataset.PatientName = f"{word('name')}^JANE^"
        dataset.PatientBirthDate = BIRTH_DATE
        dataset.WindowCenter = "20482048.5"
        if name == "frames":
            dataset.NumberOfFrames = "11111111"
        if name == "bodypart":
            dataset.BodyPartExamined = f"HAND {word('b')}"[:16]
        for place, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
            setattr(dataset, keyword, f"{UID}.{number}.{place}")
        dataset.private_block(0x0099, word("creator"), create=True).add_new(1, "LO", word("private"))
        file = folder / f"{word('file')}-{name}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        file.write_bytes(damage(file.read_bytes()))
    cr.unlink()


def _plant_rasters(folder: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x010E], exif[0x013B] = word("description"), word("artist")
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + word("comment").encode()
    text = PngInfo()
    text.add_text("Patient", word("text"))
    text.add_text("Accession", word("zipped"), zip=True)
    tags = ImageFileDirectory_v2()
    tags[270] = word("tiff")
    for suffix, how in (
        ("jpg", {"exif": exif, "comment": word("jpeg").encode()}),
        ("png", {"pnginfo": text}),
        ("tif", {"tiffinfo": tags}),
    ):
        file = folder / f"{word('raster')}.{suffix}"
        small_film(0).save(file, **how)
        content = file.read_bytes()
        (folder / f"{word('cut')}.{suffix}").write_bytes(content[: len(content) // 2])
        middle = content.lower().find(WORD.encode())
        (folder / f"{word('bad')}.{suffix}").write_bytes(
            content[: middle - 6] + b"\xff\xff" + content[middle - 4 :]
        )
