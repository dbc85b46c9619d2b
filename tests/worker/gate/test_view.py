# ruff: noqa: RUF001  (letters of other alphabets that look like Latin ones)
"""Which views a header names, anywhere in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom import Sequence

Refused = Callable[..., str | None]
Code = Callable[..., Any]

#: Of pydicom, for values that are not as the standard has them, but as sites write them.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS", "ignore:The value length")


def words(listed: str) -> list[str]:
    return [" ".join(word.split()) for word in listed.split(";") if word.strip()]


LATERAL_POSITIONS = words("""
    LL; RL; LAT; lateral; L-LAT; RLAT; LLAT; LEFT LATERAL; LT LAT; LATERALE; LATERAL R; XTABLE LATERAL;
    CROSS TABLE LATERAL; SWIMMERS; PROFIL; SEITLICH; PERFIL; BOCZNE; БОКОВАЯ; 侧位; 側面; 측면;
    L LATERAL ERECT
""")
OBLIQUE_POSITIONS = words("""
    LAO; RAO; LPO; RPO; RLO; LLO; OBL; OBLIQUE; AP OBLIQUE; PA OBL; OBLIQUE LATERAL; L-OBL; OBLICUA; SCHRÄG;
    КОСАЯ; 斜位; 사위; SKOŚNE
""")
FRONTAL_POSITIONS = words("""
    PA; AP; LLD; RLD; AP LLD; PA RLD; LAT DECUB; LEFT LATERAL DECUBITUS; LATERALITY; AP AXIAL; AP LORDOTIC;
    PA/LAT; BILATERAL; FRONTAL; PORTABLE; SUPINE; UNKNOWN
""")

#: Texts of real series, protocols and menus that describe one lateral or oblique exposure.
LATERAL_TEXTS = words("""
    Chest LAT; CHEST LATERAL; CHEST LATERAL; W034 Thorax lat.; Thorax lateral; L-Thorax LAT; CHEST_LAT;
    Chest, Left Lateral; LAT CHEST; XR CHEST LAT 1V; Thorax seitlich; Thorax seitl.; Lunge seitl. stehend;
    Thorax profil; Poumons de profil; Tórax lateral; Tórax perfil; Torace LL; TORACE L.L.;
    Torace latero-laterale; X-Thorax dwars; Klatka piersiowa boczne; Klatka piersiowa bok-boczna;
    RTG plic bocni; ОГК боковая; 胸部侧位; 胸部DR(侧); 胸部 側面; 흉부 측면; Akciğer yan grafi; Ngực nghiêng;
    Chest Lat R; CHEST/LATERAL; CHESTLAT; PEDS CHEST LAT
""")
OBLIQUE_TEXTS = words("""
    CHEST OBL; Chest RAO; Chest oblique left; Thorax schräg; Thorax oblique gauche; Tórax oblicua; 胸部斜位;
    LPO CHEST
""")

#: Texts of real frontal films, of studies with both views, and words that only look like a view.
FRONTAL_TEXTS = words("""
    CHEST; CHEST PA; CHEST AP; CHEST P.A.; CHEST AP PORT; PORT CHEST; XR CHEST 1 VW, FRONTAL;
    XR CHEST 1 VIEW AP; XR PORT CHEST 1V; CHEST PORT 1 VIEW (RAD)-CS; XR CHEST 2 VIEWS;
    XR CHEST PA AND LATERAL; XR CHEST PA/LATERAL; XR CHEST 2 VIEWS, FRONTAL AND LATERAL;
    XR Chest 2 Views PA + Lat Stnd Protocol; CHEST PA & LATERAL (RAD)-CS;
    DX CHEST AP OR PA AND LATERAL 2 VIEWS; XR CHEST PA LATERAL W BOTH OBLIQUE PROJECTIONS;
    CHEST ROUTINE PA AP AND LATERAL; XR CHEST AP PA LATERAL AND APICAL LORDOTIC 3 VW; CHEST, PA AND LAT;
    Chest 2V LAT; CHEST LATERAL 2 VW; XR CHEST LINE PLACEMENT PORTABLE; XR CHEST MORNING ROUTINE PORTABLE;
    CHEST INSPIR/EXPIR; CHEST PA/LT; CHEST LEFT LATERAL DECUBITUS; CHEST LAT DECUB; Thorax Linksseitenlage;
    RX TORACE DECUBITO LATERALE; Tórax decúbito lateral; 胸部 側臥位; 胸部侧卧位; W033 Thorax p.a.;
    Thorax a.p. liegend; Thorax 2 Ebenen lat.; Thorax in zwei Ebenen seitlich; Thorax pa/seitl.; Thorax face;
    Thorax face et profil; Thorax 2 incidences profil; Tórax PA y lateral; Tórax frente e perfil;
    Tórax AP unilateral; Torace AP+LL; Torace 2 proiezioni laterale; Klatka piersiowa PA i boczne;
    ОГК прямая и боковая; ОГК в 2-х проекциях; 胸部正位; 胸部正侧位; 胸部 正面・側面; 흉부 정면; 흉부 PA;
    Akciğer PA; BILATERAL LUNGS; CHEST BILAT; UNILATERAL LUNG; COLLATERAL; LATERALITY R; FLAT PANEL CHEST;
    PLATE 35x43; CHEST LATE; CHEST LATEX; Chest ventilated; Standard profile; CHEST PROFILE 1;
    EXTRA OBLIGATORY; MEDICAL; GENERAL; C.H.L. LATIF; CHEST,GENERAL; Chest Single View Adult Portable;
    SKELETAL; BABY CHEST; THORAX QUER; Pulmones; Rx Tx; 5; ---
