"""The opener of `http:` URLs: every request is checked against the roots before it is sent."""

from __future__ import annotations

import os
from functools import cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohttp
from fsspec.implementations.http import HTTPFileSystem
from yarl import URL

from db.jobs.problems import OutsideRoots
from worker.files.remote import FRESH, REDIRECTS, TIMEOUT_SECONDS, RemoteOpener
from worker.files.roots import Roots


class HttpOpener(RemoteOpener):
    """Access to the files of web servers; a folder is a page of links."""

    def connect(self, url: str, roots: Roots) -> HTTPFileSystem:
        """Return this process's client for these roots, which threads share."""
        return _client(os.getpid(), roots)

    def disconnect(self) -> None:
        """Forget this process's clients."""
        _client.cache_clear()

    def options(self, size: int) -> dict[str, Any]:
        """Return a block size of 0: one request streams the file, even if the web server has no ranges."""
        return {"block_size": 0}

    def is_name(self, inner: str) -> bool:
        """Refuse links with a query or a fragment, such as those that sort a table."""
        return super().is_name(inner) and not {"?", "#"} & set(inner)

    def parts(self, inner: str) -> list[str]:
        """Return the parts of a listed name: in a link they are percent-encoded."""
        return [unquote(part) for part in super().parts(inner)]


@cache
def _client(_process: int, roots: Roots) -> HTTPFileSystem:
    """Return the client of one process: a fork must not share its parent's connections."""
    options: dict[str, Any] = {
        "timeout": aiohttp.ClientTimeout(total=None, connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
    }
    if roots.places:
        # aiohttp calls it for every request: a file, a listing, a request for the size, and each redirect.
        options["middlewares"] = (partial(_send_inside, without_users(roots)),)
    return HTTPFileSystem(client_kwargs=options, **FRESH)


async def _send_inside(
    roots: Roots, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request. Raises OutsideRoots before it is sent, and for a redirect without a target."""
    if not any(is_inside(url, roots) for url in spellings(request.url)):
        raise OutsideRoots
    answer = await send(request)
    # aiohttp looks for both headers.
    if answer.status in REDIRECTS and not (answer.headers.get("Location") or answer.headers.get("URI")):
        answer.close()
        raise OutsideRoots
    return answer


def spellings(url: URL) -> tuple[str, ...]:
    """Return a URL as it is sent, and with the host's name as people write it (RFC 5890)."""
    return str(url), str(url).replace(url.raw_host or "", url.host or "", 1)


def is_inside(url: str, roots: Roots) -> bool:
    """Whether a URL lies inside the roots."""
    try:
        roots.check_url(url)
    except OutsideRoots:
        return False
    return True


def without_users(roots: Roots) -> Roots:
    """Return the roots without user names: in a request, these are in a header and not in the URL."""
    return Roots(tuple(_without_user(place) for place in roots.places))


def _without_user(place: str) -> str:
    parts = urlsplit(place)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


OPENER = HttpOpener()
