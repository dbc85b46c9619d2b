# ruff: noqa: RUF001  (letters of other alphabets that look like Latin ones)
"""The view that a DICOM header names: lateral or oblique, anywhere in it.

Most lateral films of the field do not say so in View Position. Study and procedure descriptions are not
asked: they name all views of a study.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING

from db.jobs.problems import ImageProblem, LateralView, ObliqueView
from worker.gate.codes import LATERAL_VIEWS, OBLIQUE_VIEWS, snomed_code
from worker.gate.words import Vocabulary, texts_of
from worker.imaging.elements import items

if TYPE_CHECKING:
    from pydicom import Dataset


class View(Enum):
    """A view that is not frontal."""

    LATERAL = auto()
    OBLIQUE = auto()


#: Texts of an image or a series that may name a view and nothing about it: Body Part Examined (0018,0015),
#: Series Description (0008,103E), Protocol Name (0018,1030) and Acquisition Device Processing Description
#: (0018,1400), which computed radiography fills with the menu that the exposure was read by.
_TEXTS = ("BodyPartExamined", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")

#: Lateral. BILATERAL, UNILATERAL and LATERALITY are other words. YAN is Turkish for side, and a name.
_LATERAL_WORDS = """
    LAT, LATS, LATL, LATR, LATERAL, LATERALLY, LATERALE, LATERALES, LATERALER, LATERALEN, LATERALI,
    LATERALIS, LATERALA, LATERALT, LATERALN*, LLAT, RLAT, LTLAT, RTLAT, LLATERAL, RLATERAL, LLATERALE,
    RLATERALE, LATERO LATERAL*, LATLAT, CHESTLAT*, THORAXLAT*, TORAXLAT*, CXRLAT*, SIDE VIEW, SIDEVIEW,
    SWIMMER*, SEITLICH*, SEITL, SEIT, SEITENBILD, SEITENAUFNAHME, PROFIL, PERFIL, PROFIEL, LATERAAL, DWARS*,
    ZIJDELINGS*, BOCZN*, BOCN*, BOKOV*, БОКОВ*, БІЧН*, OLDALIRANY*, OLDALFELV*, SIVUKUVA*, SIVUPROJ*,
    SIDOBILD*, SIDEBILLED*, SIDEOPTAG*, YAN GRAFI*, AKCIGER YAN, TORAKS YAN, GOGUS YAN, AC YAN, YAN AKCIGER*,
    YAN TORAKS, NGHIENG, ΠΛΑΓΙΑ*, ΠΡΟΦΙΛ, جانبي, جانبية, 侧位, 側位, 侧面, 側面, (侧), (側), 左侧位, 측면,
    측방, 側方, ソクメン
"""
_LATERAL = Vocabulary(f"{_LATERAL_WORDS}, L L")
#: View Position (0018,5101) has the defined terms LL and RL, PS3.3 C.8.7.1.1.1; in a text RL may be anything.
_LATERAL_POSITION = Vocabulary(f"{_LATERAL_WORDS}, L L, RL")

#: Oblique: left and right, anterior and posterior, also as Spanish, French and Italian write them.
_OBLIQUE = Vocabulary("""
    OBL, OBLS, OBLIQ*, OBLIK*, OBLICU*, OBLIC, LAO, RAO, LPO, RPO, LLO, RLO, OAD, OAI, OAG, OAS, OPD, OPI,
    SCHRAG*, SCHRAEG*, FECHTERST*, BOXERST*, SCHUIN*, SKOSN*, SIKM*, КОСАЯ, КОСОЙ, КОСОЕ, КОСЫЕ, КОСЫХ,
    CHECH, 斜位, 斜面, 第一斜, 第二斜, 사위, 사면, シャイ
""")

#: Frontal. LLD and RLD are lateral decubitus: a frontal view of someone who lies on the side.
_FRONTAL = Vocabulary("""
    PA, AP, P A, A P, APPA, PAAP, FRONTAL*, FRONT, POSTERO ANTERIOR*, POSTEROANT*, ANTERO POSTERIOR*,
    ANTEROPOST*, PA/AP, FRENTE, DE FACE, FACE, DORSO VENTRAL*, VENTRO DORSAL*, DV, VD, D V, V D, SAGITTAL*,
    VOOR ACHTER*, ACHTER VOOR*, PRZOD*, TYLNO PRZEDNI*, PREDOZADNI*, ZADOPREDNI*, ПРЯМ*, ФРОНТ*, ЗАДНЕ*,
    ПЕРЕДН*, ARKA ON, ON ARKA, THANG, 正位, 正面, 正侧, 正側, (正), 后前, 後前, 前后, 前後, 정면, 후전, 전후,
    ショウメン
