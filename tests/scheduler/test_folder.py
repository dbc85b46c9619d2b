"""What a folder is taken for."""

from __future__ import annotations

import os
import threading
from io import FileIO
from pathlib import Path

import pytest

from db.images import NewImage
from db.roots import Roots
from db.uri import uri_to_path
from scheduler.ingest.folder import FolderSource
from scheduler.ingest.source import SourceMissing, SourceUnsupported


def walk(folder: Path) -> dict[str, NewImage]:
    return {uri_to_path(image.uri).name: image for image in FolderSource(folder).walk()}


@pytest.fixture
def dicom(phantoms: Path) -> bytes:
    return next((phantoms / "dicom").rglob("IM0001")).read_bytes()


@pytest.fixture
def jpeg(phantoms: Path) -> bytes:
    return next((phantoms / "jpeg").iterdir()).read_bytes()


def test_images_are_found_at_any_depth_and_in_a_stable_order(phantoms: Path) -> None:
    first, second = ([image.uri for image in FolderSource(phantoms).walk()] for _ in range(2))
    assert len(first) == 10
    assert first == second


def test_dicom_is_told_by_its_content_and_grouped_by_study(phantoms: Path) -> None:
    dicom = list(FolderSource(phantoms / "dicom").walk())
    assert len(dicom) == 4
    assert len({image.study_uid for image in dicom}) == 4
    assert all(image.series_uid and image.instance_uid for image in dicom)


def test_a_patient_id_is_kept_as_a_keyed_pseudonym_alone(phantoms: Path, home: Path) -> None:
    image = next(iter(FolderSource(phantoms / "dicom").walk()))
    assert image.patient_key is not None
    assert len(image.patient_key) == 64
    assert "PHANTOM" not in repr(image.patient_key)
    assert (home / "site.key").stat().st_mode & 0o777 == 0o600


def test_what_is_not_an_image_is_counted_and_gets_no_row(tmp_path: Path, jpeg: bytes) -> None:
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "LICENSE"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / "a.jpg").write_bytes(jpeg)
    source = FolderSource(tmp_path)
    assert [Path(image.uri).name for image in source.walk()] == ["a.jpg"]
    assert source.ignored == 4


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
    source = FolderSource(tmp_path)
    assert list(source.walk()) == []
    assert source.ignored == 1


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
    (image,) = FolderSource(tmp_path).walk()
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
    in_order = [image.uri for image in FolderSource(phantoms).walk()]
    source = FolderSource(phantoms)
    source.at_once = 1
    opened: list[Path] = []
    together = threading.Barrier(2, timeout=10)
    really = Roots.open_file

    def open_file(roots: Roots, path: Path) -> FileIO:
        opened.append(path)
        # Each open waits for another one; one at a time would wait for ever.
        together.wait()
        return really(roots, path)

    monkeypatch.setattr(Roots, "open_file", open_file)
    assert [image.uri for image in source.walk()] == in_order
    assert sorted(str(path) for path in opened) == sorted(in_order)


def test_a_file_is_noted_as_it_was_when_it_was_opened(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg[:100])
    source = FolderSource(tmp_path)
    (entry,) = source.entries()
    (tmp_path / "a.jpg").write_bytes(jpeg)
    image = source.look(entry)
    status = (tmp_path / "a.jpg").stat()
    assert image is not None
    assert (entry.size, image.size, image.modified) == (100, len(jpeg), status.st_mtime)
