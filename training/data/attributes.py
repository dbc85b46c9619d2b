"""Attributes of an image from its file's header, for the subgroups of a report."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from worker.files.dicom_header import MAGIC, PREAMBLE, read_elements

#: Bands of the acquired size, by their upper limits in megapixels.
_SIZES = ((1.0, "under 1 megapixel"), (2.0, "1 to 2 megapixels"), (float("inf"), "over 2 megapixels"))

#: Bands of age, by their upper limits in years; simplified from ICH E11, section 2.5 (paediatric trials).
_AGES = ((2, "under 2 years"), (12, "2 to 11 years"), (18, "12 to 17 years"), (65, "18 to 64 years"))

#: The formats that the worker decodes. Pillow knows more, and an unchecked file may be malicious.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")

#: The name of the patient's group among the attributes. Its value, Patient ID, is kept in memory alone.
GROUP = "group"


def read_attributes(content: bytes) -> dict[str, str]:
    """Return size and, for DICOM, sex, age band, manufacturer and the patient's group, as far as known.

    Patient's Sex (0010,0040), Patient's Age (0010,1010), Manufacturer (0008,0070), Patient ID (0010,0020).
    The result is empty if the header cannot be read.
    """
    try:
        if content[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC:
            return _dicom(content)
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            return {"size": _size(*image.size)}
    except Exception:
        return {}


def _dicom(content: bytes) -> dict[str, str]:
    wanted = ("PatientSex", "PatientAge", "Manufacturer", "PatientID", "Rows", "Columns")
    header = read_elements(BytesIO(content), wanted)
    found = {
        "size": _size(int(header.Columns), int(header.Rows)),
        "sex": {"F": "female", "M": "male", "O": "other"}.get(str(header.get("PatientSex", "")), ""),
        "age": _age(str(header.get("PatientAge", ""))),
        "manufacturer": str(header.get("Manufacturer", "")).strip(),
        GROUP: str(header.get("PatientID", "")).strip(),
    }
    return {name: value for name, value in found.items() if value}


def _size(width: int, height: int) -> str:
    return next(name for limit, name in _SIZES if width * height / 1e6 < limit)


def _age(value: str) -> str:
    """Return the band of an Age String, as in `018M` (PS3.5 section 6.2)."""
    if len(value) != 4 or not value[:3].isdigit() or value[3] not in "DWMY":
        return ""
    years = int(value[:3]) / {"D": 365, "W": 52, "M": 12, "Y": 1}[value[3]]
    return next((name for limit, name in _AGES if years < limit), "65 years and over")
