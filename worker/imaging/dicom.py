"""DICOM files."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import CorruptImage, FileTooLarge, NotAnImage
from worker.files.silence import silence_libraries
from worker.imaging.elements import age_in_years, element, integer, readable, text
from worker.imaging.limits import Limits
from worker.imaging.picture import HeaderFacts, squeeze_grey
from worker.imaging.pixels.layout import read_layout
from worker.imaging.pixels.stored import stored_values
from worker.imaging.presentation.colour import grey_of_rgb
from worker.imaging.presentation.display import display_values
from worker.imaging.presentation.shutter import open_part

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_PREAMBLE, _MAGIC = 128, b"DICM"

#: The length of encapsulated pixels, and the Sequence Delimitation Item that ends them (PS3.5 7.5.1).
_UNDEFINED = 0xFFFFFFFF
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"

#: Bytes that are inflated at a time: they become at most about a thousand times as many in memory.
_DEFLATED_CHUNK = 64 * 1024

#: Longest fact: a UID has 64 characters, the other elements have 16 (PS3.5 section 6.2).
_FACT_LETTERS = 64


def is_dicom(content: bytes) -> bool:
    """Tell whether bytes are a DICOM file: with the preamble of PS3.10 section 7.1, or an old one without.

    Without it, a file begins with an element of group 0002 or 0008: implicit little endian with a length
    that the file has room for, or explicit in either byte order with two letters for the VR.
    """
    if _has_preamble(content):
        return True
    tag, kind = content[:4], content[4:6]
    explicit = kind.isalpha() and kind.isupper()
    if tag[:2] in (b"\x02\0", b"\x08\0") and tag[3:] == b"\0":
        return explicit or 0 < int.from_bytes(content[4:8], "little") + 8 < min(len(content), 1024)
    return tag[:3] in (b"\0\x02\0", b"\0\x08\0") and explicit


def _has_preamble(content: bytes) -> bool:
    return content[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def picture_pixels(dataset: FileDataset, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a parsed DICOM file as uint8 (224, 224, 3), 0 is black.

    Raises CorruptImage, NoDecoder, TooManyPixels, TooFewPixels, ColourImage, UnsupportedPixels.
    """
    limits.check(integer(dataset, "Columns"), integer(dataset, "Rows"))
    layout = read_layout(dataset)
    stored = stored_values(dataset, layout)
    if layout.samples == 3:
        grey = grey_of_rgb(stored.patterns, stored.bits)
    else:
        grey = display_values(stored, dataset)
    opened = open_part(dataset, layout.rows, layout.columns)
    if opened is not None:
        grey[~opened] = 0
    return squeeze_grey(grey)


def facts_of(dataset: FileDataset) -> HeaderFacts:
    """Return facts of a header that the gate has passed. Raises CorruptImage if they cannot be read."""
    return HeaderFacts(
        instance_uid=str(element(dataset, "SOPInstanceUID") or "").strip("\0 ")[:_FACT_LETTERS] or None,
        body_part=text(dataset, "BodyPartExamined")[:_FACT_LETTERS],
        view_position=text(dataset, "ViewPosition")[:_FACT_LETTERS],
        modality=readable(dataset, "Modality")[:_FACT_LETTERS],
        manufacturer=readable(dataset, "Manufacturer")[:_FACT_LETTERS],
        age=age_in_years(dataset),
        size=f"{integer(dataset, 'Rows', 0)}x{integer(dataset, 'Columns', 0)}",
    )


def parse_dicom(content: bytes, limits: Limits) -> FileDataset:
    """Parse a DICOM file. Raises NotAnImage, CorruptImage, FileTooLarge."""
    from pydicom import dcmread

    # After the import, which sets the level of pydicom's logger.
    silence_libraries()
    try:
        _check_inflated(content, limits)
        dataset = dcmread(BytesIO(content), force=True)
        if len(dataset) == 0 and _has_preamble(content):
            dataset = _read_without_end(content)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
    except (CorruptImage, FileTooLarge, MemoryError):
        raise
    except Exception as error:
        # pydicom raises all kinds of errors for damaged files.
        raise CorruptImage from error
    if not _has_preamble(content) and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise NotAnImage
    if len(dataset) == 0:
        # pydicom drops every element if the last one is cut off.
        raise CorruptImage
    if not syntax:
        _tell_transfer_syntax(dataset)
    elif not isinstance(syntax, str):
        raise CorruptImage("TransferSyntaxUID")
    return dataset


def _read_without_end(content: bytes) -> FileDataset:
    """Parse a file that lacks only the delimiter after its encapsulated pixels. Raises CorruptImage."""
    from pydicom import dcmread

    dataset = dcmread(BytesIO(content + _DELIMITER), force=True)
    pixels = dataset.get_item("PixelData") if "PixelData" in dataset else None
    if getattr(pixels, "length", 0) != _UNDEFINED:
        # The delimiter has become part of an element that is cut off.
        raise CorruptImage
    return dataset


def _check_inflated(content: bytes, limits: Limits) -> None:
    """Raise FileTooLarge for a deflated file (PS3.5 A.5) that is larger than the limit when inflated."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream = BytesIO(content)
    if _has_preamble(content):
        stream.seek(_PREAMBLE + len(_MAGIC))
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag >> 16 != 2
    )
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := stream.read(_DEFLATED_CHUNK):
        size += len(inflater.decompress(chunk))
        if size > limits.max_file_bytes:
            raise FileTooLarge


def _tell_transfer_syntax(dataset: FileDataset) -> None:
    """Set the transfer syntax that the reader detected, for old files whose header does not name it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
