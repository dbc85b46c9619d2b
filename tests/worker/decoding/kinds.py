"""One file of every kind that the page on image files names, each made here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, Sequence, uid
from pydicom.dataset import FileMetaDataset

from worker.phantoms import draw_phantom

#: Height and width in pixels; small, because each file is encoded and decoded in the test.
SHAPE = (560, 480)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A file, and how it ends."""

    section: str
    name: str
    make: Callable[[], bytes]
    #: Code of the problem; empty if the file gives the phantom's picture.
    code: str = ""
    #: Grey levels that the picture may differ from the phantom's, on average: 0.6 for roundings.
    levels: float = 0.6


@cache
def grey(bits: int = 12) -> NDArray[np.uint16]:
    """Return the phantom's values, uint16 of `bits` bits; low values are dark."""
    return np.rint(draw_phantom(0, SHAPE) * (2**bits - 1)).astype(np.uint16)


def dicom(pixels: NDArray[Any], *, bits: int = 12, **elements: Any) -> bytes:
    """Return a DICOM file of a frontal chest radiograph; an element of None is left out."""
    return written(dataset(pixels, bits=bits, **elements))


def dataset(pixels: NDArray[Any], *, bits: int = 12, **elements: Any) -> Dataset:
    """Return the data set of a frontal chest radiograph; an element of None is left out."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3.4.5")
    made.Modality, made.BodyPartExamined, made.ViewPosition = "CR", "CHEST", "PA"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * pixels.itemsize, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.add_new("PixelData", "OB" if pixels.itemsize == 1 else "OW", pixels.tobytes())
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def written(made: Dataset) -> bytes:
    """Return a data set as a file."""
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def compressed(syntax: uid.UID, *, bits: int = 12, says: int | None = None, **options: Any) -> bytes:
    """Return the phantom in a transfer syntax; `says` is what the header says of its bits."""
    pixels = grey(bits) if bits > 8 else grey(8).astype(np.uint8)
    made = dataset(pixels, bits=bits)
    made.compress(syntax, **options)
    if says is not None:
        made.BitsStored, made.HighBit = says, says - 1
    return written(made)


def lut(entries: int, bits: int, data: NDArray[Any]) -> Sequence:
    """Return a Modality or VOI LUT."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, bits])
    item.add_new("LUTData", "OW", np.asarray(data, "<u2").tobytes())
    return Sequence([item])


