# ruff: noqa: RUF001  (letters of other alphabets that look like Latin ones)
"""Which images show the chest by the words and codes of their header."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from worker.gate.body_part import Part, part_in
from worker.gate.codes import CHEST_REGIONS, OTHER_REGIONS
from worker.gate.header import judge_header
from worker.gate.modality import UNKNOWN
from worker.gate.words import plain, texts_of

Refused = Callable[..., str | None]
Code = Callable[..., Any]

#: Of pydicom, for values that are not as the standard has them, but as sites write them.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS", "ignore:The value length")

#: Body Part Examined (PS3.16 annex L) and what devices and sites write.
OTHER_PARTS = """
    ABDOMEN, ABDOMENPELVIS, ADRENAL, ANKLE, ARM, AXILLA, BACK, BLADDER, BRAIN, BREAST, BUTTOCK, CALCANEUS,
    CALF, CAROTID, CEREBELLUM, CSPINE, CTSPINE, CERVIX, CHEEK, CIRCLEOFWILLIS, CLAVICLE, COCCYX, COLON,
    CORNEA, DUODENUM, EAR, ELBOW, WHOLEBODY, ESOPHAGUS, EXTREMITY, EYE, EYELID, FACE, FEMUR, FINGER, FOOT,
    GALLBLADDER, HAND, HEAD, HEADNECK, HIP, HUMERUS, ILEUM, ILIUM, IAC, JAW, JEJUNUM, KIDNEY, KNEE, LARYNX,
    LIVER, LEG, LSPINE, LSSPINE, MAXILLA, MOUTH, NECK, NOSE, ORBIT, OVARY, PANCREAS, PAROTID, PATELLA, PELVIS,
    PENIS, PHARYNX, PROSTATE, RECTUM, RIB, SSPINE, SCALP, SCLERA, SCAPULA, SCROTUM, SHOULDER, SKULL, SPINE,
    SPLEEN, STERNUM, STOMACH, SUBMANDIBULAR, TMJ, TESTIS, THIGH, TSPINE, TLSPINE, THUMB, THYROID, TOE, TONGUE,
    TRACHEA, URETER, URETHRA, UTERUS, VAGINA, VULVA, WRIST, ZYGOMA, MANDIBLE, SINUS, TIBIA, FIBULA, RADIUS,
    ULNA, RIBS, HANDS, FEET, HIPS, KNEES, UP_EXM, LOW_EXM, EXTREMETY, T-SPINE, L_SPINE, THORACIC_SPINE,
    LEFT_HAND, HAND2, FOREARM, PHANTOM, UPPERARM, LOWERLEG, AC_JOINT, SI_JOINTS, HEMITHORAX
"""

#: Other parts in other languages.
ELSEWHERE = """
    Bauch, Becken, Schädel, SCHAEDEL, Hüfte, Knie, Kniegelenk, Handgelenk, Lendenwirbelsäule,
    Brustwirbelsäule, BWS, Fuß, Unterschenkel, Schulter, Rippen, Abdomen sans préparation, Bassin, Crâne,
    Genou, Épaule, Cheville, Main, Pied, Rachis dorsal, Côtes, Rodilla, Mano, Pie, Hombro, Cráneo,
    Columna dorsal, Parrilla costal, Joelho, Mão, Ombro, Coluna torácica, Ginocchio, Mano dx, Spalla,
    Colonna dorsale, Bacino, Piede, Buik, Voet, Schouder, Wervelkolom, Brzuch, Kolano, Łokieć, Miednica,
    Kręgosłup piersiowy, Stopa, Żebra, Karın, Diz, Omuz, El bileği, Kalça, Кисть, Коленный сустав,
    Грудной отдел позвоночника, Череп, Таз, Стопа, Рёбра, 手, 手部, 膝关节, 腹部, 胸椎, 腰椎, 骨盆, 肋骨,
    头颅, 左肩, 右手, 足, 膝, 頭部, 頚椎, 骨盤, 股関節, 무릎, 손, 손목, 복부, 흉추, 늑골, 골반
