"""Small files that claim to be huge."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from tests.pictures import decode
from worker.imaging.pixels.codestream import read_codestream

#: Decodes a file with half a gigabyte of memory left: an attempt to decode the pixels fails.
CODE = """
import resource, sys
from pathlib import Path
import pydicom.pixels, PIL.Image
from db.jobs.problems import ImageProblem
from tests.pictures import decode
content = Path(sys.argv[1]).read_bytes()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
try:
    decode(content)
except ImageProblem as problem:
    print(problem.code)
"""
SIDE = 30_000


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(scene: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray((scene >> 4).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def enlarge_jpeg(frame: bytes) -> bytes:
    """Change the size in the frame header, whichever marker it has."""
    at = next(frame.index(marker) for marker in (b"\xff\xc0", b"\xff\xf7") if marker in frame)
    return frame[: at + 5] + struct.pack(">HH", SIDE, SIDE) + frame[at + 9 :]


def enlarge_jpeg2000(frame: bytes) -> bytes:
    return (
        frame[:8]
        + struct.pack(">2L", SIDE, SIDE)
        + frame[16:24]
        + struct.pack(">2L", SIDE, SIDE)
        + frame[32:]
    )


def refusal(content: bytes, folder: Path) -> str:
    (folder / "file").write_bytes(content)
    command = [sys.executable, "-c", CODE, str(folder / "file")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or done.stderr


def test_a_huge_raster_is_refused_without_memory(tmp_path: Path, scene: np.ndarray) -> None:
    assert refusal(huge_png(), tmp_path) == "too-many-pixels"
    assert refusal(enlarge_jpeg(jpeg(scene)), tmp_path) == "too-many-pixels"


def test_a_huge_dicom_header_is_refused_without_memory(
    tmp_path: Path, scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    content = dicom_bytes(make_dicom(scene, Rows=SIDE, Columns=SIDE))
    assert refusal(content, tmp_path) == "too-many-pixels"


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit])
def test_a_compressed_frame_larger_than_its_header_says_is_refused_without_memory(
    tmp_path: Path,
    scene: np.ndarray,
    make_dicom: Callable[..., Dataset],
    dicom_bytes: Callable[..., bytes],
    syntax: str,
) -> None:
    if syntax == JPEGBaseline8Bit:
        dataset = make_dicom((scene >> 4).astype(np.uint8), bits=8)
        frame = jpeg(scene)
    else:
        dataset = make_dicom(scene)
        dataset.compress(syntax)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    found = read_codestream(frame)
    assert found is not None
    assert (found.width, found.height, found.components) == (256, 300, 1)
    assert found.precision == dataset.BitsStored
    enlarged = (enlarge_jpeg2000 if syntax == JPEG2000Lossless else enlarge_jpeg)(frame)
    for sent, expected in ((frame, ""), (enlarged, "corrupt-image")):
        dataset.PixelData = encapsulate([sent + b"\0" * (len(sent) % 2)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        assert refusal(dicom_bytes(dataset, syntax), tmp_path) == expected


def test_a_deflated_file_that_inflates_beyond_the_limit_is_refused_without_memory(
    tmp_path: Path, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    content = dicom_bytes(make_dicom(np.zeros((64, 64), np.uint16)), DeflatedExplicitVRLittleEndian)
    assert decode(content).max() == 0
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # A private element of 600 MB in place of the data set.
    start = content.index(DeflatedExplicitVRLittleEndian.encode()) + 22
    meta_end = 144 + int.from_bytes(content[140:144], "little")
    assert start <= meta_end + 1
    bomb = content[:meta_end] + deflater.compress(struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 600 * 2**20))
    block = bytes(2**20)
    bomb += b"".join(deflater.compress(block) for _ in range(600)) + deflater.flush()
    assert len(bomb) < 2**20
    assert refusal(bomb, tmp_path) == "file-too-large"
