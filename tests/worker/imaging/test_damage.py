"""Damaged files: each one is a problem or a picture, and none ends the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from db.jobs.problems import CorruptImage, ImageProblem
from tests.pictures import decode

KINDS = (
    *("JPEG", "PNG", "PNG16", "TIFF", "TIFF-LZW", "BMP"),
    *("plain", "LUT", "shutter", "RLE", "JPEG-LS", "JPEG 2000"),
)


@pytest.fixture(scope="module")
def healthy(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> dict[str, bytes]:
    """Return a good file of each kind; the files are small, so that damage hits more than pixels."""
    deep = np.ascontiguousarray(scene[:80, :72])
    grey = (deep >> 4).astype(np.uint8)
    found = {}
    for kind, pixels, form, options in (
        ("JPEG", grey, "JPEG", {}),
        ("PNG", grey, "PNG", {}),
        ("PNG16", deep, "PNG", {}),
        ("TIFF", deep, "TIFF", {}),
        ("TIFF-LZW", grey, "TIFF", {"compression": "tiff_lzw"}),
        ("BMP", grey, "BMP", {}),
    ):
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, form, **options)
        found[kind] = buffer.getvalue()
    window = {"WindowCenter": 2000, "WindowWidth": 3000, "BodyPartExamined": "CHEST", "ViewPosition": "PA"}
    found["plain"] = dicom_bytes(make_dicom(deep, **window, PixelPaddingValue=0))
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [64, 1000, 10])
    item.add_new("LUTData", "US", list(range(0, 1024, 16)))
    found["LUT"] = dicom_bytes(make_dicom(deep, VOILUTSequence=[item], ModalityLUTSequence=[item]))
    shutter = {
        "ShutterShape": ["RECTANGULAR", "CIRCULAR", "POLYGONAL"],
        "ShutterLeftVerticalEdge": 4,
        "ShutterRightVerticalEdge": 60,
        "ShutterUpperHorizontalEdge": 5,
        "ShutterLowerHorizontalEdge": 70,
        "CenterOfCircularShutter": [40, 36],
        "RadiusOfCircularShutter": 30,
        "VerticesOfThePolygonalShutter": [1, 1, 70, 2, 50, 60],
    }
    found["shutter"] = dicom_bytes(make_dicom(deep, **shutter))
    for kind, syntax in (("RLE", RLELossless), ("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless)):
        dataset = make_dicom(deep, **window)
        dataset.compress(syntax)
        found[kind] = dicom_bytes(dataset)
    return found


def survives(content: bytes) -> None:
    """Decode a file; a picture or an `ImageProblem` passes, any other error fails the test."""
    try:
        pixels = decode(content)
    except ImageProblem as problem:
        # Only a leaf class of `ImageProblem` tells a user the reason.
        assert type(problem).__subclasses__() == []
    else:
        assert (pixels.shape, pixels.dtype) == ((224, 224, 3), np.uint8)


def test_healthy_files_are_pictures(healthy: dict[str, bytes]) -> None:
    assert set(healthy) == set(KINDS)
    for content in healthy.values():
        assert decode(content).std() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_off_anywhere_is_a_problem_or_a_picture(kind: str, healthy: dict[str, bytes]) -> None:
    content = healthy[kind]
    for end in {*range(1, 600, 7), *range(600, len(content), max(1, len(content) // 60))}:
        survives(content[:end])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_wrong_bytes_is_a_problem_or_a_picture(
    kind: str, seed: int, healthy: dict[str, bytes]
) -> None:
    random = np.random.default_rng(seed)
    for _ in range(100):
        content = np.frombuffer(healthy[kind], np.uint8).copy()
        # Half of the damage is in the header, where it matters most.
        span = min(1000, len(content)) if random.random() < 0.5 else len(content)
        places = random.integers(0, span, random.integers(1, 12))
        content[places] = random.choice([0, 1, 0x7F, 0x80, 0xFF, int(random.integers(256))], len(places))
        survives(content.tobytes())


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_cut_out_doubled_or_put_in_are_a_problem_or_a_picture(
    data: st.DataObject, healthy: dict[str, bytes]
) -> None:
    content = healthy[data.draw(st.sampled_from(KINDS))]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    middle = data.draw(st.one_of(st.just(b""), st.just(content[start:end] * 2), st.binary(max_size=64)))
    survives(content[:start] + middle + content[end:])


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", bytes(128) + b"DICM", b"\x08\0\x05\0", b"\xff\xd8\xff", b"II*\0"]),
)
@settings(max_examples=150, deadline=None)
def test_noise_is_a_problem(noise: bytes, start: bytes) -> None:
    with pytest.raises(ImageProblem):
        decode(start + noise)


#: Decodes a file 600 times, each time with other damage to its compressed frame.
CODE = """
import sys
from pathlib import Path
import numpy as np
from db.jobs.problems import ImageProblem
from worker.decoding.decode import decode_file
from worker.imaging.limits import DEFAULTS
good = np.frombuffer(Path(sys.argv[1]).read_bytes(), np.uint8)
start = good.tobytes().index(bytes.fromhex(sys.argv[2]))
random = np.random.default_rng(1)
for _ in range(600):
    content = good.copy()
    span = 120 if random.random() < 0.6 else len(content) - start
    content[start + random.integers(0, span, random.integers(1, 6))] = random.integers(256)
    try:
        decode_file(content.tobytes(), DEFAULTS)
    except ImageProblem:
        pass
"""


@pytest.mark.parametrize("kind", ["JPEG lossless", "JPEG 12 bits", "JPEG-LS", "JPEG 2000"])
def test_a_damaged_frame_does_not_take_the_process_down(
    tmp_path: Path,
    kind: str,
    healthy: dict[str, bytes],
    by_gdcm: Callable[[bytes, str], bytes],
    dicom_bytes: Callable[..., bytes],
) -> None:
    if kind == "JPEG lossless":
        content = by_gdcm(healthy["plain"], "JPEGLosslessProcess14_1")
    elif kind == "JPEG 12 bits":
        theirs = dcmread(str(get_testdata_file("JPGExtended.dcm", download=False)))
        theirs.Modality, theirs.BodyPartExamined = "CR", "CHEST"
        content = dicom_bytes(theirs)
    else:
        content = healthy[kind]
    assert decode(content).shape == (224, 224, 3)
    (tmp_path / "file").write_bytes(content)
    begins = "ff4fff51" if kind == "JPEG 2000" else "ffd8ff"
    command = [sys.executable, "-c", CODE, str(tmp_path / "file"), begins]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-300:]


def test_the_error_of_a_library_is_kept_as_the_cause(healthy: dict[str, bytes]) -> None:
    with pytest.raises(CorruptImage) as caught:
        decode(healthy["PNG"][:-2000])
    assert caught.value.__cause__ is not None


def test_an_error_of_our_own_is_not_called_a_corrupt_image(
    healthy: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.decoding.decode as decoding
    from worker.imaging import dicom
    from worker.imaging.rasters import pillow

    def mistaken(*_: object) -> None:
        raise AttributeError("a programming error")

    for module, name in ((dicom, "display_values"), (decoding, "check_header"), (pillow, "squeeze")):
        monkeypatch.setattr(module, name, mistaken)
    for kind in ("plain", "PNG"):
        with pytest.raises(AttributeError):
            decode(healthy[kind])
