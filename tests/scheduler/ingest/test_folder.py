"""Folders as sources: which files get a row, and what the row says."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from io import BytesIO, FileIO
from pathlib import Path

import pytest
from PIL import Image as PictureFile

from db.jobs.images import NewImage
from db.jobs.problems import PathTooLong
from db.text import LONGEST_URI
from scheduler.ingest.source import SourceMissing, SourceUnsupported
from scheduler.ingest.sources.folder import FolderSource
from scheduler.ingest.walk import Walk
from worker.files.access import is_available
from worker.files.openers.file import open_file
from worker.files.roots import EVERYWHERE, Roots
from worker.files.url import uri_to_path


def walk(folder: Path) -> dict[str, NewImage]:
    return {uri_to_path(image.uri).name: image for image in Walk(FolderSource(folder))}


@pytest.fixture
def dicom(phantoms: Path) -> bytes:
    return next((phantoms / "dicom").rglob("IM0001")).read_bytes()


@pytest.fixture
def jpeg(phantoms: Path) -> bytes:
    return next((phantoms / "jpeg").iterdir()).read_bytes()


def test_images_are_found_at_any_depth_and_in_a_stable_order(phantoms: Path) -> None:
    first, second = ([image.uri for image in Walk(FolderSource(phantoms))] for _ in range(2))
    assert len(first) == 10
    assert first == second


def test_dicom_is_told_by_its_content_and_grouped_by_study(phantoms: Path) -> None:
    dicom = list(Walk(FolderSource(phantoms / "dicom")))
    assert len(dicom) == 4
    assert len({image.study_uid for image in dicom}) == 4
    assert all(image.series_uid and image.instance_uid for image in dicom)


def test_a_patient_id_is_kept_as_a_keyed_pseudonym_alone(phantoms: Path, home: Path) -> None:
    image = next(iter(Walk(FolderSource(phantoms / "dicom"))))
    assert image.patient_key is not None
    assert len(image.patient_key) == 64
    assert "PHANTOM" not in repr(image.patient_key)
    assert (home / "site.key").stat().st_mode & 0o777 == 0o600


def test_what_is_not_an_image_is_counted_and_gets_no_row(tmp_path: Path, jpeg: bytes) -> None:
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "LICENSE"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / "a.jpg").write_bytes(jpeg)
    images = Walk(FolderSource(tmp_path))
    assert [Path(image.uri).name for image in images] == ["a.jpg"]
    assert images.left_out.ignored == 4


def test_a_broken_file_with_the_name_of_an_image_gets_a_row(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.dcm").touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    found = walk(tmp_path)
    assert {name: image.problem for name, image in found.items()} == {
        "text.jpg": None,
        "empty.dcm": "empty-file",
        "pipe.png": "file-unreadable",
        "dangling.png": "file-vanished",
    }


def test_a_dicom_file_called_jpg_is_still_dicom(tmp_path: Path, dicom: bytes) -> None:
    (tmp_path / "export.jpg").write_bytes(dicom)
    assert walk(tmp_path)["export.jpg"].study_uid


def test_an_old_dicom_file_without_preamble_and_name_is_found(tmp_path: Path, dicom: bytes) -> None:
    from io import BytesIO

    from pydicom import dcmread, dcmwrite

    for number, (implicit, little) in enumerate(((True, True), (False, True), (False, False))):
        with (tmp_path / f"1.2.{number}").open("wb") as file:
            dataset = dcmread(BytesIO(dicom), stop_before_pixels=True)
            del dataset.file_meta, dataset.preamble
            dcmwrite(file, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    (tmp_path / "1.2.3").write_bytes(b"\x08\0" + bytes(500))
    (tmp_path / "1.2.4").write_bytes(b"\x08\0\x18\0UI\xff\xff")
    found = walk(tmp_path)
    assert sorted(found) == ["1.2.0", "1.2.1", "1.2.2"]
    assert all(image.study_uid and image.instance_uid for image in found.values())


def test_a_dicomdir_is_an_index_and_no_image(tmp_path: Path) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128).save_as(tmp_path / "DICOMDIR")
    images = Walk(FolderSource(tmp_path))
    assert list(images) == []
    assert images.left_out.ignored == 1


def test_a_loop_of_folders_ends(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jpg").write_bytes(jpeg)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(walk(tmp_path)) == ["a.jpg"]


@pytest.mark.parametrize(
    "name", ["räntgen ☢ 胸部.jpg", "a b'c\"d;e&f.jpg", "line\nbreak.jpg", "[bold]100%[bold].jpg", "-rf.jpg"]
)
def test_unusual_names_come_back_as_they_were(tmp_path: Path, jpeg: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(jpeg)
    assert uri_to_path(walk(tmp_path)[name].uri) == tmp_path / name


def test_a_name_that_is_not_text_comes_back_as_it_was(tmp_path: Path, jpeg: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe x.jpg"))
    path.write_bytes(jpeg)
    (image,) = Walk(FolderSource(tmp_path))
    image.uri.encode("utf-8")
    assert uri_to_path(image.uri) == path


def test_a_single_file_is_a_source(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    assert list(walk(tmp_path / "a.jpg")) == ["a.jpg"]


def test_what_is_no_folder_and_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        FolderSource(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceUnsupported):
        FolderSource(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises((SourceMissing, Exception)) as caught:
        FolderSource(tmp_path / "loop")
    assert caught.value.code.startswith("source-")  # type: ignore[attr-defined]


def test_each_file_is_opened_once_by_several_threads_and_keeps_its_place(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order = [image.uri for image in Walk(FolderSource(phantoms))]
    source = FolderSource(phantoms)
    source.group_size = 1
    opened: list[Path] = []
    together = threading.Barrier(2, timeout=10)

    def counted(path: Path, roots: Roots) -> FileIO:
        opened.append(path)
        # Each open waits for a second one: if files were opened one at a time, this would time out.
        together.wait()
        return open_file(path, roots)

    monkeypatch.setattr("scheduler.ingest.sources.folder.open_file", counted)
    assert [image.uri for image in Walk(source)] == in_order
    assert sorted(str(path) for path in opened) == sorted(in_order)


def test_a_file_is_noted_as_it_was_when_it_was_opened(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg[:100])
    source = FolderSource(tmp_path)
    (entry,) = source.entries()
    (tmp_path / "a.jpg").write_bytes(jpeg)
    image = source.inspect(entry)
    status = (tmp_path / "a.jpg").stat()
    assert image is not None
    assert (entry.size, image.size, image.modified) == (100, len(jpeg), status.st_mtime)


def descend(folder: Path, levels: int, name: str) -> int:
    """Make nested folders, however long their path becomes; return a descriptor of the deepest one."""
    opened = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=opened)
        inner = os.open(name, os.O_RDONLY, dir_fd=opened)
        os.close(opened)
        opened = inner
    return opened


def write(folder: int, name: str, content: bytes) -> None:
    with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder), "wb") as file:
        file.write(content)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Give a folder whose contents may lie too deep for Python to remove."""
    folder = tmp_path / "deep"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.parametrize(("levels", "name"), [(1200, "d"), (30, "d" * 100), (60, "d" * 100), (1500, "dd")])