""")
TEXTS = ("BodyPartExamined", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")


@pytest.mark.parametrize("position", LATERAL_POSITIONS)
def test_view_position_tells_a_lateral_view(refused: Refused, position: str) -> None:
    assert refused(ViewPosition=position) == "lateral-view"


@pytest.mark.parametrize("position", OBLIQUE_POSITIONS)
def test_view_position_tells_an_oblique_view(refused: Refused, position: str) -> None:
    assert refused(ViewPosition=position) == "oblique-view"


@pytest.mark.parametrize("position", FRONTAL_POSITIONS)
def test_other_view_positions_pass(refused: Refused, position: str) -> None:
    assert refused(ViewPosition=position) is None


@pytest.mark.parametrize("text", LATERAL_TEXTS)
def test_a_text_tells_a_lateral_view_whatever_view_position_says(refused: Refused, text: str) -> None:
    for keyword in TEXTS:
        assert refused(**{keyword: text}) == "lateral-view", keyword
        assert refused(ViewPosition="PA", **{keyword: text}) == "lateral-view", keyword


@pytest.mark.parametrize("text", OBLIQUE_TEXTS)
def test_a_text_tells_an_oblique_view(refused: Refused, text: str) -> None:
    for keyword in TEXTS:
        assert refused(**{keyword: text}) == "oblique-view", keyword


def test_there_are_enough_texts_of_frontal_films() -> None:
    assert len(FRONTAL_TEXTS) > 40


@pytest.mark.parametrize("text", FRONTAL_TEXTS)
def test_a_text_of_a_frontal_film_or_of_several_views_passes(refused: Refused, text: str) -> None:
    for keyword in TEXTS[1:]:
        assert refused(BodyPartExamined="CHEST", **{keyword: text}) is None, keyword


@pytest.mark.parametrize(
    "keyword",
    [
        "StudyDescription",
        "PerformedProcedureStepDescription",
        "RequestedProcedureDescription",
        "PatientComments",
    ],
)
def test_a_description_of_the_study_says_nothing_of_the_view(refused: Refused, keyword: str) -> None:
    assert refused(**{keyword: "CHEST LATERAL"}) is None


@pytest.mark.parametrize(
    ("value", "meaning", "problem"),
    [
        ("399067008", "lateral", "lateral-view"),
        ("399173006", "ohne Namen", "lateral-view"),
        ("R-10232", "right lateral", "lateral-view"),
        ("30730003", "Sagittal", "lateral-view"),
        ("99LOCAL", "Left Lateral", "lateral-view"),
        ("399182000", "oblique", "oblique-view"),
        ("399135007", "left anterior oblique", "oblique-view"),
        ("R-40985", "right anterior oblique", "oblique-view"),
        ("399312000", "antero-posterior oblique", "oblique-view"),
        ("99LOCAL", "AP oblique", "oblique-view"),
        ("99LOCAL", "Schräg", "oblique-view"),
        ("272479007", "postero-anterior", None),
        ("399348003", "antero-posterior", None),
        ("399033003", "frontal", None),
        ("399061009", "axial", None),
        ("R-10206", "AP", None),
        ("99LOCAL", "lateral decubitus", None),
        ("", "", None),
    ],
)
def test_a_view_code_tells_the_view(
    refused: Refused, code: Code, value: str, meaning: str, problem: str | None
) -> None:
    assert refused(ViewCodeSequence=code(value, meaning)) == problem


def test_a_modifier_of_the_view_code_counts(refused: Refused, code: Code) -> None:
    def modified(view: tuple[str, str], modifier: tuple[str, str]) -> Sequence:
        sequence: Sequence = code(*view)
        sequence[0].ViewModifierCodeSequence = code(*modifier)
        return sequence

    frontal, lateral = ("399348003", "antero-posterior"), ("399067008", "lateral")
    assert refused(ViewCodeSequence=modified(frontal, ("399182000", "oblique"))) == "oblique-view"
    assert refused(ViewCodeSequence=modified(lateral, ("111069", "Crosstable"))) == "lateral-view"
    assert refused(ViewCodeSequence=modified(lateral, ("102538003", "lateral decubitus"))) is None
    assert refused(ViewCodeSequence=modified(frontal, ("399162004", "caudad"))) is None


@pytest.mark.parametrize(
    ("directions", "problem"),
    [
        (["A", "F"], "lateral-view"),
        (["P", "F"], "lateral-view"),
        (["A", "H"], "lateral-view"),
        (["AF", "FP"], "lateral-view"),
        (["F", "A"], "lateral-view"),
        (["AL", "F"], "oblique-view"),
        (["LA", "F"], "oblique-view"),
        (["RP", "F"], "oblique-view"),
        (["L", "F"], None),
        (["R", "F"], None),
        (["LF", "FR"], None),
        (["F", "L"], None),
        (["P", "A"], None),
        (["A", "P"], None),
        (["A", "L"], None),
        (["F", "H"], None),
        (["PA", ""], None),
        (["A", "X"], None),
        ("A", None),
        ("", None),
        (None, None),
    ],
    ids=str,
)
def test_patient_orientation_tells_the_view(
    refused: Refused, directions: list[str] | None, problem: str | None
) -> None:
    elements = {} if directions is None else {"PatientOrientation": directions}
    assert refused(**elements) == problem
