from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.reading import DEPLOY, read_with, unit

UNIT = DEPLOY / "systemd" / "tiercel.service"
SETTINGS = DEPLOY / "systemd" / "tiercel.toml"
ANALYZE = shutil.which("systemd-analyze")


def credentials() -> dict[str, str]:
    """Files that LoadCredential makes, where a unit of the system finds them."""
    names = [value.partition(":")[0] for value in unit(UNIT)["LoadCredential"]]
    return {f"/run/credentials/tiercel.service/{name}": "sk-0123456789" for name in names}


def test_the_settings_are_right_with_the_credentials_of_the_unit(tmp_path: Path) -> None:
    settings = read_with(SETTINGS, credentials(), tmp_path)
    assert settings.warnings == ()
    assert settings.providers[0].upstream()["api_key"] == "sk-0123456789"
    assert float(unit(UNIT)["TimeoutStopSec"][0]) > settings.server.drain_s


def test_the_store_lies_in_the_folder_that_the_unit_may_write(tmp_path: Path) -> None:
    settings = read_with(SETTINGS, credentials(), tmp_path)
    assert Path(settings.capture.location).parent == Path("/var/lib") / unit(UNIT)["StateDirectory"][0]


def test_a_reload_is_the_signal_that_the_gateway_listens_for() -> None:
    assert unit(UNIT)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_no_key_stands_in_the_unit() -> None:
    assert "Environment" not in unit(UNIT)
    assert "EnvironmentFile" not in unit(UNIT)


def copy(folder: Path) -> Path:
    """The unit with a program that is here: systemd looks whether it exists."""
    path = folder / "tiercel.service"
    path.write_text(UNIT.read_text().replace("/opt/tiercel/bin/tiercel", "/bin/true"))
    return path


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, "verify", str(copy(tmp_path))], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "tiercel" in line] == []
    assert done.returncode == 0


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_calls_its_exposure_low(tmp_path: Path) -> None:
    assert ANALYZE is not None
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", str(copy(tmp_path))], capture_output=True, text=True, check=False
    )
    if "offline" in done.stderr:
        pytest.skip("this systemd judges running units only")
    level = re.search(r"exposure level for tiercel\.service: ([\d.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= 2.0
