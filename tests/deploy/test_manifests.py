"""What is deployed is well formed: Kubernetes manifests, chart, compose file, dashboards, alert rules."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.31"
BESIDE_PYTHON = Path(sys.executable).parent
"""Where the wheels of requirements/deploy.txt put their programs."""
HELM, HADOLINT = (shutil.which(n, path=str(BESIDE_PYTHON)) or shutil.which(n) for n in ("helm", "hadolint"))


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


def helm(*arguments: str) -> str:
    done = subprocess.run([str(HELM), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(repository: Path, *options: str) -> list[dict[str, Any]]:
    text = helm("template", "metaspo", str(deployed(repository) / "helm" / "metaspo"), *options)
    return [item for item in yaml.safe_load_all(text) if item]


needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed: the chart is not rendered here")
EVERYTHING = (
    "--set=serviceMonitor.enabled=true,gateway.workers=2,gateway.autoscaling.max=20",
    "--set=networkPolicy.enabled=true,worker.replicas=3,redisUrlSecret=elsewhere",
)
LITTLE = ("--set=gateway.autoscaling.enabled=false,gateway.replicas=5,networkPolicy.enabled=false",)


@needs_helm
@pytest.mark.parametrize("options", [(), EVERYTHING, LITTLE], ids=["default", "everything", "little"])
def test_the_chart_renders_to_valid_manifests(repository: Path, options: tuple[str, ...]) -> None:
    items = rendered(repository, *options)
    for item in items:
        if item["kind"] != "ServiceMonitor":  # the Prometheus operator's, not in Kubernetes' own schema
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
    check_hardened(items)
    kinds = {item["kind"] for item in items}
    assert ("ServiceMonitor" in kinds) is (options == EVERYTHING)
    assert ("HorizontalPodAutoscaler" in kinds) is (options != LITTLE)
    gateway = next(i for i in items if i["kind"] == "Deployment" and i["metadata"]["name"] == "metaspo-gateway")
    assert gateway["spec"].get("replicas") == (5 if options == LITTLE else None)
    assert len({(item["kind"], item["metadata"]["name"]) for item in items}) == len(items)


@needs_helm
def test_the_chart_passes_its_linter(repository: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(deployed(repository) / "helm" / "metaspo"))


@needs_helm
def test_the_chart_s_config_is_one_that_the_product_reads(repository: Path, tmp_path: Path) -> None:
    from registry import load_settings

    config = next(i for i in rendered(repository) if i["kind"] == "ConfigMap")["data"]["metaspo.yaml"]
    (tmp_path / "metaspo.yaml").write_text(config)
    secrets = {"OPENAI_API_KEY": "sk-test", "APP_KEY": "app", "OPS_KEY": "ops"}
    assert load_settings(tmp_path / "metaspo.yaml", secrets).domains["global"].system_prompt


@needs_helm
def test_chart_and_manifests_deploy_the_same(repository: Path) -> None:
    """The same containers under the same names, but for what only a chart can know: labels of its release."""
    plain = yaml.safe_load((deployed(repository) / "kubernetes" / "metaspo.yaml").read_text())["items"]
    for ours, theirs in zip(
        *(sorted(containers(some), key=lambda c: str(c["name"])) for some in (plain, rendered(repository))), strict=True
    ):
        different = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
        assert different <= {"args", "imagePullPolicy"}, (ours["name"], different)
        assert theirs["args"][: len(ours["args"])] == ours["args"]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: the Dockerfile is not linted here")
def test_the_dockerfile_has_no_fault_that_a_linter_finds(repository: Path) -> None:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "info", str(repository / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_copies_what_the_product_is_made_of(repository: Path) -> None:
    """Where no container engine is: every package that the front door mounts is copied, and every source exists."""
    import metaspo

    text = (repository / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    sources = {name.rstrip("/") for names in copied for name in names}
    assert all((repository / name).exists() for name in sources)
    assert {*metaspo.PACKAGES, "processes", "metaspo.py", "requirements/base.txt"} <= sources


def test_what_the_image_copies_runs_by_itself(repository: Path, tmp_path: Path) -> None:
    """The Dockerfile's copies and its script, without an engine: in a folder of their own, and with exit codes."""
    text = (repository / "Dockerfile").read_text()
    copied = next(line for line in text.splitlines() if line.startswith("RUN cp -r ")).split()[3:-2]
    site = tmp_path / "site-packages"
    site.mkdir()
    subprocess.run(["cp", "-r", *copied, str(site)], cwd=repository, check=True)
    script = tmp_path / "metaspo"
    told = re.search(r"printf '(.+?)' >", text)
    assert told
    script.write_text(told.group(1).replace("\\n", "\n"))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site), "HOME": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", str(script), *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    where = [sys.executable, "-P", "-c", "import metaspo; print(metaspo.__file__)"]
    assert subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout.startswith(
        str(site)
    )
    for words in (("--version",), ("gateway", "serve", "--help"), ("jobs", "worker", "--help"), ("search", "--help")):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    assert run("no-such-command").returncode == 2
    assert run("restore", "nowhere").returncode == 1


def test_what_a_proxy_says_of_tls_is_believed_from_its_network_only(repository: Path) -> None:
    """Containers and pods have private addresses; everybody else's `x-forwarded-proto` is ignored."""
    name = "METASPO_GATEWAY_FORWARDED_ALLOW"
    compose = yaml.safe_load((repository / "docker-compose.yml").read_text())["services"]
    plain = yaml.safe_load((deployed(repository) / "kubernetes" / "metaspo.yaml").read_text())["items"]
    values = yaml.safe_load((deployed(repository) / "helm" / "metaspo" / "values.yaml").read_text())
    told = [compose["gateway"]["environment"][name], values["gateway"]["forwardedAllow"]]
    told += [e["value"] for c in containers(plain) if c["name"] == "gateway" for e in c["env"] if e["name"] == name]
    assert len(told) == 3
    for addresses in told:
        networks = [ipaddress.ip_network(text) for text in addresses.split(",")]
        assert not any(ipaddress.ip_address("8.8.8.8") in network for network in networks)
        assert any(ipaddress.ip_address("172.18.0.4") in network for network in networks)


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
