"""The opener of `s3:` URLs; credentials come from the variables and profiles of the AWS tools."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from s3fs import S3FileSystem

from worker.files.remote import FRESH, REDIRECTS, TIMEOUT_SECONDS, RemoteOpener
from worker.files.roots import Roots

#: Bytes that are requested at a time: the default of s3fs.
_LARGEST_BLOCK = 50 << 20


class S3Opener(RemoteOpener):
    """Access to the objects of S3 buckets."""

    def connect(self, url: str, roots: Roots) -> S3FileSystem:
        """Return this process's client, which threads share."""
        return _client(os.getpid())

    def disconnect(self) -> None:
        """Forget this process's client."""
        _client.cache_clear()

    def address(self, url: str, name: str) -> str:
        """Return the URL of an object: s3fs lists bucket and key."""
        return f"s3://{name}"

    def options(self, size: int) -> dict[str, Any]:
        """Return a block size: s3fs reads one block ahead, which must not exceed a short beginning."""
        return {"block_size": min(size, _LARGEST_BLOCK)}


class _Session(AIOHTTPSession):  # type: ignore[misc]
    """A session that follows no redirect.

    aiobotocore would follow one to any host. botocore follows none and repeats the request without end.
    """

    async def _get_session(self, proxy_url: str | None) -> _WithoutRedirects:
        return _WithoutRedirects(await super()._get_session(proxy_url))

    async def send(self, request: Any) -> Any:
        answer = await super().send(request)
        # A redirect that names the bucket's region is allowed: it leads to the same provider.
        if answer.status_code in REDIRECTS and "x-amz-bucket-region" not in answer.headers:
            answer.raw.close()
            raise PermissionError
        return answer


class _WithoutRedirects:
    """An HTTP client that returns a redirect as the answer."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> aiohttp.ClientResponse:
        """Send exactly one request."""
        return await self._session.request(method, allow_redirects=False, **options)


@cache
def _client(_process: int) -> S3FileSystem:
    """Return the client of one process: a fork must not share its parent's connections."""
    configuration = {
        "connect_timeout": TIMEOUT_SECONDS,
        "read_timeout": TIMEOUT_SECONDS,
        "http_session_cls": _Session,
    }
    return S3FileSystem(config_kwargs=configuration, **FRESH)


OPENER = S3Opener()
