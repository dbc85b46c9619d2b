"""The words in the texts of a DICOM header."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING

from db.jobs.problems import CorruptImage
from worker.imaging.elements import element

if TYPE_CHECKING:
    from pydicom import Dataset

#: Character sets that sites write without saying so in Specific Character Set (0008,0005), or in a code
#: string (VR CS), which has letters of ASCII alone (PS3.5 6.2): Chinese, Japanese, Korean, Russian, Greek,
#: Turkish and Polish. UTF-8 is tried before them.
_CHARACTER_SETS = (
    "gb18030", "big5", "shift_jis", "iso2022_jp", "euc_jp", "euc_kr", "cp1251", "iso8859_5", "koi8_r",
    "cp1253", "cp1254", "cp1250", "iso8859_2",
)  # fmt: skip

#: The change to Chinese or Korean letters in ISO 2022, PS3.3 C.12.1.1.2. Python knows them without it.
_ESCAPE = re.compile(rb"\x1b\$\)[AC]")

#: Letters whose stroke is no accent.
_BASE_LETTERS = str.maketrans("ŁØĐŒÆ", "LODOA")

#: The first character of Chinese, Japanese and Korean, which need no spaces between words.
_FIRST_IDEOGRAPH = "\u2e80"

#: The most values of an element, and letters of a value, that are looked at. A description has one value of
#: 64 letters (VR LO, PS3.5 6.2); a hostile file has millions.
_MOST_VALUES, _MOST_LETTERS = 16, 256

_LETTER = r"[^\W\d_]"
#: What a program writes for a letter that its character set does not have.
_GAP = re.compile(r"[?\ufffd]")
_LOST = re.compile(rf"(?<!{_LETTER}){_LETTER}+(?:[?\ufffd]{_LETTER}+)+")


def plain(text: str) -> str:
    """Return a text in upper case and without accents: TORAX for Tórax."""
    letters = unicodedata.normalize("NFKD", text.upper())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", bare).translate(_BASE_LETTERS)


def texts_of(header: Dataset, *keywords: str) -> list[str]:
    """Return the values of elements as plain texts. An element that cannot be read says nothing.

    A value in an unknown character set is returned in each set that its bytes may be written in, a line each:
    a word of one line counts as much as one of another.
    """
    found: list[str] = []
    for keyword in keywords:
        try:
            value = element(header, keyword)
        except CorruptImage:
            continue
        values = [] if value is None else [value] if isinstance(value, str) else _values(value)
        found += [plain("\n".join(_readings(one[:_MOST_LETTERS]))) for one in values[:_MOST_VALUES]]
    return [text for text in found if text.strip()]


def _values(value: object) -> list[str]:
    """Return several values of an element as texts, one value that is not text as one text."""
    try:
        return [str(one) for one in value]  # type: ignore[attr-defined]
    except TypeError:
        return [str(value)]


def _readings(value: str) -> list[str]:
    """Return what a value may say: pydicom reads bytes of an unknown character set as Latin-1."""
    if value.isascii() and "\x1b" not in value:
        return [value]
    try:
        content = _ESCAPE.sub(b"", value.encode("latin-1"))
    except UnicodeEncodeError:  # it was read in its own character set
        return [value]
    read = [value]
    if not value.isascii():
        with suppress(UnicodeDecodeError):
            return [content.decode("utf-8")]
    for name in _CHARACTER_SETS:
        try:
            read.append(content.decode(name))
        except UnicodeDecodeError:
            continue
    return read


class Vocabulary:
    """A set of words and phrases, separated by commas.

    A word matches as a whole: HAND is not in HANDLED. `*` at its end stands for any ending, at its beginning
    for any beginning. The words of a phrase may stand apart, with spaces, hyphens, dots and the like between
    them, or together. A Chinese, Japanese or Korean word of several characters matches anywhere.
    """

    def __init__(self, words: str) -> None:
        phrases = [plain(phrase.strip()) for phrase in words.split(",") if phrase.strip()]
        free = [phrase for phrase in phrases if phrase.startswith("*") or _is_ideographic(phrase)]
        bound = [phrase for phrase in phrases if phrase not in free]
        branches = [_pattern(phrase) for phrase in free]
        if bound:
            # One look behind for all of them: inside a word, none is tried.
            branches.append(rf"(?<!{_LETTER})(?:{'|'.join(map(_pattern, bound))})")
        self._pattern = re.compile("|".join(branches))
        self._words = "\n".join(phrase.strip("*") for phrase in phrases)

    def names(self, text: str) -> bool:
        """Tell whether one of the words is in a plain text, even with letters that became question marks."""
        if self._pattern.search(text):
            return True
        # T?RAX was TÓRAX before a program wrote it in ASCII.
        return any(re.search(_with_gaps(lost), self._words, re.MULTILINE) for lost in _LOST.findall(text))


def _with_gaps(lost: str) -> str:
    """Return the pattern of a line that is a word whose lost letters were one or two."""
    return f"^{f'{_LETTER}{{1,2}}'.join(_GAP.split(lost))}$"


def _is_ideographic(phrase: str) -> bool:
    return len(phrase) > 1 and any(letter >= _FIRST_IDEOGRAPH for letter in phrase)


def _pattern(phrase: str) -> str:
    """Return the regular expression of a word or phrase, but for what must not be before it."""
    core = r"[\W_]*".join(map(re.escape, phrase.strip("*").split()))
    if _is_ideographic(phrase):
        return core
    return core if phrase.endswith("*") else rf"{core}(?!{_LETTER})"
