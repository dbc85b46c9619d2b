"""Files for Compose, Kubernetes and systemd: they are valid, and their services have few rights."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "pneumoscreen.yaml").read_text()))
DEPLOYMENTS = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == "Deployment"}
OURS = sorted(name for name, service in COMPOSE["services"].items() if "build" in service)


def test_compose_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_manifests_are_valid(version: str) -> None:
    for manifest in MANIFESTS:
        kubernetes_validate.validate(manifest, version, strict=True)


def pod(name: str) -> dict[str, Any]:
    return dict(DEPLOYMENTS[name]["spec"]["template"]["spec"])


def test_compose_and_kubernetes_run_the_same_roles() -> None:
    assert sorted(DEPLOYMENTS) == OURS


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_compose_runs_without_privileges(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    dockerfile = (DEPLOY.parent / service["build"]["dockerfile"]).read_text()
    assert re.search(r"^USER 10001$", dockerfile, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK", dockerfile, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_a_pod_runs_without_privileges(name: str) -> None:
    spec = pod(name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    for variable in container["env"]:
        assert not re.search(r"password|://[^/]+@", str(variable.get("value")), re.IGNORECASE)


#: The secrets of Flower: those of the broker and its own, none of the job table.
FLOWERS = {
    "pneumoscreen_broker_url", "pneumoscreen_flower_password", "pneumoscreen_flower_cookie_secret", "ca.crt",
}  # fmt: skip


def test_flower_is_given_no_job_table_no_images_and_no_models() -> None:
    service = COMPOSE["services"]["flower"]
    assert set(service["secrets"]) == FLOWERS
    assert service["volumes"] == ["flower:/data"]
    volumes = {one["name"]: one for one in pod("flower")["volumes"]}
    claims = [one["persistentVolumeClaim"] for one in volumes.values() if "persistentVolumeClaim" in one]
    assert claims == [{"claimName": "flower"}]
    assert {item["key"] for item in volumes["secrets"]["secret"]["items"]} == FLOWERS
    for name in set(OURS) - {"flower"}:
        assert not {"pneumoscreen_flower_password", "pneumoscreen_flower_cookie_secret"} & set(
            COMPOSE["services"][name]["secrets"]
        )


def test_workers_request_a_gpu_and_have_time_to_finish() -> None:
    for name in ("worker", "training"):
        (container,) = pod(name)["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod("worker")["terminationGracePeriodSeconds"] >= 120


def test_scaling_follows_the_number_of_waiting_images() -> None:
    scaled = yaml.safe_load((DEPLOY / "kubernetes" / "keda.yaml").read_text())["spec"]
    assert scaled["scaleTargetRef"]["name"] in DEPLOYMENTS
    query = scaled["triggers"][0]["metadata"]["query"]
    assert re.findall(r"pneumoscreen_\w+", query) == ["pneumoscreen_images"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_units_are_valid(tmp_path: Path) -> None:
    for unit in (DEPLOY / "systemd").iterdir():
        # The programs are not installed here.
        text = unit.read_text().replace("/opt/pneumoscreen/bin/", "/bin/true ")
        (tmp_path / unit.name.replace("@.", "@0.")).write_text(text)
    units = [str(unit) for unit in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "pneumoscreen" in line]
    assert ours == []
