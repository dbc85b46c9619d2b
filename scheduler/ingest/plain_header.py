"""The reading of a few texts of a plain DICOM header, without pydicom.

Most files of a PACS are plain: little endian, their elements in order, no sequence of undefined length before
the wanted elements, and ASCII in them. pydicom takes ten times as long for them. It reads all others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import BinaryIO

from worker.files.dicom_header import MAGIC, PREAMBLE

#: Bytes that are read of a file. The wanted elements are usually in the first two thousand.
_HEAD_BYTES = 1 << 13

_TRANSFER_SYNTAX = 0x0002_0010
_IMPLICIT = "1.2.840.10008.1.2"
#: Big endian and deflated data (PS3.5 A.3, A.5).
_NOT_PLAIN = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})

#: Value representations whose length has two bytes, and those whose length has four (PS3.5 7.1.2).
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

#: Longest value that is read, in bytes.
_LONGEST_VALUE = 256

#: Characters that are the same in every character set of DICOM (code 7E is not), without the separator of
#: values.
_TEXT = re.compile(rb"[ -\[\]-}]*")

#: Specific Character Set (0008,0005), and the values under which pydicom decodes these characters as ASCII
#: (PS3.3 C.12.1.1.2). It takes any other value for the name of one of Python's encodings.
_CHARACTER_SET = 0x0008_0005
_SET = rb"(ISO_IR (6|13|1\d\d|203)|ISO 2022 IR \d{1,3}|GB18030|GBK)?"
_CHARACTER_SETS = re.compile(_SET + rb"(\\" + _SET + rb")*")

_UNDEFINED_LENGTH = 0xFFFF_FFFF


def plain_texts(stream: BinaryIO, wanted: Mapping[int, bytes]) -> dict[int, str] | None:
    """Return the texts of elements, by tag, of which `wanted` has the value representations.

    An element that the header does not have is missing. None if the header is not plain: then nothing is
    known.
    """
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    if head[PREAMBLE : PREAMBLE + len(MAGIC)] != MAGIC:
        return None
    try:
        return _read(head, {**wanted, _TRANSFER_SYNTAX: b"UI", _CHARACTER_SET: b"CS"})
    except _NotPlain:
        return None


class _NotPlain(Exception):
    """The header has something that only pydicom reads."""


def _read(head: bytes, wanted: Mapping[int, bytes]) -> dict[int, str]:
    """Return the texts of wanted elements. Raises _NotPlain."""
    found: dict[int, str] = {}
    last, position, before = max(wanted), PREAMBLE + len(MAGIC), 0
    implicit: bool | None = None
    while position + 8 <= len(head):
        tag = int.from_bytes(head[position : position + 2], "little") << 16
        tag |= int.from_bytes(head[position + 2 : position + 4], "little")
        if tag <= before:
            break
        if tag >> 16 != 2 and implicit is None:
            implicit = _is_implicit(found)
        if tag > last:
            return found
        kind, start, length = _element(head, position, wanted.get(tag, b""), implicit=bool(implicit))
        if tag in wanted:
            if kind != wanted[tag] or length > _LONGEST_VALUE:
                raise _NotPlain
            found[tag] = _text(
                head[start : start + length], _CHARACTER_SETS if tag == _CHARACTER_SET else _TEXT
            )
        position, before = start + length, tag
    raise _NotPlain


def _is_implicit(found: Mapping[int, str]) -> bool:
    """Tell whether the data set has no value representations. Raises _NotPlain."""
    syntax = found.get(_TRANSFER_SYNTAX)
    if not syntax or syntax in _NOT_PLAIN:
        raise _NotPlain
    return syntax == _IMPLICIT


def _element(head: bytes, position: int, expected: bytes, *, implicit: bool) -> tuple[bytes, int, int]:
    """Return an element's value representation, and the start and length of its value. Raises _NotPlain."""
    kind, start = head[position + 4 : position + 6], position + 8
    if implicit:
        kind, length = expected, int.from_bytes(head[position + 4 : start], "little")
    elif kind in _SHORT:
        length = int.from_bytes(head[position + 6 : start], "little")
    elif kind in _LONG and head[position + 6 : start] == b"\0\0":
        start = position + 12
        length = int.from_bytes(head[position + 8 : start], "little")
    else:
        raise _NotPlain
    if length == _UNDEFINED_LENGTH or start + length > len(head):
        raise _NotPlain
    return kind, start, length


def _text(value: bytes, pattern: re.Pattern[bytes]) -> str:
    """Return the text of a value without its padding. Raises _NotPlain."""
    value = value.rstrip(b"\0 ")
    if not pattern.fullmatch(value):
        raise _NotPlain
    return value.decode("ascii")
