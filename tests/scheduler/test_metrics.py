"""Metrics, health and readiness over HTTP, of a real job table."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, NotScreened, claim, complete
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage
from db.models.predictions import Provenance, Screened
from db.models.registry import ensure_champion
from db.tables import Cohort, Image
from scheduler.metrics.broker import BrokerFigures, ask_broker
from scheduler.metrics.serve import WSGIServer, _Quiet, _Server, make_metrics_app
from tests.db.trust.cohorts import know_familiarity, screen, spread

IDLE = BrokerFigures(up=True, messages={"screen": (2, 1)}, workers={"screen": 1, "training": 0})


@pytest.fixture
def served(database: Database, artefact: Path) -> Iterator[str]:
    """Serve the metrics of a job table with one cohort: two screened, one failed, one pending."""
    from wsgiref.simple_server import make_server

    ensure_champion(database, artefact)
    with database.write() as session:
        cohort = open_cohort(session, "Ward of Dr Canary", source="/data")
        add_images(session, cohort.id, [NewImage(uri=f"/canary/{number}.png") for number in range(4)])
        mark_ready(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=3, in_flight=1)
        claimed = claim(session, batch_id, owner="host:1", lease_seconds=60)
        assert claimed is not None
        *good, bad = (item.image_id for item in claimed.images)
        complete(
            session,
            claimed,
            [
                Screened(image_id=one, probability=0.5, label="NORMAL", precision="fp32", input_digest="d")
                for one in good
            ],
            [NotScreened(bad, CorruptImage())],
            Provenance(threshold=0.5, runtime="r", preprocessing="p", software="s"),
            Effort(decode_seconds=1.5, forward_seconds=2.5, gpu_memory_bytes=1024),
        )
    server = make_server("127.0.0.1", 0, make_metrics_app(database, 60, lambda: IDLE), _Server, _Quiet)
    assert isinstance(server, WSGIServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(url: str) -> dict[str, float]:
    status, content = get(f"{url}/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(content):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("pneumoscreen_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


def test_metrics_cover_what_flower_does_not_show(served: str, database: Database) -> None:
    found = scrape(served)
    assert found["images{cohort=1,state=done}"] == 2
    assert found["images{cohort=1,state=failed}"] == 1
    assert found["images{cohort=1,state=pending}"] == 1
    assert found["problem_images{code=corrupt-image,state=failed}"] == 1
    assert found["batch_seconds_total{step=decode}"] == 1.5
    assert found["batch_seconds_total{step=forward}"] == 2.5
    assert 0 < found["batch_seconds_total{step=write}"] < 60
    assert found["images_finished_total"] == 3
    assert found["gpu_memory_bytes{worker=host:1}"] == 1024
    assert found["queue_messages{queue=screen,state=unacked}"] == 1
    assert found["workers{queue=training}"] == 0
    assert found["leases_lost_total"] == 0
    assert 0 <= found["seconds_since_batch"] < 60
    assert found["disk_free_bytes"] > 0
    assert any(name.startswith("champion_info{model=") for name in found)


def test_counts_of_finished_cohorts_are_kept_until_they_change(served: str, database: Database) -> None:
    with database.write() as session:
        session.execute(update(Image).values(state="failed", problem="corrupt-image"))
    assert scrape(served)["images{cohort=1,state=failed}"] == 4
    assert scrape(served)["oldest_pending_seconds"] == 0
    with database.write() as session:
        session.execute(update(Image).values(state="pending", problem=None))
        session.execute(update(Cohort).values(created_at=Cohort.created_at - 7200))
    again = scrape(served)
    assert again["images{cohort=1,state=pending}"] == 4
    assert 7200 <= again["oldest_pending_seconds"] < 7300


def test_a_cohort_that_is_unlike_the_training_hospital_is_a_metric(served: str, database: Database) -> None:
    know_familiarity(database)
    adults = screen(database, "adults", spread(60, most=0.2))
    children = screen(database, "children", spread(60))
    found = scrape(served)
    assert found[f"cohort_distrusted{{cohort={adults}}}"] == 1
    assert found[f"cohort_familiarity{{cohort={adults}}}"] == pytest.approx(0.1)
    assert found[f"cohort_distrusted{{cohort={children}}}"] == 0
    assert "cohort_distrusted{cohort=1}" not in found, "its model knew no familiarity"


def test_metrics_hold_no_name_and_no_path(served: str) -> None:
    assert "canary" not in get(f"{served}/metrics")[1].lower()


def test_health_and_readiness(served: str, database: Database) -> None:
    assert get(f"{served}/healthz") == (200, "ok\n")
    assert get(f"{served}/readyz")[0] == 200
    assert get(f"{served}/")[0] == 404
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert get(f"{served}/readyz")[0] == 503


def test_an_unavailable_broker_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", "redis://127.0.0.1:1/0")
    found = ask_broker()
    assert not found.up
    assert found.workers["screen"] == 0
