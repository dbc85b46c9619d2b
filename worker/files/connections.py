"""Connections by HTTP and to S3 that ask no server but those that the roots name."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import fsspec
from yarl import URL

from db.jobs.problems import OutsideRoots
from worker.files.roots import Roots

#: A listing must not be that of the night before.
_FRESH: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def connect_http(roots: Roots | None, *, silence: float) -> fsspec.AbstractFileSystem:
    """Return a connection that threads may share; `silence` are the seconds after which nobody has answered.

    Every request is checked before it is sent, whatever led to it: a redirect, a listing, a question.
    """
    patience = aiohttp.ClientTimeout(total=None, connect=silence, sock_read=silence)
    client: dict[str, Any] = {"timeout": patience}
    if roots is not None and roots.places:
        client["middlewares"] = (partial(_inside, _without_users(roots)),)
    return fsspec.filesystem("http", client_kwargs=client, **_FRESH)


def connect_s3(*, silence: float) -> fsspec.AbstractFileSystem:
    """Return a connection to S3 that threads may share.

    A bucket in another region is found, at the same provider; a redirect to anywhere else is not followed.
    """
    from aiobotocore.httpsession import AIOHTTPSession

    class Session(AIOHTTPSession):  # type: ignore[misc]
        """aiobotocore follows redirects to any host, and botocore, which follows none, asks for ever."""

        async def _get_session(self, proxy_url: str | None) -> _Straight:
            return _Straight(await super()._get_session(proxy_url))

        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            if answer.status_code in _REDIRECTS and "x-amz-bucket-region" not in answer.headers:
                answer.raw.close()
                raise PermissionError
            return answer

    how = {"connect_timeout": silence, "read_timeout": silence, "http_session_cls": Session}
    return fsspec.filesystem("s3", config_kwargs=how, **_FRESH)


class _Straight:
    """An HTTP client that gives a redirect back as the answer that it is."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **how: Any) -> aiohttp.ClientResponse:
        """Send one request, and no other."""
        return await self._session.request(method, allow_redirects=False, **how)


async def _inside(
    roots: Roots, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request. Raises OutsideRoots before it is sent, and for a redirect that names no place."""
    if not any(_is_inside(url, roots) for url in _spellings(request.url)):
        raise OutsideRoots
    answer = await send(request)
    # Both as aiohttp looks for them.
    if answer.status in _REDIRECTS and not (answer.headers.get("Location") or answer.headers.get("URI")):
        answer.close()
        raise OutsideRoots
    return answer


def _spellings(url: URL) -> tuple[str, ...]:
    """Return a URL as it is sent, and with the name of its host as people write it (RFC 5890)."""
    return str(url), str(url).replace(url.raw_host or "", url.host or "", 1)


def _is_inside(url: str, roots: Roots) -> bool:
    try:
        roots.check_url(url)
    except OutsideRoots:
        return False
    return True


def _without_users(roots: Roots) -> Roots:
    """Return roots as a web server sees them: a user's name goes into a header and not into the address."""
    return Roots(tuple(_without_user(place) for place in roots.places))


def _without_user(place: str) -> str:
    parts = urlsplit(place)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
