from __future__ import annotations

import json

import pytest

from tests.deploy.reading import BASE, DEPLOY, dockerfile, documents, parsed, unit, values, words


def service(name: str) -> list[str]:
    program, *arguments = words(unit(DEPLOY / "systemd" / "tiercel.service")[name][0])
    assert program.endswith("/tiercel")
    return arguments


def image() -> list[str]:
    final = dockerfile(DEPLOY / "docker" / "Dockerfile")[-1]
    assert json.loads(values(final, "ENTRYPOINT")[0]) == ["tiercel"]
    return json.loads(values(final, "CMD")[0])


def pod() -> list[str]:
    (deployment,) = documents(BASE / "deployment.yaml")
    return deployment["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("command", [service("ExecStart"), image(), pod()], ids=["unit", "image", "pod"])
def test_the_program_knows_how_a_deployment_starts_it(command: list[str]) -> None:
    assert command[0] == "serve"
    assert str(parsed(command)["config"]) == "/etc/tiercel/tiercel.toml"


def test_commands_that_exist_are_understood() -> None:
    options = parsed(["doctor", "--config", "/etc/tiercel/tiercel.toml", "--offline"])
    assert str(options["config"]) == "/etc/tiercel/tiercel.toml"
    assert options["offline"] is True


def test_an_option_that_the_program_does_not_have_is_noticed() -> None:
    with pytest.raises(Exception, match="--confg"):
        parsed(["doctor", "--confg", "x"])
