"""What is deployed is well formed: Kubernetes manifests, chart, compose file, dashboards, alert rules."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.31"


def deployed(repository: Path) -> Path:
    return repository / "deploy"


def containers(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [c for item in items if item["kind"] == "Deployment" for c in item["spec"]["template"]["spec"]["containers"]]


def test_the_plain_manifests_fit_the_schema(repository: Path) -> None:
    items = yaml.safe_load((deployed(repository) / "kubernetes" / "metaspo.yaml").read_text())["items"]
    for item in items:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    assert {item["kind"] for item in items} >= {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "ConfigMap",
    }  # fmt: skip
    check_hardened(items)


def check_hardened(items: list[dict[str, Any]]) -> None:
    """Non-root, read-only, no capabilities, limits and probes: on every container."""
    found = containers(items)
    assert len(found) == 3
    for container in found:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"]
        assert container["livenessProbe"]
    for item in items:
        if item["kind"] == "Deployment":
            assert item["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed: the chart is not rendered here")
def test_the_chart_renders_to_valid_manifests(repository: Path) -> None:
    chart = deployed(repository) / "helm" / "metaspo"
    rendered = subprocess.run(
        ["helm", "template", "metaspo", str(chart)], check=True, capture_output=True, text=True
    ).stdout
    items = [item for item in yaml.safe_load_all(rendered) if item]
    for item in items:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    check_hardened(items)


def test_the_chart_and_the_plain_manifests_run_the_same_commands(repository: Path) -> None:
    plain = containers(yaml.safe_load((deployed(repository) / "kubernetes" / "metaspo.yaml").read_text())["items"])
    templates = "".join(p.read_text() for p in (deployed(repository) / "helm" / "metaspo" / "templates").iterdir())
    for container in plain:
        assert container["args"][:2] in (["gateway", "serve"], ["jobs", "worker"], ["jobs", "scheduler"])
        for variable in container["env"]:
            assert variable["name"] in templates
    assert "args: [gateway, serve" in templates
    assert "args: [jobs, {{ $component }}, --metrics" in templates


def test_the_compose_file_is_hardened_and_healthy(repository: Path) -> None:
    compose = yaml.safe_load((repository / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"redis", "gateway", "front", "worker", "scheduler", "prometheus", "grafana"}
    for name, service in services.items():
        assert service.get("read_only") is True, name
        assert service["healthcheck"]["test"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
    assert services["gateway"]["deploy"]["replicas"] == 2
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (repository / source).exists(), volume


def test_the_dashboards_are_what_their_table_says(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("build", deployed(repository) / "grafana" / "build.py")
    assert spec and spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    for name, text in build.build().items():
        written = (deployed(repository) / "grafana" / "dashboards" / name).read_text()
        assert written == text, f"run: python deploy/grafana/build.py ({name} is out of date)"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (apt-get install prometheus)")
def test_the_alert_rules_fire_when_they_should(repository: Path) -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
