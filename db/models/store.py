"""The files of a model: placed in a folder whole, and checked whenever they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

from db.atomic import needs_room, remove_partials, write_whole
from db.errors import PneumoscreenError
from db.models.card import ModelCard, ModelInvalid, check_model_id, parse_card

WEIGHTS_FILE = "model.safetensors"
#: The statistics that tell a picture's familiarity, if the card names them.
STATISTICS_FILE = "familiarity.safetensors"
CARD_FILE = "model.json"

#: Largest `model.safetensors`, in bytes: more than twice the largest of the four backbones, ResNet-50 with
#: its head, in single precision (103 million bytes).
_WEIGHTS_BYTES = 256 << 20
#: Largest `familiarity.safetensors`, in bytes. ResNet-50's have less than one million.
_STATISTICS_BYTES = 16 << 20
#: Largest `model.json`, and the largest header of safetensors, in bytes. ResNet-50 has 3 and 33 kB.
_TEXT_BYTES = 1 << 20
#: Number formats of weights: single and half precision, and the counters of batch norm.
_FORMATS = frozenset({"F32", "F16", "I64"})


class ModelMissing(PneumoscreenError):
    """The model's folder lacks a file that `model.json` names, or that itself. Import the model again."""

    code = "model-missing"


class ModelDigestMismatch(PneumoscreenError):
    """A file of the model is not the one that was registered. Do not use it; import the model again."""

    code = "model-digest-mismatch"


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_card(folder: Path) -> ModelCard:
    """Read `model.json`.

    Raises ModelMissing if a file is not there, ModelInvalid if the card is wrong or the model's id is not
    that of its weights, or of its weights and its tuning.
    """
    if not os.path.lexists(folder / WEIGHTS_FILE):
        raise ModelMissing
    card = parse_card(_read(folder, CARD_FILE, _TEXT_BYTES))
    check_model_id(card)
    return card


def read_checked_weights(folder: Path, digest: str) -> bytes:
    """Return the bytes of `model.safetensors` after a check that they are safetensors, with this digest.

    The file is read once: the bytes that are checked are the bytes that are used.
    Raises ModelMissing, ModelDigestMismatch, ModelInvalid.
    """
    return _read_checked(folder, WEIGHTS_FILE, _WEIGHTS_BYTES, digest)


def read_checked_statistics(folder: Path, card: ModelCard) -> bytes | None:
    """Return the bytes of `familiarity.safetensors` after the same check, None if the card names none.

    Raises ModelMissing, ModelDigestMismatch, ModelInvalid.
    """
    if card.familiarity is None:
        return None
    return _read_checked(folder, STATISTICS_FILE, _STATISTICS_BYTES, card.familiarity.digest)


def _read_checked(folder: Path, name: str, most: int, digest: str) -> bytes:
    content = _read(folder, name, most)
    if digest_of(content) != digest:
        raise ModelDigestMismatch(name)
    _check_header(content, name)
    return content


def _read(folder: Path, name: str, most: int) -> bytes:
    """Return the bytes of a regular file. Neither the file nor its folder may be a link.

    Raises ModelMissing, ModelInvalid.
    """
    try:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # Non-blocking: the open of a pipe would wait for a writer.
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
        finally:
            os.close(inside)
    except FileNotFoundError:
        raise ModelMissing from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise ModelInvalid(f"{name} is a link or not a regular file") from None
        raise
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ModelInvalid(f"{name} is a link or not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ModelInvalid(f"{name} is too large")
    return content


def _check_header(content: bytes, name: str) -> None:
    """Raise ModelInvalid if the header is not that of a model, before a library reads the file.

    Safetensors begin with eight bytes, the length of a JSON object that names the tensors and their number
    formats. This refuses a pickle under the file's name.
    """
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(_TEXT_BYTES, len(content) - 8) or content[8:9] != b"{":
        raise ModelInvalid(f"{name} is not safetensors")
    try:
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        formats = {tensor["dtype"] for tensor in header.values()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise ModelInvalid(f"{name} is not safetensors") from None
    if not formats <= _FORMATS:
        raise ModelInvalid(f"{name} has other number formats than {', '.join(sorted(_FORMATS))}")


def parts_of(card: ModelCard, weights: bytes, statistics: bytes | None) -> list[tuple[str, bytes]]:
    """Return the files of a model by name. The card is last: a folder with a card is complete."""
    more = [] if statistics is None else [(STATISTICS_FILE, statistics)]
    return [(WEIGHTS_FILE, weights), *more, (CARD_FILE, card.as_file())]


def place_model(folder: Path, card: ModelCard, weights: bytes, statistics: bytes | None = None) -> list[str]:
    """Write those files of a model that differ from the registered ones, each whole; return their names.

    Without `statistics` their file stays as it is.
    A worker that reads a file at the same time gets the old one or the new one. Raises DiskFull.
    """
    with needs_room():
        if folder.is_symlink() or folder.is_file():
            folder.unlink()  # nothing is written to where a link leads
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_partials(folder)  # another import of this model waits for the row
        placed = []
        try:
            for name, content in parts_of(card, weights, statistics):
                if not _holds(folder / name, content):
                    with write_whole(folder / name) as file:
                        file.write(content)
                    placed.append(name)
        except OSError:
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    return placed


def _holds(path: Path, content: bytes) -> bool:
    """Tell whether a path is a regular file of this content, and not a link."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content
