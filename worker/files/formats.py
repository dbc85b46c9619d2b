"""The formats of raster files, told by their first bytes."""

from __future__ import annotations

import re

#: The first bytes of the formats that are read. JPEG-LS and lossless JPEG begin like JPEG. JPEG 2000 comes as
#: a JP2 file (ISO/IEC 15444-1 I.5.1) and as a codestream (A.4.1).
_READ: dict[bytes, str] = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"BM": "BMP",
}

#: What the start of each format looks like if nothing else tells that the file is an image. Two or four bytes
#: alone may begin any file.
_SURE = re.compile(
    rb"\xff\xd8\xff[\xc0-\xfe]"
    rb"|\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    # A directory's place, behind these bytes.
    rb"|II\*\0(?!\0{4}).{4}|MM\0\*(?!\0{4}).{4}"
    rb"|II\+\0\x08\0\0\0|MM\0\+\0\x08\0\0"
    rb"|\0\0\0\x0cjP  \r\n\x87\n"
    rb"|\xff\x4f\xff\x51\0"
    # Two reserved numbers that are 0, and the length of one of the known headers.
    rb"|BM.{4}\0{4}.{4}(?:\x0c|\x28|\x34|\x38|\x40|\x6c|\x7c)\0{3}",
    re.DOTALL,
)

#: Formats of images that are not read.
_NOT_READ: dict[bytes, str] = {
    rb"GIF8[79]a": "GIF",
    rb"RIFF.{4}WEBP": "WebP",
    rb".{4}ftyp(?:hei|hev|mif1|msf1)": "HEIC",
    rb".{4}ftypavi": "AVIF",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL",
    rb"II\xbc\x01": "JPEG XR",
    rb"8BP[SB]": "Photoshop",
    rb"v/1\x01": "OpenEXR",
    rb"P[1-7]\s": "PNM",
    rb"\x8aMNG|\x8bJNG": "MNG",
    rb"\x01\xda[\0\x01][\x01\x02]": "SGI",
    rb"\x59\xa6\x6a\x95": "Sun raster",
    rb"\x0a\x05\x01[\x01\x02\x04\x08]": "PCX",
    rb"\0\0[\x01\x02]\0[\x01-\xff]\0": "icon",
    rb"SIMPLE  =": "FITS",
    rb"NRRD000": "NRRD",
}
_NOT_READ_PATTERNS = {re.compile(pattern, re.DOTALL): name for pattern, name in _NOT_READ.items()}


def format_of(content: bytes) -> str | None:
    """Return the format of a file that should be an image, None if it is none that is read."""
    return next((name for start, name in _READ.items() if content.startswith(start)), None)


def format_not_read(content: bytes) -> str | None:
    """Return the format of an image that is not read; None for any other file."""
    return next((name for pattern, name in _NOT_READ_PATTERNS.items() if pattern.match(content)), None)


def is_raster(start: bytes) -> bool:
    """Whether the first bytes of a file show that it is an image of a format that is read, whatever its name.

    Twenty bytes are enough.
    """
    return _SURE.match(start) is not None
