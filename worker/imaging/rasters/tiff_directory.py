"""The directories of a TIFF file: one for each page (TIFF 6.0 section 2, and BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Self

from db.jobs.problems import CorruptImage


class Tag(IntEnum):
    """Tags of TIFF (TIFF 6.0 appendix A)."""

    SUBFILE_TYPE = 254
    OLD_SUBFILE_TYPE = 255
    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIPS = 273
    ORIENTATION = 274
    SAMPLES = 277
    STRIP_ROWS = 278
    STRIP_BYTES = 279
    PLANAR = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILES = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339


#: PlanarConfiguration of samples that lie in planes, one after another (TIFF 6.0 section 8).
IN_PLANES = 2

#: Tags that say how pixels are stored: those above, options of CCITT, the palette, inks, tables of JPEG, and
#: YCbCr. They are copied when a page becomes a file of its own.
_OF_PIXELS = frozenset(Tag) - {Tag.SUBFILE_TYPE, Tag.OLD_SUBFILE_TYPE, Tag.SUB_DIRECTORIES} | frozenset(
    {292, 293, 320, 332, 347, *range(512, 522), *range(529, 533)}
)

#: Bytes of a value of each type (section 2, and BigTIFF's 13 and 16 to 18).
_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_LONG = 4

#: More pages are several pictures in any case. More entries or values are damage: a page of 100 megapixels
#: has 400,000 tiles of 16 x 16 pixels.
_MOST_PAGES, _MOST_ENTRIES, _MOST_VALUES = 100, 4096, 1 << 20


@dataclass(frozen=True, slots=True)
class Field:
    """The values of one tag, as they are stored."""

    kind: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """The tags of one page."""

    #: `<` for little endian, `>` for big endian.
    order: str
    fields: Mapping[int, Field]
    #: Whether a classic reader finds this page first.
    is_first: bool

    def integers(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag, none if it is missing. Raises CorruptImage for what is no number."""
        field = self.fields.get(tag)
        if field is None:
            return ()
        if field.kind not in _INTEGERS or field.count > _MOST_VALUES:
            raise CorruptImage(f"TIFF tag {tag}")
        return struct.unpack(f"{self.order}{field.count}{_INTEGERS[field.kind]}", field.data)

    def integer(self, tag: int, default: int | None = None) -> int:
        """Return the first value of a tag. Raises CorruptImage if it is missing and there is no default."""
        value = next(iter(self.integers(tag)), default)
        if value is None:
            raise CorruptImage(f"TIFF tag {tag}")
        return value

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as they are stored. Raises CorruptImage."""
        return self.integer(Tag.WIDTH), self.integer(Tag.LENGTH)

    @property
    def is_reduced(self) -> bool:
        """Whether a page says that it is a smaller copy of another one. The old tag has 2 for that."""
        return self.integer(Tag.OLD_SUBFILE_TYPE, 0) == 2 or bool(self.integer(Tag.SUBFILE_TYPE, 0) & 1)

    @property
    def is_tiled(self) -> bool:
        """Whether pixels lie in tiles instead of strips."""
        return Tag.TILES in self.fields

    @property
    def pieces(self) -> int:
        """The strips or tiles that a plane needs. Raises CorruptImage."""
        width, height = self.size
        across, down = 1, self.integer(Tag.STRIP_ROWS, height)
        if self.is_tiled:
            tile, down = self.integer(Tag.TILE_WIDTH), self.integer(Tag.TILE_LENGTH)
            if tile < 1:
                raise CorruptImage(f"TIFF tag {Tag.TILE_WIDTH}")
            across = -(-width // tile)
        if down < 1:
            raise CorruptImage(f"TIFF tag {Tag.TILE_LENGTH if self.is_tiled else Tag.STRIP_ROWS}")
        return across * -(-height // down)

    def as_file(self, content: bytes, changed: Mapping[int, Sequence[int] | None]) -> BytesIO:
        """Return a classic TIFF file of this page alone, over the pixels of `content`.

        `changed` are tags with other values, or None to leave them out.
        """
        fields = {tag: self._classic(tag) for tag in self.fields.keys() & _OF_PIXELS - changed.keys()}
        for tag, values in changed.items():
            if values is not None:
                data = struct.pack(f"{self.order}{len(values)}I", *values)
                fields[tag] = Field(_LONG, len(values), data)
        stream = BytesIO(content)
        at = stream.seek(0, 2) + len(content) % 2
        long_values, behind = b"", at + 2 + 12 * len(fields) + 4
        directory = struct.pack(f"{self.order}H", len(fields))
        for tag, field in sorted(fields.items()):
            value = field.data.ljust(4, b"\0")
            if len(field.data) > 4:
                value = struct.pack(f"{self.order}I", behind + len(long_values))
                long_values += field.data + bytes(len(field.data) % 2)
            directory += struct.pack(f"{self.order}HHI", tag, field.kind, field.count) + value
        stream.seek(at)
        stream.write(directory + bytes(4) + long_values)
        stream.seek(0)
        stream.write((b"II" if self.order == "<" else b"MM") + struct.pack(f"{self.order}HI", 42, at))
        stream.seek(0)
        return stream

    def _classic(self, tag: int) -> Field:
        """Return a field with a type that classic TIFF has. Raises CorruptImage."""
        field = self.fields[tag]
        if field.kind not in (16, 17, 18):
            return field
        values = self.integers(tag)
        if not all(0 <= value < 2**32 for value in values):
            raise CorruptImage(f"TIFF tag {tag}")
        return Field(_LONG, field.count, struct.pack(f"{self.order}{field.count}I", *values))


class Pages:
    """The pages of a TIFF file, read from its header."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._order = "<" if content[:2] == b"II" else ">"
        self._is_big = content[2:4] in (b"+\0", b"\0+")
        self._seen: set[int] = set()
        self.directories: list[Directory] = []

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read the directories. Raises CorruptImage.

        If all of them are smaller copies, as in a file of a camera, those below them are read, too.
        """
        pages = cls(content)
        try:
            pages._read_chain([pages._unpack("Q" if pages._is_big else "I", 8 if pages._is_big else 4)])
            if all(page.is_reduced for page in pages.directories):
                below = [at for page in pages.directories for at in page.integers(Tag.SUB_DIRECTORIES)]
                pages._read_chain(below)
        except (struct.error, OverflowError) as error:
            raise CorruptImage from error
        if not pages.directories:
            raise CorruptImage
        return pages

    def _read_chain(self, places: list[int]) -> None:
        """Read the directories at these places, and those that follow them."""
        waiting = places[::-1]
        while waiting and len(self.directories) < _MOST_PAGES:
            at = waiting.pop()
            # A directory that leads back to an earlier one ends the chain.
            if at == 0 or at in self._seen:
                continue
            fields, following = self._read_fields(at)
            self.directories.append(Directory(self._order, fields, not self._seen and not self._is_big))
            self._seen.add(at)
            waiting.append(following)

    def _read_fields(self, at: int) -> tuple[dict[int, Field], int]:
        """Return the fields of a directory, and where the next one is (0: nowhere)."""
        place, entry = ("Q", "HHQ8s") if self._is_big else ("I", "HHI4s")
        count_form = "Q" if self._is_big else "H"
        count = self._unpack(count_form, at)
        if count > _MOST_ENTRIES:
            raise CorruptImage
        at += struct.calcsize(f"={count_form}")
        fields = {}
        for _ in range(count):
            tag, kind, values, inline = struct.unpack_from(self._order + entry, self._content, at)
            at += struct.calcsize(f"={entry}")
            if kind not in _SIZES:
                # Readers are to skip types that they do not know (section 2).
                continue
            size = _SIZES[kind] * values
            if size > len(inline):
                start = struct.unpack(self._order + place, inline)[0]
                inline = self._content[start : start + size]
            if len(inline) < size:
                if tag in _OF_PIXELS:
                    raise CorruptImage(f"TIFF tag {tag}")
                continue
            fields[tag] = Field(kind, values, inline[:size])
        return fields, self._unpack(place, at)

    def _unpack(self, form: str, at: int) -> int:
        value: int = struct.unpack_from(self._order + form, self._content, at)[0]
        return value
