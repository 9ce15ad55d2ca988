from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.reading import BASE, PRODUCTION, STORE_URL, documents, read_with
from tiercel import __version__
from tiercel.gateway.openapi import openapi_document
from tiercel.gateway.sections import Settings

KUBECTL = shutil.which("kubectl")
NAMES = {"app.kubernetes.io/name": "tiercel"}


def by_kind(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    kinds = {d["kind"]: d for d in found}
    assert len(kinds) == len(found)
    return kinds


def resources(folder: Path) -> list[dict[str, Any]]:
    (kustomization,) = documents(folder / "kustomization.yaml")
    return [d for name in kustomization["resources"] if name.endswith(".yaml") for d in documents(folder / name)]


PLAIN = by_kind(resources(BASE))
POD = PLAIN["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def settings(folder: Path) -> Settings:
    where = next(m["mountPath"] for m in CONTAINER["volumeMounts"] if m["name"] == "secrets")
    return read_with(BASE / "tiercel.toml", {f"{where}/openai": "sk-0123456789", f"{where}/store": STORE_URL}, folder)


@pytest.mark.parametrize("folder", [BASE, PRODUCTION], ids=["base", "production"])
def test_what_a_kustomization_names_exists_and_nothing_lies_about(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    named = [*kustomization["resources"], *(p["path"] for p in kustomization.get("patches", []))]
    named += [f for generator in kustomization.get("configMapGenerator", []) for f in generator["files"]]
    assert [name for name in named if not (folder / name).exists()] == []
    assert {p.name for p in folder.iterdir()} - {"kustomization.yaml"} == {n for n in named if "/" not in n}
    assert all(image["newTag"] == __version__ for image in kustomization["images"])


def test_the_probes_ask_paths_that_the_gateway_serves_at_its_port(tmp_path: Path) -> None:
    read = settings(tmp_path)
    ports = {p["name"]: p["containerPort"] for p in CONTAINER["ports"]}
    assert ports["http"] == read.server.port
    paths = openapi_document(read)["paths"]
    probes = [CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert [p["path"] for p in probes] == ["/healthz", "/healthz", "/readyz"]
    assert all(p["path"] in paths and p["port"] in ports for p in probes)
    notes = PLAIN["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(read.server.port)
    assert notes["prometheus.io/path"] in paths
    assert PLAIN["Service"]["spec"]["ports"][0]["targetPort"] in ports
    assert PLAIN["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == read.server.port


def test_the_settings_are_right_with_the_secret_that_is_mounted(tmp_path: Path) -> None:
    read = settings(tmp_path)
    assert read.warnings == ()
    assert read.server.needs_keys
    assert read.capture.location == STORE_URL


def test_a_pod_has_time_to_drain(tmp_path: Path) -> None:
    pause = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > pause + settings(tmp_path).server.drain_s


def test_a_pod_keeps_to_the_restricted_standard() -> None:
    context = CONTAINER["securityContext"]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    assert POD["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert POD["automountServiceAccountToken"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(CONTAINER["resources"]) == {"requests", "limits"}


def test_volumes_are_mounted_and_only_the_temporary_one_is_writable() -> None:
    mounts = {m["name"]: m for m in CONTAINER["volumeMounts"]}
    volumes = {v["name"]: v for v in POD["volumes"]}
    assert set(mounts) == set(volumes)
    assert {name for name, m in mounts.items() if not m.get("readOnly")} == {"temporary"}
    assert volumes["secrets"]["secret"]["defaultMode"] == 0o440
    assert (
        volumes["bundles"]["persistentVolumeClaim"]["claimName"] == PLAIN["PersistentVolumeClaim"]["metadata"]["name"]
    )


def test_no_secret_stands_in_a_manifest() -> None:
    for folder in (BASE, PRODUCTION):
        assert all(d["kind"] != "Secret" for d in resources(folder))
    assert "env" not in CONTAINER


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", [BASE, PRODUCTION], ids=["base", "production"])
def test_kustomize_puts_the_manifests_together(folder: Path) -> None:
    assert KUBECTL is not None
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = by_kind([d for d in yaml.safe_load_all(done.stdout) if d])
    deployment = built["Deployment"]["spec"]
    pod = deployment["template"]
    for selector in (
        deployment["selector"]["matchLabels"],
        built["Service"]["spec"]["selector"],
        built["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        built["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == NAMES
        assert selector.items() <= pod["metadata"]["labels"].items()
    postgres = built["NetworkPolicy"]["spec"]["egress"][1]["to"][0]["podSelector"]["matchLabels"]
    assert postgres == {"app.kubernetes.io/name": "postgres"}
    image = pod["spec"]["containers"][0]["image"]
    assert image.endswith(f"tiercel:{__version__}")
    mounted = next(v for v in pod["spec"]["volumes"] if v["name"] == "settings")["configMap"]["name"]
    assert mounted == built["ConfigMap"]["metadata"]["name"] != "tiercel"
    assert built["ConfigMap"]["data"]["tiercel.toml"] == (BASE / "tiercel.toml").read_text()
    if folder == PRODUCTION:
        assert {d["metadata"].get("namespace") for d in built.values()} - {None} == {"tiercel"}
        assert "replicas" not in deployment
        scaled = built["HorizontalPodAutoscaler"]["spec"]
        assert scaled["scaleTargetRef"]["name"] == built["Deployment"]["metadata"]["name"]
        assert scaled["minReplicas"] > built["PodDisruptionBudget"]["spec"]["minAvailable"]
