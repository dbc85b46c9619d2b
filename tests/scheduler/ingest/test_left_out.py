"""What an intake leaves out, and says that it does: folders of systems, links to folders, other files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.engine import Database
from db.settings import SettingsInvalid
from scheduler.ingest import open_source
from scheduler.ingest.left_out import IgnoredFiles, LeftOut
from scheduler.ingest.source import SourceEmpty
from scheduler.ingest.walk import Walk
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.slots import run_now
from scheduler.submit import submit
from tests.worker.files.servers import SftpServer, make_ssh_user, web_server
from training.data.labelled import find_labelled
from worker.files.omissions import HIDDEN, SYSTEM_FOLDERS, Omissions
from worker.files.url import name_of

#: Folders as systems write them, and the name that they are counted by.
WRITTEN = {
    "@eaDir": "@eaDir",
    "@EADIR": "@eaDir",
    "#recycle": "#recycle",
    "#snapshot": "#snapshot",
    "@Recycle": "@Recycle",
    "@Recently-Snapshot": "@Recently-Snapshot",
    ".@__thumb": ".@__thumb",
    ".snapshot": ".snapshot",
    "~snapshot": "~snapshot",
    ".zfs": ".zfs",
    "@GMT-2024.01.02-03.04.05": "@GMT-*",
    "$RECYCLE.BIN": "$RECYCLE.BIN",
    "$Recycle.Bin": "$RECYCLE.BIN",
    "System Volume Information": "System Volume Information",
    "FOUND.000": "FOUND.0*",
    "__MACOSX": "__MACOSX",
    ".AppleDouble": ".AppleDouble",
    ".Trashes": ".Trashes",
    ".Trash-1000": ".Trash-*",
    "lost+found": "lost+found",
    ".thumbnails": ".thumbnails",
    "Thumbs": "Thumbs",
    ".hidden": HIDDEN,
}


@pytest.fixture
def jpeg(phantoms: Path) -> bytes:
    return next((phantoms / "jpeg").iterdir()).read_bytes()


@pytest.fixture
def share(tmp_path: Path, jpeg: bytes) -> Path:
    """Return a folder with one image, and thumbnails and deleted images in every folder of systems."""
    folder = tmp_path / "share"
    for name in ("ward/a.jpg", *(f"ward/{name}/a.jpg/deep/b.jpg" for name in WRITTEN)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg)
    return folder


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SftpServer]:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    server = SftpServer()
    make_ssh_user(tmp_path / "user", server, known=True)
    yield server
    server.close()


@pytest.fixture
def web(share: Path) -> Iterator[str]:
    with web_server(share) as address:
        yield address


@pytest.fixture(params=["folder", "web", "sftp"])
def place(request: pytest.FixtureRequest, share: Path) -> str:
    """Return where the folder lies, on this machine and on servers."""
    if request.param == "folder":
        return str(share)
    server = request.getfixturevalue(request.param)
    return f"sftp://reader@127.0.0.1:{server.port}{share}" if request.param == "sftp" else server


def names(walk: Walk) -> list[str]:
    return [name_of(image.uri) for image in walk]


def test_folders_of_systems_are_not_walked_and_counted_by_name(place: str) -> None:
    walk = Walk(open_source(place))
    assert names(walk) == ["a.jpg"]
    expected = {name: list(WRITTEN.values()).count(name) for name in WRITTEN.values()}
    assert dict(walk.left_out.skipped_folders) == expected
    assert walk.left_out.ignored == 0


def test_a_folder_that_is_named_as_the_source_is_walked(place: str) -> None:
    for name in ("@eaDir", ".hidden"):
        walk = Walk(open_source(f"{place}/ward/{name}"))
        assert names(walk) == ["b.jpg"]
        assert not walk.left_out


def test_a_setting_adds_folders(share: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("previews", "old-2023", "older"):
        (share / name).mkdir()
        (share / name / "c.jpg").write_bytes(jpeg)
    monkeypatch.setenv("PNEUMOSCREEN_SKIPPED_FOLDERS", '["Previews", "old-*", "[x].y"]')
    walk = Walk(open_source(str(share)))
    assert names(walk) == ["c.jpg", "a.jpg"]
    assert walk.left_out.skipped_folders["Previews"] == walk.left_out.skipped_folders["old-*"] == 1
    for wrong in ('["a/b"]', '["*"]', '[""]'):
        monkeypatch.setenv("PNEUMOSCREEN_SKIPPED_FOLDERS", wrong)
        with pytest.raises(SettingsInvalid):
            list(Walk(open_source(str(share))))


def test_every_name_of_a_system_is_found_in_any_case() -> None:
    for name in SYSTEM_FOLDERS:
        omissions = Omissions()
        for written in (name, name.upper(), name.lower()):
            assert omissions.skips(written.replace("*", "7"))
        assert dict(omissions.folders) == {name: 3}
    for name in ("eaDir", "chest", "snapshot", "2024-01-02", "a.b", "thumbsup", "Recycle"):
        assert not Omissions().skips(name)


def test_the_name_of_a_hidden_folder_is_not_told(share: Path, jpeg: bytes) -> None:
    (share / ".DOE^JANE").mkdir()
    (share / ".DOE^JANE" / "c.jpg").write_bytes(jpeg)
    walk = Walk(open_source(str(share)))
    assert names(walk) == ["a.jpg"]
    assert walk.left_out.skipped_folders[HIDDEN] == 2
    assert "DOE" not in walk.left_out.as_text()


def test_links_to_folders_are_counted(share: Path, sftp: SftpServer, tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.jpg").write_bytes(jpeg)
    (share / "patient1").symlink_to(tmp_path / "elsewhere")
    (share / "z.jpg").symlink_to(tmp_path / "elsewhere" / "c.jpg")
    for where in (str(share), f"sftp://reader@127.0.0.1:{sftp.port}{share}"):
        walk = Walk(open_source(where))
        assert sorted(names(walk)) == ["a.jpg", "z.jpg"]
        assert (walk.left_out.links_to_folders, walk.left_out.ignored) == (1, 0)


def test_ignored_files_are_counted_by_kind(tmp_path: Path, jpeg: bytes) -> None:
    for name in ("a.zip", "b.ZIP", "c.zip", "d.pdf", "README", ".DS_Store", "._a.jpg", "Thumbs.db"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / "report.DoeJaneMary").write_text("not an image")
    (tmp_path / "1.2.840.19700101").write_text("not an image")
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    walk = Walk(open_source(str(tmp_path)))
    assert names(walk) == ["a.jpg"]
    assert walk.left_out.ignored_kinds == {
        ".zip": 3, ".pdf": 1, "without suffix": 1, "hidden": 3, "others": 2, "unreadable": 1,
    }  # fmt: skip
    assert walk.left_out.ignored == 11


def test_kinds_take_little_memory_however_many_there_are() -> None:
    ignored = IgnoredFiles()
    for number in range(1000):
        ignored.add(f"a.x{number}", readable=True)
    assert len(ignored.kinds) <= 21
    assert ignored.total == 1000
    assert ignored.kinds["others"] >= 980


def test_what_is_left_out_is_said_in_sentences() -> None:
    assert LeftOut().as_text() == "0 other files ignored."
    assert not LeftOut()
    left_out = LeftOut(
        ignored=5,
        ignored_kinds={"without suffix": 1, ".pdf": 1, ".zip": 3},
        links_to_folders=1,
        skipped_folders={".snapshot": 1, "@eaDir": 12},
        closed_folders=2,
    )
    assert left_out.as_text() == (
        "5 other files ignored: 3 .zip, 1 .pdf, 1 without suffix; 1 link to a folder not followed. "
        "Folders not walked: @eaDir (12), .snapshot (1). Folders that may not be read: 2."
    )


@pytest.mark.usefixtures("model")
def test_a_submission_says_what_it_left_out(database: Database, share: Path) -> None:
    (share / "notes.txt").write_text("not an image")
    submitted = submit(database, open_source(str(share)), name="trial")
    assert (submitted.found, submitted.ignored, submitted.skipped_folders["@eaDir"]) == (1, 1, 2)
    assert submitted.as_text().startswith(
        "Cohort trial: 1 image, 1 of them new; 1 other file ignored: 1 .txt. Folders not walked: "
        "$RECYCLE.BIN (2), @eaDir (2), "
    )


@pytest.mark.usefixtures("model")
def test_an_empty_source_says_what_was_there_instead(database: Database, share: Path, tmp_path: Path) -> None:
    (share / "ward" / "a.jpg").unlink()
    (share / "ward" / "a.gif").write_bytes(b"GIF89a")
    (share / "patient1").symlink_to(tmp_path)
    with pytest.raises(SourceEmpty) as caught:
        submit(database, open_source(str(share)), name="trial")
    assert "1 other file ignored: 1 .gif; 1 link to a folder not followed. Folders" in caught.value.detail


def test_a_night_logs_the_folders_that_it_did_not_walk(
    job_table: Database, share: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ward = Nightly(name="ward", source=str(share))
    run_id = run_now(job_table, ward)
    with caplog.at_level(logging.INFO, "scheduler.nightly.intake"):
        assert walk_night(job_table, NightlySettings(nightly=(ward,)), run_id)
    assert "Folders not walked: $RECYCLE.BIN (2), @eaDir (2)" in caplog.text


def test_training_does_not_learn_from_thumbnails_and_deleted_images(share: Path) -> None:
    (share / "ward").rename(share / "NORMAL")
    assert [image.path.name for image in find_labelled(share)] == ["a.jpg"]