def test_images_too_deep_to_be_opened_get_a_row_each_and_hold_up_no_other(
    deep: Path, jpeg: bytes, levels: int, name: str
) -> None:
    (deep / "z.jpg").write_bytes(jpeg)
    bottom = descend(deep, levels, name)
    for file in ("1.jpg", "2.jpg", "unnamed", ".hidden"):
        write(bottom, file, jpeg)
    os.close(bottom)
    images = Walk(FolderSource(deep))
    first, *others = images
    assert (first.uri, first.problem) == (str(deep / "z.jpg"), None)
    if levels * (len(name) + 1) < 2_500:  # too deep for a recursion, but the path is short enough
        assert [(one.problem, one.size) for one in others] == [(None, len(jpeg))] * 3
        assert images.left_out.ignored == 1
        return
    assert [one.problem for one in others] == ["path-too-long"] * 3
    assert len({one.uri for one in others}) == 3
    for one in others:
        assert len(one.uri.encode()) <= LONGEST_URI
        assert one.uri.startswith(str(deep))
        with pytest.raises(PathTooLong):
            open_file(uri_to_path(one.uri), EVERYWHERE)
        with pytest.raises(PathTooLong):
            open_file(uri_to_path(one.uri), Roots((str(deep),)))
    assert [one.uri for one in Walk(FolderSource(deep))] == [first.uri, *(one.uri for one in others)]


def test_a_path_that_a_path_map_makes_too_long_has_its_own_code(deep: Path) -> None:
    with pytest.raises(PathTooLong):
        open_file(deep / ("d/" * 2500) / "1.jpg", EVERYWHERE)


def test_a_link_to_a_folder_and_a_link_in_a_loop_are_passed_over(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(jpeg)
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    images = Walk(FolderSource(tmp_path))
    assert [Path(one.uri).name for one in images] == ["1.jpg"]
    assert images.left_out.ignored == 1


def test_a_source_whose_name_is_no_text_is_described_by_one_that_can_be_stored(
    tmp_path: Path, jpeg: bytes
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    folder.mkdir()
    (folder / "1.jpg").write_bytes(jpeg)
    source = FolderSource(folder)
    assert source.described == f"file://{tmp_path}/%FF%FE"
    (image,) = Walk(source)
    assert image.uri == source.described + "/1.jpg"
    assert uri_to_path(image.uri).read_bytes() == jpeg
    assert is_available(source.described)
    (folder / "1.jpg").unlink()
    assert not is_available(source.described)


def raster(form: str, **options: object) -> bytes:
    buffer = BytesIO()
    PictureFile.new("L", (80, 90)).save(buffer, form, **options)
    return buffer.getvalue()


def test_images_without_a_known_suffix_are_told_by_their_content(tmp_path: Path, jpeg: bytes) -> None:
    found = {
        "a.jfif": jpeg,
        "no_suffix": jpeg,
        "a.thm": jpeg,
        "scan.1": raster("PNG"),
        "film": raster("TIFF"),
        "film.big": raster("TIFF", big_tiff=True),
        "bitmap": raster("BMP"),
        "archive": raster("JPEG2000"),
        "archive.xyz": raster("JPEG2000", no_jp2=True),
        "export.dcm": jpeg,
    }
    others = {
        "text": b"BM, a text that begins like a bitmap, and goes on for some more",
        "table": b"II*\0\0\0\0\0",
        "mark": b"\xff\xd8\xff\0",
        "document.pdf": b"%PDF-1.7",
        "short": b"\x89P",
        "animation.gif": b"GIF89a",
    }
    for name, content in (found | others).items():
        (tmp_path / name).write_bytes(content)
    images = Walk(FolderSource(tmp_path))
    assert sorted(Path(image.uri).name for image in images) == sorted(found)
    assert all(image.problem is None for image in Walk(FolderSource(tmp_path)))
    assert images.left_out.ignored == len(others)
