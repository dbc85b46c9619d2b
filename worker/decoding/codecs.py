"""The DICOM transfer syntaxes that can be decoded here."""

from __future__ import annotations


def available_decoders() -> dict[str, bool]:
    """Return the still-image transfer syntaxes that radiographs come in, by name, and whether they decode."""
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    syntaxes = (
        uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian, uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit,
        uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless,
        uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K,
    )  # fmt: skip
    return {syntax.name: get_decoder(syntax).is_available for syntax in syntaxes}
