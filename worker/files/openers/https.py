"""The opener of `https:` URLs, which is the one of `http:` URLs: the client tells them apart."""

from worker.files.openers.http import OPENER

__all__ = ["OPENER"]
