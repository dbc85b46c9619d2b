"""Chunks of a stream that may fail in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


def chunks(stream: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield lists of `size` items, the last one shorter.

    If the stream raises an error, the items before it are yielded first: what a source has listed before it
    failed is not lost.
    """
    chunk: list[_Item] = []
    try:
        for item in stream:
            chunk.append(item)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
