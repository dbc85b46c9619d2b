"""Which images are radiographs by their Modality and SOP Class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom import uid

Refused = Callable[..., str | None]
Code = Callable[..., Any]

#: Of pydicom, for values that are not as the standard has them, but as sites write them.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS", "ignore:The value length")


@pytest.mark.parametrize(
    "modality",
    ["CR", "DX", "RG", "DR", "XR", "cr ", ["CR", "DX"], ["DX", "SR"], "CRDX", "CR,DX", "CR/DX", "", None],
)
def test_radiographs_pass_as_the_field_writes_them(refused: Refused, modality: object) -> None:
    assert refused(Modality=modality) is None


@pytest.mark.parametrize(
    "modality", ["CT", "MR", "MG", "US", "mr ", "RF", "XA", "PT", "IO", ["CT", "PT"], "CRX"]
)
def test_other_modalities_are_no_radiographs(refused: Refused, modality: object) -> None:
    assert refused(Modality=modality, BodyPartExamined="CHEST") == "not-radiograph"


CAPTURES = [
    {"Modality": "OT"},
    {"Modality": "SC"},
    {"Modality": ["OT", "SC"]},
    {"Modality": None, "SOPClassUID": uid.SecondaryCaptureImageStorage},
    {"Modality": "", "SOPClassUID": uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage},
]


@pytest.mark.parametrize("capture", CAPTURES, ids=str)
@pytest.mark.parametrize(
    "elements",
    [
        {"BodyPartExamined": "CHEST"},
        {"StudyDescription": "XR CHEST 1 VW, FRONTAL"},
        {"SeriesDescription": "Thorax p.a."},
        {"ProtocolName": "TÓRAX PA"},
        {"RequestedProcedureDescription": "Klatka piersiowa"},
        {"PerformedProcedureStepDescription": "Rx torace"},
    ],
    ids=str,
)
def test_a_capture_that_names_the_chest_passes(
    refused: Refused, capture: dict[str, Any], elements: dict[str, str]
) -> None:
    assert refused(**capture, **elements) is None


@pytest.mark.parametrize("capture", CAPTURES, ids=str)
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"BodyPartExamined": ""},
        {"BodyPartExamined": "UNKNOWN", "StudyDescription": "Rochester General Hospital"},
        {"StudyDescription": "Neuro^Crane", "SeriesDescription": "Axial_T1"},
        {"SeriesDescription": "Screen save"},
        {"SeriesDescription": "T-SPINE THORACIC AP"},
    ],
    ids=str,
)
def test_a_capture_that_does_not_name_the_chest_is_no_radiograph(
    refused: Refused, capture: dict[str, Any], elements: dict[str, str]
) -> None:
    assert refused(**capture, **elements) == "not-radiograph"
    # A site may say that it has nothing else.
    assert refused(chest_only=True, **capture, **elements) is None


def test_a_capture_may_name_the_chest_by_a_code(refused: Refused, code: Code) -> None:
    assert refused(Modality="OT", AnatomicRegionSequence=code("51185008", "Brustkorb")) is None


@pytest.mark.parametrize("capture", CAPTURES, ids=str)
def test_a_cross_section_is_no_radiograph_whatever_it_names(
    refused: Refused, capture: dict[str, Any]
) -> None:
    elements = {"BodyPartExamined": "CHEST", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    assert refused(**capture, **elements) == "not-radiograph"
    assert refused(chest_only=True, **capture, **elements) == "not-radiograph"


@pytest.mark.parametrize("modality", ["DX", None])
@pytest.mark.parametrize(
    ("sop_class", "code"),
    [
        (uid.ComputedRadiographyImageStorage, None),
        (uid.DigitalXRayImageStorageForPresentation, None),
        ("1.2.276.0.7230010.3.1.4", None),
        ("1.2.840.113619.4.27", None),
        ("", None),
        (None, None),
        (uid.DigitalXRayImageStorageForProcessing, "for-processing"),
        (uid.DigitalMammographyXRayImageStorageForPresentation, "not-chest"),
        (uid.DigitalMammographyXRayImageStorageForProcessing, "not-chest"),
        (uid.DigitalIntraOralXRayImageStorageForPresentation, "not-chest"),
        (uid.DigitalIntraOralXRayImageStorageForProcessing, "not-chest"),
        (uid.CTImageStorage, "not-radiograph"),
        (uid.EnhancedCTImageStorage, "not-radiograph"),
        (uid.MRImageStorage, "not-radiograph"),
        (uid.UltrasoundImageStorage, "not-radiograph"),
        (uid.XRayAngiographicImageStorage, "not-radiograph"),
        (uid.XRayRadiofluoroscopicImageStorage, "not-radiograph"),
        (uid.PositronEmissionTomographyImageStorage, "not-radiograph"),
        (uid.BreastTomosynthesisImageStorage, "not-radiograph"),
        (uid.VLPhotographicImageStorage, "not-radiograph"),
        (uid.RTImageStorage, "not-radiograph"),
    ],
)
def test_the_sop_class_counts_and_one_that_is_missing_or_private_says_nothing(
    refused: Refused, modality: str | None, sop_class: str | None, code: str | None
) -> None:
    assert refused(Modality=modality, SOPClassUID=sop_class) == code


def test_a_secondary_capture_of_a_radiograph_passes(refused: Refused) -> None:
    assert refused(Modality="CR", SOPClassUID=uid.SecondaryCaptureImageStorage) is None