"""

#: The chest, as annex L, devices and sites write it.
CHEST = """
    CHEST, chest, PORT CHEST, CHEST_TO_PELVIS, CHESTABDOMEN, CHESTABDPELVIS, NECKCHEST, NECKCHESTABDOMEN,
    CHEST ABDOMEN, LUNG, LUNGS, THORAX, THORAX RIBS, RIBS AND CHEST, CXR, DPCXR, CHEST LUNG, PED CHEST,
    THORACIC, Tórax, TORAX, T?RAX, T_RAX, Torace, Poitrine, Poumons, Pecho, PECHO, Pulmón, Peito, Pulmão,
    Brustkorb, Lunge, Brust, Borstkas, Klatka piersiowa, Płuca, Göğüs, Akciğer, Toraks, ГРУДНАЯ КЛЕТКА,
    Органы грудной клетки, ОГК, Лёгкие, 胸部, 胸片, 胸, 胸部正位, 両肺, ｷｮｳﾌﾞ, 흉부, 가슴, Hrudník, Mellkas,
    Bröstkorg, Keuhkot, G?G?S, Phổi
"""

#: What names no part, or holds one that is in the chest and elsewhere.
UNKNOWN_PARTS = """
    UNKNOWN, DEFAULT, SERVICE, NONE, N/A, OTHER, ANY, C_A_P, CAP, HEART, MEDIASTINUM, BRONCHUS, HANDLED,
    PHARMA, ALARM, SHIP, CHIP, FOOL, PORTABLE, ROUTINE, XRAY, TRUNK, 0, ---, ÐØ²¿, ????, 未指定, 手术室,
    指定なし, 미지정, неизвестно, STANDARD, GENERAL, BAS, RX, MISC, EL
