"""Reading of files: those that are pictures and those that are not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import worker.files.openers.file as module
from db.jobs.problems import EmptyFile, FileTooLarge, FileUnreadable, FileVanished, ImageProblem, NotAnImage
from tests.pictures import decode, read_picture
from worker.imaging.limits import Limits

PATIENT = "DOE^JANE"


def picture_file(path: Path) -> Path:
    Image.fromarray(np.arange(6400, dtype=np.uint16).astype(np.uint8).reshape(80, 80)).save(path)
    return path


def test_a_picture_is_224_by_224_rgb_bytes_with_the_digest_of_the_file(tmp_path: Path) -> None:
    path = picture_file(tmp_path / "a.png")
    picture = read_picture(path)
    assert picture.pixels.shape == (224, 224, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["a.jpg", "a.dcm", "a", "a.txt"])
def test_content_and_not_the_name_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    original = picture_file(tmp_path / "original.png")
    (tmp_path / name).write_bytes(original.read_bytes())
    assert np.array_equal(read_picture(tmp_path / name).pixels, read_picture(original).pixels)


def test_dicom_needs_no_extension(
    tmp_path: Path,
    scene: np.ndarray,
    make_dicom: Callable[..., Dataset],
    dicom_bytes: Callable[..., bytes],
) -> None:
    (tmp_path / "IM0001").write_bytes(dicom_bytes(make_dicom(scene)))
    (tmp_path / "IM0001.jpg").write_bytes(dicom_bytes(make_dicom(scene)))
    assert np.array_equal(
        read_picture(tmp_path / "IM0001").pixels, read_picture(tmp_path / "IM0001.jpg").pixels
    )


def test_a_file_without_bytes_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(EmptyFile):
        read_picture(tmp_path / "a.png")


def test_a_missing_file_has_vanished(tmp_path: Path) -> None:
    picture_file(tmp_path / "a.png")
    for path in (tmp_path / "b.png", tmp_path / "no-folder" / "b.png", tmp_path / "a.png" / "b.png"):
        with pytest.raises(FileVanished):
            read_picture(path)


def test_a_folder_a_device_and_a_circular_link_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in (tmp_path, Path(os.devnull), tmp_path / "circle", Path("a\0b")):
        with pytest.raises(FileUnreadable):
            read_picture(path)


def test_a_pipe_without_a_writer_does_not_block_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    # In its own process: a reader that hangs must not hang the tests.
    code = f"""
from pathlib import Path
from db.jobs.problems import FileUnreadable
from tests.pictures import read_picture
try:
    read_picture(Path({str(tmp_path / "pipe.png")!r}))
except FileUnreadable:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("error", [PermissionError, OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_opened_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError] | OSError
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise error

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(FileUnreadable):
        read_picture(picture_file(tmp_path / "a.png"))


def test_a_file_over_the_limit_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        # A sparse file: a terabyte that takes no space on the disk.
        file.truncate(2**40)
    with pytest.raises(FileTooLarge):
        read_picture(tmp_path / "a.png")
    path = picture_file(tmp_path / "b.png")
    size = path.stat().st_size
    read_picture(path, limits=Limits(max_file_bytes=size))
    with pytest.raises(FileTooLarge):
        read_picture(path, limits=Limits(max_file_bytes=size - 1))


def test_a_file_that_holds_more_than_its_size_said_is_refused() -> None:
    # Like a file that grows while it is read: the system reports a size of 0 bytes.
    growing = Path("/proc/self/maps")
    assert growing.stat().st_size == 0
    with pytest.raises(FileTooLarge):
        read_picture(growing, limits=Limits(max_file_bytes=100))


@pytest.mark.parametrize(
    "content", [b"no picture at all", b"\0" * 200, b"%PDF-1.7\n", b"PK\3\4" + b"\0" * 50]
)
def test_something_else_called_jpg_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(NotAnImage):
        read_picture(tmp_path / "a.jpg")


def test_threads_that_read_at_once_read_the_same_as_one(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    contents = [dicom_bytes(make_dicom(scene, WindowCenter=2000, WindowWidth=3000))]
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset = make_dicom(scene)
        dataset.compress(syntax)
        contents.append(dicom_bytes(dataset))
    for form in ("PNG", "JPEG", "TIFF"):
        buffer = BytesIO()
        Image.fromarray((scene >> 4).astype(np.uint8)).save(buffer, form)
        contents.append(buffer.getvalue())
    alone = [decode(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, contents * 12))
    for index, pixels in enumerate(together):
        assert np.array_equal(pixels, alone[index % len(contents)])


def test_a_problem_holds_no_data_of_the_patient(
    tmp_path: Path, scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    folder = tmp_path / PATIENT
    folder.mkdir()
    good = dicom_bytes(make_dicom(scene, PatientName=PATIENT, PatientID=PATIENT, BodyPartExamined="HAND"))
    for name, content in {
        "cut": good[: len(good) // 2],
        "hand": good,
        "text": b"DOE^JANE",
        "empty": b"",
    }.items():
        (folder / name).write_bytes(content)
    for name in ("cut", "hand", "text", "empty", "missing", "."):
        with pytest.raises(ImageProblem) as caught:
            read_picture(folder / name)
        assert "DOE" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_bad_headers_leave_nothing_on_stderr_and_nothing_in_the_log(
    tmp_path: Path, scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    good = dicom_bytes(make_dicom(scene, SpecificCharacterSet="ISO_IR 100", WindowCenter="2000"))
    bad = good.replace(b"ISO_IR 100", b"DOE^JANE  ").replace(b"2000", b"D^JX")
    assert bad.count(b"DOE^JANE") == bad.count(b"D^JX") == 1
    (tmp_path / "bad").write_bytes(bad)
    (tmp_path / "cut").write_bytes(good[:-100])
    code = f"""
import logging, warnings
from pathlib import Path
warnings.simplefilter("always")
logging.basicConfig(level=logging.INFO)
from db.jobs.problems import ImageProblem
from tests.pictures import read_picture
for name in ("bad", "cut"):
    try:
        read_picture(Path({str(tmp_path)!r}) / name)
    except ImageProblem:
        print(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout == "cut\n"


def test_importing_changes_nothing_and_loads_no_torch() -> None:
    code = """
import logging, sys, warnings
# numpy sets filters of its own.
import PIL.Image, numpy
before = list(warnings.filters)
import worker.decoding.process
assert list(warnings.filters) == before
assert logging.getLogger("pydicom").level == logging.NOTSET
assert not {"torch", "fastai", "pydicom"} & set(sys.modules)
assert PIL.Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3
import PIL.ImageFile
assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is False
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
