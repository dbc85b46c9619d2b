"""The reading and decoding of a batch's files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from db.errors import PneumoscreenError
from db.jobs.claims import Claim, ClaimedImage
from db.jobs.problems import (
    FileChanged,
    FileUnreadable,
    FileVanished,
    ImageProblem,
    ScreeningFailed,
    SourceAway,
)
from worker.decoding.pool import DecoderPool
from worker.decoding.reader import read_bytes
from worker.files.access import is_available
from worker.files.roots import Roots
from worker.files.url import locate
from worker.imaging.picture import Picture
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: An image of a batch, with its picture or the reason why it has none.
Decoded = tuple[ClaimedImage, Picture | ImageProblem]


class BatchReader:
    """Reads and decodes the images of batches; several threads may use it at once."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._roots = Roots.read()
        self._decoders = DecoderPool(settings)

    def start(self) -> None:
        """Start the decoding processes now, so that the first batch does not wait for them."""
        self._decoders.start()

    def steps(self, claimed: Claim) -> Iterator[list[Decoded]]:
        """Yield the images of one forward pass after another. The decoders work one pass ahead.

        Raises SourceAway, DecodersUnusable.
        """
        size = self._settings.forward_images
        waiting: list[tuple[ClaimedImage, Future[Picture]]] = []
        for item in claimed.images:
            waiting.append((item, self._decoders.submit(partial(self._read, item))))
            if len(waiting) == 2 * size:
                yield self._decoded(claimed, waiting[:size])
                del waiting[:size]
        for start in range(0, len(waiting), size):
            yield self._decoded(claimed, waiting[start : start + size])

    def _decoded(
        self, claimed: Claim, waiting: Sequence[tuple[ClaimedImage, Future[Picture]]]
    ) -> list[Decoded]:
        decoded = [(item, _result(item, future)) for item, future in waiting]
        self._check_source(claimed, decoded)
        return decoded

    def _check_source(self, claimed: Claim, decoded: list[Decoded]) -> None:
        """Raise SourceAway if files cannot be read because the source of the batch is unavailable.

        If the source is available, missing files have been deleted: each fails by itself.
        """
        missing = any(isinstance(found, FileVanished | FileUnreadable) for _, found in decoded)
        place = locate(claimed.source, self._settings.path_map)
        if missing and not is_available(place, roots=self._roots):
            raise SourceAway

    def _read(self, item: ClaimedImage) -> bytes:
        """Return the bytes of the file that was ingested, and of no other file. Raises ImageProblem."""
        where = locate(item.uri, self._settings.path_map)
        content, modified = read_bytes(where, self._decoders.limits, self._roots)
        # A copy in another place has its own date.
        same_place = where == locate(item.uri, {})
        if item.size not in (None, len(content)) or (same_place and item.modified not in (None, modified)):
            raise FileChanged
        return content


def _result(item: ClaimedImage, future: Future[Picture]) -> Picture | ImageProblem:
    """Return an image's picture, or the reason why it has none. Raises DecodersUnusable."""
    try:
        picture = future.result()
    except ScreeningFailed as problem:
        _log_unforeseen(item, problem.detail)
        return problem
    except ImageProblem as problem:
        return problem
    except PneumoscreenError:
        raise
    except Exception as error:  # an unforeseen error costs this image alone; its text may contain a path
        _log_unforeseen(item, type(error).__name__)
        return ScreeningFailed()
    found = None if picture.facts is None else picture.facts.instance_uid
    if item.instance_uid not in (None, found):
        return FileChanged()
    return picture


def _log_unforeseen(item: ClaimedImage, kind: str) -> None:
    log.error("image %d: %s", item.image_id, kind, extra={"image": item.image_id, "error": kind})