""")
_DECUBITUS = Vocabulary("""
    LLD, RLD, DECUB*, LATDECUB*, SEITENLAGE, LINKSSEITENLAGE, RECHTSSEITENLAGE, ZIJLIGGING, ЛАТЕРОПОЗ*,
    LATEROPOZ*, 卧位, 侧卧, 側臥, 臥位, 側卧, 와위
""")
#: A lateral view of someone who lies on the back, with a horizontal beam.
_CROSS_TABLE = re.compile(r"X[\W_]*TABLE|CROSS[\W_]*TABLE|SHOOT[\W_]*THR|HORIZONTAL[\W_]*BEAM")

#: A number of views above one, in the languages of the field: 2 VIEWS, 2V, 4+ VW, 2 EBENEN, 2 INCIDENCES.
_SEVERAL = re.compile(
    r"(?<![^\W_])(?:[2-9]|II|III|TWO|BOTH|THREE|ZWEI|BEIDE\w*|DEUX|DOS|DUE|DUAS|IKI|DWIE|ДВЕ|ДВУХ)[\W_]*"
    r"(?:V|VW|VWS|VS|VIEWS?|PROJ\w*|EB|EBENEN|INCID\w*|PROY\w*|POSIC\w*|PROIEZ\w*|RICHT\w*|RZUT\w*|YON\w*"
    r"|PLANES?|ПРОЕК\w*)(?![^\W\d_])"
)

#: The letters of Patient Orientation (0020,0020), PS3.3 C.7.6.1.1.1.
_DIRECTION = re.compile(r"[APLRHF]{1,3}")


def view_problem(header: Dataset) -> ImageProblem | None:
    """Return why an image is not a frontal view if any element says so: lateral comes before oblique."""
    views = set(_views(header))
    if View.LATERAL in views:
        return LateralView()
    return ObliqueView() if View.OBLIQUE in views else None


def _views(header: Dataset) -> Iterator[View | None]:
    """Yield what each element says of the view, None if it says nothing or frontal."""
    for position in texts_of(header, "ViewPosition"):
        yield _view_in(position, _LATERAL_POSITION, one_view=True)
    for code in items(header, "ViewCodeSequence"):
        yield _coded_view(code)
    yield _turned_view(texts_of(header, "PatientOrientation"))
    for described in texts_of(header, *_TEXTS):
        yield _view_in(described, _LATERAL, one_view=False)


def _view_in(words: str, lateral: Vocabulary, *, one_view: bool) -> View | None:
    """Return the view that a plain text names, None for a frontal one, for several and for none.

    `one_view`: an element names a single view, as AP OBLIQUE; a description that says AP, OBLIQUE names two.
    """
    if _DECUBITUS.names(words) and not _CROSS_TABLE.search(words):
        return None
    is_lateral, is_oblique = lateral.names(words), _OBLIQUE.names(words)
    if not is_lateral and not is_oblique:
        return None
    names_frontal = _FRONTAL.names(words) or bool(_SEVERAL.search(words))
    if names_frontal and not (one_view and is_oblique and not is_lateral):
        return None
    return View.OBLIQUE if is_oblique else View.LATERAL


def _coded_view(item: Dataset) -> View | None:
    """Return the view of a View Code, whose modifiers (0054,0222) may say more; sites have own codes, too."""
    modifiers = items(item, "ViewModifierCodeSequence")
    words = " ".join(one for code in (item, *modifiers) for one in texts_of(code, "CodeMeaning"))
    codes = {snomed_code(code) for code in (item, *modifiers)}
    if _DECUBITUS.names(words):
        return None
    if codes & OBLIQUE_VIEWS:
        return View.OBLIQUE
    if codes & LATERAL_VIEWS:
        return View.OBLIQUE if _OBLIQUE.names(words) else View.LATERAL
    return _view_in(words, _LATERAL_POSITION, one_view=True)


def _turned_view(directions: list[str]) -> View | None:
    """Return the view of an image whose rows and columns run in these directions of the patient.

    One of them runs along the body (H or F), the other one across it: from left to right in a frontal view,
    from front to back in a lateral one, between both in an oblique one. Anything else says nothing.
    """
    if len(directions) != 2 or not all(_DIRECTION.fullmatch(one.strip()) for one in directions):
        return None
    across = [set(one.strip()) for one in directions if one.strip()[0] not in "HF"]
    if len(across) != 1 or not across[0] & set("AP"):
        return None
    return View.OBLIQUE if across[0] & set("LR") else View.LATERAL