"""


def words(listed: str) -> list[str]:
    return [" ".join(word.split()) for word in listed.split(",") if word.strip()]


@pytest.mark.parametrize("part", words(OTHER_PARTS + "," + ELSEWHERE))
def test_a_word_for_another_part_refuses(part: str) -> None:
    assert part_in([plain(part)]) is Part.OTHER


@pytest.mark.parametrize("part", words(CHEST))
def test_a_word_for_the_chest_passes_whatever_stands_beside_it(part: str) -> None:
    assert part_in([plain(part)]) is Part.CHEST


@pytest.mark.parametrize("part", words(UNKNOWN_PARTS))
def test_a_word_that_names_no_part_says_nothing(refused: Refused, part: str) -> None:
    assert part_in([plain(part)]) is Part.UNKNOWN
    assert refused(BodyPartExamined=part) is None


def stored(header: Dataset, written: bytes, **elements: str) -> Dataset:
    """Write and read a header whose body part, XXXX, has other bytes."""
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    header.BodyPartExamined = "X" * len(written)
    header.SOPInstanceUID = "1.2.3"
    buffer = BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    content = buffer.getvalue().replace(b"X" * len(written), written)
    read = dcmread(BytesIO(content), force=True)
    read.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return read


#: A word and the character sets in which sites of its language write it, with and without saying so.
WRITTEN = [
    ("手部", ("gb18030", "utf-8", "big5"), Part.OTHER),
    ("胸部", ("gb18030", "utf-8", "shift_jis", "euc_jp"), Part.CHEST),
    ("膝関節", ("shift_jis", "utf-8", "iso2022_jp"), Part.OTHER),
    ("흉부", ("euc_kr", "utf-8"), Part.CHEST),
    ("손목", ("euc_kr", "utf-8"), Part.OTHER),
    ("КИСТЬ", ("cp1251", "iso8859_5", "koi8_r", "utf-8"), Part.OTHER),
    ("ГРУДЬ", ("cp1251", "iso8859_5", "koi8_r", "utf-8"), Part.CHEST),
    ("GÖĞÜS", ("cp1254", "utf-8"), Part.CHEST),
    ("ŁOKIEĆ", ("cp1250", "iso8859_2", "utf-8"), Part.OTHER),
    ("PŁUCA", ("cp1250", "iso8859_2", "utf-8"), Part.CHEST),
    ("TÓRAX", ("latin-1", "utf-8"), Part.CHEST),
    ("CRÂNE", ("latin-1", "utf-8"), Part.OTHER),
    ("MÃO", ("latin-1", "utf-8"), Part.OTHER),
]


@pytest.mark.parametrize(
    ("word", "character_set", "part"),
    [(word, character_set, part) for word, sets, part in WRITTEN for character_set in sets],
)
def test_a_body_part_is_read_in_the_character_set_that_it_was_written_in(
    header: Callable[..., Dataset], word: str, character_set: str, part: Part
) -> None:
    read = stored(header(), word.encode(character_set) + b" " * (len(word.encode(character_set)) % 2))
    assert part_in(texts_of(read, "BodyPartExamined")) is part
    problem = judge_header(read, UNKNOWN).problem
    assert (problem.code if problem else None) == (None if part is Part.CHEST else "not-chest")


@pytest.mark.parametrize("written", [b"\x81\x82\xff\xfe", b"\xf0\x28\x8c\x28", b"\x1b$B\x21", b"\0\0\0\0"])
def test_bytes_of_no_character_set_say_nothing(header: Callable[..., Dataset], written: bytes) -> None:
    assert judge_header(stored(header(), written), UNKNOWN).problem is None


@pytest.mark.parametrize("sequence", ["AnatomicRegionSequence", "PrimaryAnatomicStructureSequence"])
@pytest.mark.parametrize(
    ("value", "meaning", "scheme", "problem"),
    [
        ("85562004", "Hand", "SCT", "not-chest"),
        ("T-D8700", "Hand", "SRT", "not-chest"),
        ("T-D8700", "Hand", "SNM3", "not-chest"),
        ("85562004", "x", "SCT", "not-chest"),
        ("113345001", "Abdomen", "SCT", "not-chest"),
        ("122495006", "Thoracic spine", "SCT", "not-chest"),
        ("113197003", "Rib", "SCT", "not-chest"),
        ("HND", "Linke Hand", "99SITE", "not-chest"),
        ("85562004", "Thorax", "99SITE", None),
        ("816094009", "Chest", "SCT", None),
        ("51185008", "Thorax", "SCT", None),
        ("T-D3000", "Chest", "SRT", None),
        ("416550000", "Chest and Abdomen", "SCT", None),
        ("80891009", "Heart", "SCT", None),
        ("123", "Poitrine", "99SITE", None),
        ("123", "", "99SITE", None),
    ],
)
def test_a_region_code_counts_where_body_part_examined_is_silent(
    refused: Refused, code: Code, sequence: str, value: str, meaning: str, scheme: str, problem: str | None
) -> None:
    assert refused(Modality="DX", BodyPartExamined="", **{sequence: code(value, meaning, scheme)}) == problem


def test_an_image_whose_elements_contradict_each_other_is_not_screened(refused: Refused, code: Code) -> None:
    assert refused(BodyPartExamined="CHEST", AnatomicRegionSequence=code("85562004", "Hand")) == "not-chest"
    assert refused(BodyPartExamined="HAND", AnatomicRegionSequence=code("816094009", "Chest")) == "not-chest"


def test_every_region_of_the_standard_is_known_in_both_code_systems() -> None:
    from pydicom.sr import _cid_dict, _concepts_dict, _snomed_dict

    regions = {
        code: meaning
        for keyword in {*_cid_dict.cid_concepts[4031]["SCT"], *_cid_dict.cid_concepts[4009]["SCT"]}
        for code, (meaning, tables) in _concepts_dict.concepts["SCT"][keyword].items()
        if 4031 in tables or 4009 in tables
    }
    assert len(regions) > 100
    old = {new: code for code, new in _snomed_dict.mapping["SRT"].items()}
    for code, meaning in regions.items():
        codes = {code, old.get(code, code)}
        if meaning in ("Heart", "Mediastinum", "Bronchus"):
            assert codes.isdisjoint(CHEST_REGIONS | OTHER_REGIONS)
        else:
            shows_chest = "chest" in meaning.lower() or "lung" in meaning.lower()
            assert codes <= (CHEST_REGIONS if shows_chest else OTHER_REGIONS), meaning
