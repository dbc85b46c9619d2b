"""The cautions that a prediction may carry: why it needs care."""

from __future__ import annotations

import inspect
from typing import ClassVar


class Caution:
    """A prediction needs care."""

    code: ClassVar[str] = "caution"

    @classmethod
    def meaning(cls) -> str:
        """Return the first paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


class UnfamiliarPicture(Caution):
    """The picture is less like the model's training pictures than 99% of pictures of the same hospital.

    The probability says nothing then. Look at the picture: it may be no frontal chest film, or come from a
    hospital whose films look different.
    """

    code = "unfamiliar"


class OutsideIntendedUse(Caution):
    """The header names an age, a view or a modality that the model is not meant for: see `models show`."""

    code = "outside-intended-use"


def every_caution() -> dict[str, type[Caution]]:
    """Return every caution by its code."""
    return {caution.code: caution for caution in Caution.__subclasses__()}
