"""Decoder processes: the damage that a bad image can do to its decoder, and no more."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.problems import CorruptImage, DecoderCrashed, DecoderMemory, DecoderTimeout, ImageProblem
from db.tables import Image
from tests.pictures import read_picture, small_film
from tests.waiting import wait_for
from tests.worker.screening.batches import submit
from worker.decoding.pool import DecoderPool, DecodersUnusable
from worker.screening.batch import Screener
from worker.settings import WorkerSettings

#: Code that is loaded before a decoder's modules. It fails as a decoder in C might, on an image that ends
#: with the name of the failure.
POISON = """
import ctypes, os, time
import worker.decoding.decode as module

healthy = module.decode_file

def decode(content, *told):
    name = bytes(content[-16:]).strip().decode("ascii", "replace")
    if name == "segfault":
        ctypes.string_at(0)
    if name == "hang":
        time.sleep(3600)
    if name == "memory":
        kept = [bytearray(2**29) for _ in range(2**10)]
    if name == "environment":
        ours = [key for key in os.environ if "PNEUMOSCREEN" in key]
        raise KeyError if ours else LookupError
    if name == "write":
        import tempfile
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
        raise SystemExit("it could be written")
    return healthy(content, *told)

module.decode_file = decode
"""


def png(trailer: str = "") -> bytes:
    """Return a valid PNG that ends with a word for a poisoned decoder."""
    buffer = BytesIO()
    small_film(0).save(buffer, "PNG")
    return buffer.getvalue() + trailer.rjust(16).encode()


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make decoders load `POISON` when they start, as Python's `sitecustomize`."""
    folder = tmp_path / "poison"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(POISON)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def settings(**changed: float) -> WorkerSettings:
    return WorkerSettings.model_validate(
        {"decode_threads": 1, "decode_seconds": 6, "decoder_memory_bytes": 2**30} | changed
    )


@pytest.fixture
def decoders() -> Iterator[DecoderPool]:
    with DecoderPool(settings()) as decoders:
        yield decoders


def pids(decoders: DecoderPool) -> list[int]:
    return [decoder._process.pid for decoder in decoders._started]


def test_a_decoder_gives_the_same_picture_as_decoding_in_this_process(
    decoders: DecoderPool, phantoms: Path
) -> None:
    for file in sorted(path for path in phantoms.rglob("*") if path.is_file()):
        picture, expected = decoders.submit(file.read_bytes).result(), read_picture(file)
        assert np.array_equal(picture.pixels, expected.pixels)
        assert picture.digest == expected.digest
        assert picture.facts == expected.facts
        assert (picture.facts is not None) == (file.suffix not in (".jpeg", ".jpg", ".png"))


def test_processes_that_are_started_early_decode_the_first_files(phantoms: Path) -> None:
    with DecoderPool(settings(decode_threads=2)) as decoders:
        decoders.start()
        wait_for(lambda: len(decoders._started) == 2)
        early = pids(decoders)
        files = sorted(phantoms.rglob("*.png"))[:1] * 8
        assert [decoders.submit(file.read_bytes).result().pixels.shape for file in files] == [
            (224, 224, 3)
        ] * 8
        assert pids(decoders) == early


def test_a_problem_in_a_decoder_is_raised_in_the_worker(decoders: DecoderPool) -> None:
    with pytest.raises(CorruptImage):
        decoders.submit(lambda: png()[:300]).result()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("what", "problem"), [("segfault", DecoderCrashed), ("hang", DecoderTimeout), ("memory", DecoderMemory)]
)
def test_a_poison_image_fails_alone(what: str, problem: type[ImageProblem], decoders: DecoderPool) -> None:
    start = time.monotonic()
    futures = [decoders.submit(lambda word=word: png(word)) for word in ("", what, "")]  # type: ignore[misc]
    assert futures[0].result().pixels.shape == (224, 224, 3)
    with pytest.raises(problem):
        futures[1].result()
    assert futures[2].result().pixels.shape == (224, 224, 3)
    assert time.monotonic() - start < 60
    assert len(pids(decoders)) == 1


@pytest.mark.usefixtures("poisoned", "model")
def test_only_the_poison_images_of_a_batch_fail_each_with_its_code(
    database: Database, tmp_path: Path
) -> None:
    words = ["", "", "segfault", "", "hang", "memory", "", ""]
    files = [tmp_path / f"{number}.png" for number in range(len(words))]
    for file, word in zip(files, words, strict=True):
        file.write_bytes(png(word))
    Screener(database, settings(forward_images=4)).screen(submit(database, files))
    with database.read() as session:
        found = session.execute(select(Image.state, Image.problem).order_by(Image.id)).all()
    expected = {"segfault": "decoder-crashed", "hang": "decoder-timeout", "memory": "decoder-memory"}
    assert [problem for _, problem in found] == [expected.get(word) for word in words]
    assert [state for state, _ in found].count("done") == 5


