from __future__ import annotations

import json
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.reading import DEPLOY, ROOT, STORE_URL, dockerfile, documents, read_with, values
from tiercel import __version__
from tiercel.gateway.openapi import openapi_document
from tiercel.gateway.sections import Settings

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
SETTINGS = DEPLOY / "docker" / "tiercel.toml"
STAGES = dockerfile(DOCKERFILE)
COMPOSE: dict[str, Any] = documents(DEPLOY / "docker" / "compose.yaml")[0]
GATEWAY = COMPOSE["services"]["gateway"]
PINNED = re.compile(r"[\w./-]+:\d+\.\d+(\.\d+)?[\w.-]*(@sha256:[0-9a-f]{64})?")


def settings(folder: Path) -> Settings:
    mounts = {f"/run/secrets/{name}": "sk-0123456789" for name in GATEWAY["secrets"]}
    return read_with(SETTINGS, mounts | {"/run/secrets/store": STORE_URL}, folder)


def probed(text: str) -> tuple[int, str]:
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", text)
    assert found is not None, text
    return int(found[1]), found[2]


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_images_are_of_a_version() -> None:
    bases = [rest.split()[0] for stage in STAGES for rest in values(stage, "FROM")]
    for image in [*bases, *(s["image"] for s in COMPOSE["services"].values())]:
        assert PINNED.fullmatch(image), image
    assert GATEWAY["image"] == f"tiercel:{__version__}"


def copied() -> list[str]:
    sources: list[str] = []
    for stage in STAGES:
        for rest in values(stage, "COPY"):
            parts = rest.split()
            if not parts[0].startswith("--from="):
                sources += [p for p in parts[:-1] if not p.startswith("--")]
    return sources


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_is_sent_to_the_build(source: str) -> None:
    assert (ROOT / source).exists()
    rules = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    sent = True
    for rule in rules:
        if rule and not rule.startswith("#") and fnmatch(source, rule.lstrip("!")):
            sent = rule.startswith("!")
    assert sent, f"{source} is ignored"


def test_the_stages_that_are_copied_from_exist() -> None:
    names = [rest.split()[-1] for stage in STAGES for rest in values(stage, "FROM") if " AS " in rest]
    for stage in STAGES:
        for rest in values(stage, "COPY"):
            if rest.startswith("--from="):
                assert rest.split()[0].removeprefix("--from=") in names


def test_everything_is_installed_in_the_versions_of_the_lock() -> None:
    runs = [line for stage in STAGES for line in values(stage, "RUN") if "pip install" in line]
    assert runs
    assert all("--constraint requirements.lock" in line for line in runs)


def test_the_extras_that_are_installed_exist() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (extras,) = [v.partition("=")[2] for v in values(STAGES[0], "ARG") if v.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(known)


def test_the_container_is_not_root_and_holds_no_secret() -> None:
    last = STAGES[-1]
    user, _, group = values(last, "USER")[-1].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert [name for name, _ in last].index("USER") > [name for name, _ in last].index("COPY")
    given = " ".join(rest for stage in STAGES for name, rest in stage if name in ("ENV", "ARG"))
    assert not re.search(r"key|token|secret|password", given, re.IGNORECASE)
    assert not [rest for stage in STAGES for name, rest in stage if name == "ADD"]


def test_the_image_asks_a_path_that_the_gateway_serves_at_its_port(tmp_path: Path) -> None:
    served = settings(tmp_path)
    for test in (values(STAGES[-1], "HEALTHCHECK")[0], " ".join(GATEWAY["healthcheck"]["test"])):
        port, path = probed(test)
        assert port == served.server.port
        assert path in openapi_document(served)["paths"]
    assert values(STAGES[-1], "EXPOSE") == [str(served.server.port)]
    assert GATEWAY["ports"] == [f"127.0.0.1:8080:{served.server.port}"]


def test_the_probe_is_python_that_fails_where_nobody_listens() -> None:
    command = json.loads(values(STAGES[-1], "HEALTHCHECK")[0].partition("CMD ")[2])
    code = command[-1].replace(":8080/", ":9/")
    assert command[:2] == ["python", "-c"]
    done = subprocess.run([shutil.which("python3") or "python3", "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"URLError" in done.stderr


def test_the_settings_are_right_with_the_secrets_that_compose_mounts(tmp_path: Path) -> None:
    read = settings(tmp_path)
    assert read.warnings == ()
    assert read.server.needs_keys
    assert read.capture.location == STORE_URL
    assert seconds(GATEWAY["stop_grace_period"]) > read.server.drain_s
    assert f"@postgres:5432/{COMPOSE['services']['postgres']['environment']['POSTGRES_DB']}" in STORE_URL


def test_what_compose_names_is_defined() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        assert "healthcheck" in service
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                assert mount["source"] in COMPOSE["volumes"]
    folder = DEPLOY / "docker"
    assert (folder / GATEWAY["build"]["context"]).resolve() == ROOT
    assert (ROOT / GATEWAY["build"]["dockerfile"]) == DOCKERFILE
    assert {s["file"].partition("/secrets/")[0] for s in COMPOSE["secrets"].values()} == {"."}


def test_the_gateways_container_can_write_nowhere_but_to_memory() -> None:
    assert GATEWAY["read_only"] is True
    assert GATEWAY["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in GATEWAY["security_opt"]
    assert all(mount["read_only"] for mount in GATEWAY["volumes"])
    mounted = {mount["target"] for mount in GATEWAY["volumes"]}
    assert mounted == {"/etc/tiercel/tiercel.toml", "/bundles"}


def test_the_database_is_reached_by_the_gateway_alone() -> None:
    assert COMPOSE["networks"]["database"]["internal"] is True
    assert COMPOSE["services"]["postgres"]["networks"] == ["database"]
    assert "ports" not in COMPOSE["services"]["postgres"]


def has_compose() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="docker has no compose")
def test_compose_itself_reads_the_file() -> None:
    command = ["docker", "compose", "--file", str(DEPLOY / "docker" / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