def empty_lut() -> Sequence:
    """Return a LUT without values."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", None)
    item.add_new("ModalityLUTType", "LO", "")
    item.add_new("LUTData", "US", None)
    return Sequence([item])


def code_item(value: str, scheme: str, meaning: str) -> Sequence:
    """Return a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def raster(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    """Return a raster file in a format of Pillow."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def tiff16(*, big_endian: bool, white_is_zero: bool) -> bytes:
    """Return 16-bit greyscale as an uncompressed TIFF of one strip."""
    order = ">" if big_endian else "<"
    values = 65535 - grey(16) if white_is_zero else grey(16)
    data = values.astype(f"{order}u2").tobytes()
    height, width = values.shape
    short, long = 3, 4
    tags = [
        (256, short, width), (257, short, height), (258, short, 16), (259, short, 1),
        (262, short, 0 if white_is_zero else 1), (273, long, 0), (277, short, 1), (278, short, height),
        (279, long, len(data)),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    content = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, value in tags:
        packed = (
            struct.pack(f"{order}HH", value, 0) if kind == short else struct.pack(f"{order}I", value or start)
        )
        content += struct.pack(f"{order}HHI", tag, kind, 1) + packed
    return content + struct.pack(f"{order}I", 0) + data


def with_thumbnail() -> bytes:
    """Return a TIFF whose second page is a thumbnail of the first one."""
    file = BytesIO()
    image = Image.fromarray((grey(8)).astype(np.uint8))
    thumbnail = image.resize((60, 70))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(file, "TIFF", save_all=True, append_images=[thumbnail])
    return file.getvalue()


def shuttered() -> bytes:
    """Return a radiograph with a rectangular shutter."""
    height, width = SHAPE
    return dicom(
        grey(), ShutterShape="RECTANGULAR", ShutterLeftVerticalEdge=1, ShutterRightVerticalEdge=width,
        ShutterUpperHorizontalEdge=1, ShutterLowerHorizontalEdge=height, ShutterPresentationValue=0,
    )  # fmt: skip


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    """Return a file with some of its bytes replaced, once."""
    assert content.count(old) >= 1
    return content.replace(old, new, 1)


def kinds() -> Iterator[Kind]:
    """Yield every kind."""
    yield from _values()
    yield from _headers()
    yield from _blank()
    yield from _tolerated()
    yield from _rasters()


def _values() -> Iterator[Kind]:
    section = "Values"
    every = np.arange(4096)

    def of(name: str, make: Callable[[], bytes], code: str = "", levels: float = 0.6) -> Kind:
        return Kind(section=section, name=name, make=make, code=code, levels=levels)

    yield of("12 bits, no window", lambda: dicom(grey()))
    yield of("MONOCHROME1", lambda: dicom(4095 - grey(), PhotometricInterpretation="MONOCHROME1"))
    yield of("signed values", lambda: dicom(grey().astype(np.int16) - 2048))
    yield of("VOI LUT, 16 bits said, 12 given", lambda: dicom(grey(), VOILUTSequence=lut(4096, 16, every)))
    yield of(
        "Modality LUT, 16 bits said, 12 given, MONOCHROME1",
        lambda: dicom(
            4095 - grey(), PhotometricInterpretation="MONOCHROME1", ModalityLUTSequence=lut(4096, 16, every)
        ),
    )
    yield of("VOI LUT, 8 bits said, 16 given", lambda: dicom(grey(), VOILUTSequence=lut(4096, 8, every * 16)))
    yield of("VOI LUT, one entry short", lambda: dicom(grey(), VOILUTSequence=lut(4096, 12, every[:-1])))
    yield of(
        "VOI LUT, half of the entries missing",
        lambda: dicom(grey(), VOILUTSequence=lut(4096, 12, every[:2048])),
        "corrupt-image",
    )
    yield of(
        "JPEG 2000 with loss, values over Bits Stored",
        lambda: compressed(uid.JPEG2000, says=12, j2k_cr=[20]),
        levels=3,
    )
    yield of(
        "JPEG 2000 of 16 bits, Bits Stored 12", lambda: compressed(uid.JPEG2000Lossless, bits=16, says=12)
    )
    yield of("JPEG-LS of 16 bits, Bits Stored 12", lambda: compressed(uid.JPEGLSLossless, bits=16, says=12))
    yield of("12 bits under Bits Stored 16, no window", lambda: dicom(grey(), bits=16))
    yield of("10 bits under Bits Stored 16, no window", lambda: dicom(grey(10), bits=16))
    yield of("Display Shutter around all of the picture", shuttered)
    yield of(
        "Pixel Padding that is not in the picture", lambda: dicom(grey(), bits=16, PixelPaddingValue=65535)
    )


def _headers() -> Iterator[Kind]:
    def of(name: str, code: str = "", **elements: Any) -> Kind:
        return Kind(section="Header", name=name, make=lambda: dicom(grey(), **elements), code=code)

    yield of("Modality DR", Modality="DR")
    yield of("Modality CR\\DX", Modality=["CR", "DX"])
    yield of("Modality CT", "not-radiograph", Modality="CT")
    for word in ("UNKNOWN", "DEFAULT", "T?RAX", "PECHO", "C_A_P"):
        yield of(f"Body Part {word}", BodyPartExamined=word)
    yield of("Body Part HAND", "not-chest", BodyPartExamined="HAND")
    yield of("Body Part RODILLA", "not-chest", BodyPartExamined="RODILLA")
    yield of(
        "hand in Anatomic Region alone", "not-chest",
        BodyPartExamined="", AnatomicRegionSequence=code_item("85562004", "SCT", "Hand"),
    )  # fmt: skip
    yield of(
        "mammography by its SOP Class",
        "not-chest",
        BodyPartExamined="",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2",
    )
    yield of("CT by its SOP Class", "not-radiograph", Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    yield of(
        "DX For Processing by its SOP Class",
        "for-processing",
        Modality="DX",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1",
    )
    yield of(
        "Secondary Capture that names the chest", Modality="SC", SOPClassUID=uid.SecondaryCaptureImageStorage
    )
    yield of(
        "Secondary Capture of unknown content", "not-radiograph",
        Modality="SC", SOPClassUID=uid.SecondaryCaptureImageStorage, BodyPartExamined="",
    )  # fmt: skip
    yield of("View LL", "lateral-view", ViewPosition="LL")
    yield of("View LATERALE", "lateral-view", ViewPosition="LATERALE")
    yield of("View LAO", "oblique-view", ViewPosition="LAO")
    yield of("Body Part CHEST LAT", "lateral-view", BodyPartExamined="CHEST LAT")
    yield of("lateral by its series", "lateral-view", ViewPosition=None, SeriesDescription="Chest LAT")
    yield of("lateral by its protocol", "lateral-view", ViewPosition=None, ProtocolName="Thorax lateral")
    yield of(
        "lateral by Patient Orientation A\\F",
        "lateral-view",
        ViewPosition=None,
        PatientOrientation=["A", "F"],
    )
    yield of("series of two views, PA AND LAT", ViewPosition=None, SeriesDescription="CHEST PA AND LAT")


def _blank() -> Iterator[Kind]:
    def of(name: str, make: Callable[[], bytes], code: str) -> Kind:
        return Kind(section="No content", name=name, make=make, code=code)

    noise = np.random.default_rng(0).integers(0, 256, (224, 224)).astype(np.uint8)
    yield of("white", lambda: raster(np.full(SHAPE, 255, np.uint8), "PNG"), "no-contrast")
    yield of("black", lambda: raster(np.zeros(SHAPE, np.uint8), "PNG"), "no-contrast")
    yield of("noise", lambda: raster(noise, "PNG"), "no-structure")
    yield of(
        "a quarter of the greyscale", lambda: raster((grey(8) // 4).astype(np.uint8), "PNG"), "narrow-range"
    )
    yield of("window far off", lambda: dicom(grey(), WindowCenter=40000, WindowWidth=400), "no-contrast")


def _tolerated() -> Iterator[Kind]:
    def of(name: str, make: Callable[[], bytes]) -> Kind:
        return Kind(section="Tolerated", name=name, make=make)

    yield of("Modality LUT without values", lambda: dicom(grey(), ModalityLUTSequence=empty_lut()))
    yield of("no Samples per Pixel", lambda: dicom(grey(), SamplesPerPixel=None))
    yield of("no Pixel Representation", lambda: dicom(grey(), PixelRepresentation=None))
    yield of("monochrome2", lambda: replaced(dicom(grey()), b"MONOCHROME2", b"monochrome2"))
    yield of("a blank before MONOCHROME2", lambda: replaced(dicom(grey()), b"MONOCHROME2 ", b" MONOCHROME2"))
    yield of(
        "Number of Frames of blanks",
        lambda: replaced(dicom(grey(), NumberOfFrames=1), b"IS\x02\x001 ", b"IS\x02\x00  "),
    )
    yield of("no sequence delimiter", lambda: _without_delimiter(compressed(uid.JPEG2000Lossless)))


def _without_delimiter(content: bytes) -> bytes:
    return content.removesuffix(b"\xfe\xff\xdd\xe0\0\0\0\0")


def _rasters() -> Iterator[Kind]:
    def of(name: str, make: Callable[[], bytes], code: str = "", levels: float = 0.6) -> Kind:
        return Kind(section="Raster files", name=name, make=make, code=code, levels=levels)

    eight = grey(8).astype(np.uint8)
    yield of("JPEG", lambda: raster(eight, "JPEG", quality=95), levels=2)
    yield of("PNG, 8 bits", lambda: raster(eight, "PNG"))
    yield of("PNG, 16 bits", lambda: raster(grey(16), "PNG"))
    yield of("PNG, 16 bits that hold 12", lambda: raster(grey(12), "PNG"))
    yield of("PNG, 16 bits that hold 10", lambda: raster(grey(10), "PNG"))
    yield of("BMP", lambda: raster(eight, "BMP"))
    for big_endian in (False, True):
        for white_is_zero in (False, True):
            order, zero = "big" if big_endian else "little", "white" if white_is_zero else "black"
            yield of(
                f"TIFF, 16 bits, {order}-endian, 0 is {zero}",
                lambda big_endian=big_endian, white_is_zero=white_is_zero: tiff16(
                    big_endian=big_endian, white_is_zero=white_is_zero
                ),
            )
    yield of("BigTIFF", lambda: raster(eight, "TIFF", big_tiff=True))
    yield of("TIFF with a thumbnail", with_thumbnail)
    yield of("JPEG 2000 (.jp2), 16 bits", lambda: raster(grey(16), "JPEG2000"))
    yield of(
        "TIFF of 32-bit floats", lambda: raster(grey(16).astype(np.float32), "TIFF"), "unsupported-pixels"
    )
    yield of("JPEG cut off", lambda: raster(eight, "JPEG")[:9000], "corrupt-image")
    yield of("a text file", lambda: b"Name;Result\n" * 100, "not-an-image")