@pytest.mark.usefixtures("poisoned")
def test_a_decoder_gets_no_settings_and_cannot_write_a_file(
    decoders: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", "postgresql://user:secret@db/x")
    with pytest.raises(ImageProblem) as caught:
        decoders.submit(lambda: png("environment")).result()
    assert caught.value.detail == "LookupError"
    with pytest.raises(ImageProblem) as caught:
        decoders.submit(lambda: png("write")).result()
    # `tempfile` tries one folder after another, and reports that none is usable.
    assert caught.value.detail == "FileNotFoundError", "a decoder could write a file"


def test_an_image_whose_decoder_was_killed_is_decoded_by_another_one(decoders: DecoderPool) -> None:
    decoders.submit(png).result()
    (first,) = pids(decoders)
    os.kill(first, signal.SIGKILL)
    assert decoders.submit(png).result().pixels.shape == (224, 224, 3)
    assert pids(decoders) != [first]


def test_a_decoder_ignores_stop_signals_that_reach_every_process(decoders: DecoderPool) -> None:
    decoders.submit(png).result()
    (first,) = pids(decoders)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        os.kill(first, number)
    time.sleep(0.2)
    decoders.submit(png).result()
    assert pids(decoders) == [first]


def test_decoders_end_with_the_pool() -> None:
    with DecoderPool(settings()) as decoders:
        decoders.submit(png).result()
        (pid,) = pids(decoders)
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.usefixtures("poisoned")
def test_a_hanging_decoder_dies_with_its_worker(tmp_path: Path) -> None:
    (tmp_path / "hang.png").write_bytes(png("hang"))
    code = (
        "import sys, pathlib;"
        "from worker.decoding.pool import DecoderPool; from worker.settings import WorkerSettings;"
        "d = DecoderPool(WorkerSettings(decode_threads=1));"
        "d.submit(pathlib.Path(sys.argv[1]).read_bytes).result()"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "hang.png")])

    def decoder() -> list[int]:
        found = Path(f"/proc/{worker.pid}/task").glob("*/children")
        return [int(pid) for file in found for pid in file.read_text().split()]

    wait_for(decoder)
    time.sleep(1.5)
    (pid,) = decoder()
    worker.kill()
    worker.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 10)


def test_if_decoders_do_not_start_the_batch_waits(
    database: Database, model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.png").write_bytes(png())
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    batch_id = submit(database, [tmp_path / "one.png"])
    with pytest.raises(DecodersUnusable):
        Screener(database, settings()).screen(batch_id)
    with database.read() as session:
        assert session.scalars(select(Image.state)).all() == ["queued"]


@pytest.mark.parametrize("spare", [0, 2])
def test_if_no_process_can_be_started_decoders_are_unusable_and_no_image_fails(spare: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def read() -> bytes:
        # New files get the lowest free numbers: a limit at the last of these leaves `spare` numbers free.
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(spare + 1)]
        for one in opened:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened[-1], hard))
        return png()

    with DecoderPool(settings()) as decoders:
        try:
            with pytest.raises(DecodersUnusable, match="Too many open files"):
                decoders.submit(read).result()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert decoders.submit(png).result().pixels.shape == (224, 224, 3)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder of modules that write a file if they are imported; return this file's path."""
    (tmp_path / "images" / "worker").mkdir(parents=True)
    for module in ("ctypes.py", "json.py", "worker/__init__.py"):
        (tmp_path / "images" / module).write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path / "images")
    return tmp_path / "mark"


def test_modules_in_a_folder_of_images_are_not_imported(decoders: DecoderPool, planted: Path) -> None:
    from scheduler.cli.system.doctor import _machine

    assert decoders.submit(png).result().pixels.shape == (224, 224, 3)
    assert {finding.verdict for finding in _machine()} <= {"good", "note"}
    assert not planted.exists()


def test_a_compromised_decoder_that_answers_byte_by_byte_is_stopped_at_the_deadline() -> None:
    import worker.decoding.pool as module

    ours, theirs = socket.socketpair()
    decoder = object.__new__(module._Decoder)
    decoder._socket = ours

    def drip() -> None:
        with theirs, suppress(OSError):
            theirs.sendall(b'\0\0\0\x0f{"facts": null}')
            while True:
                time.sleep(0.2)
                theirs.sendall(b"\0")

    dripping = threading.Thread(target=drip)
    dripping.start()
    start = time.monotonic()
    # Without a deadline for the whole answer, 150,528 bytes would come at five a second: close after 10 s.
    closing = threading.Timer(10, ours.shutdown, [socket.SHUT_RDWR])
    closing.start()
    with pytest.raises(DecoderTimeout):
        decoder.decode(b"", 1)
    assert time.monotonic() - start < 5
    closing.cancel()
    ours.close()
    dripping.join()


def test_invalid_answers_of_a_compromised_decoder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import worker.decoding.pool as module

    lies = [
        b'\0\0\0\x0f{"facts": null}' + bytes(5),
        b'\0\0\0\x10{"facts": [1,2]}' + bytes(150528),
        b'\0\0\0\x10{"facts":{"a":1}}' + bytes(150528),
        b"\xff\xff\xff\xff",
        b'\0\0\0\x14{"problem": "other"}',
        b"\0\0\0\x02[]",
    ]
    for lie in lies:
        ours, theirs = socket.socketpair()
        decoder = object.__new__(module._Decoder)
        decoder._socket = ours
        theirs.sendall(lie)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(DecoderCrashed):
            decoder.decode(b"", 1)
        ours.close()
        theirs.close()
