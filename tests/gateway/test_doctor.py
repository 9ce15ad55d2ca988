from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.gateway.conftest import KEY, Loop, running, serving
from tests.ports import free_port
from tiercel.gateway import _doctor_places
from tiercel.gateway._doctor_network import models_url
from tiercel.gateway.doctor import NEEDED, examine, extras
from tiercel.gateway.finding import Finding
from tiercel.gateway.sections import Capture, Provider, Settings

MODELS = {"object": "list", "data": [{"id": "frontier-1"}, {"id": "frontier-2"}]}


def found(path: Path | None, environ: dict[str, str] | None = None, *, offline: bool = False) -> dict[str, Finding]:
    findings = list(examine(path, environ or {}, offline=offline))
    assert all(f.text and "\n" not in f.text for f in findings)
    assert KEY not in str(findings)
    return {f.check: f for f in findings}


def write(folder: Path, text: str) -> Path:
    path = folder / "tiercel.toml"
    path.write_text(text)
    return path


def test_a_good_installation_has_no_error(tmp_path: Path, bundle_folder: Path) -> None:
    text = f'[server]\nport = {free_port()}\n[[workload]]\nname = "desk"\nbundle = "{bundle_folder}"\n'
    findings = found(write(tmp_path, text), offline=True)
    assert {f.verdict for f in findings.values()} <= {"ok", "skipped"}
    assert findings["bundle of desk"].verdict == "ok"
    assert "Python 3." in findings["program"].text
    assert "aiohttp" in findings[f"extra {NEEDED}"].text


def test_the_extras_are_those_of_the_package() -> None:
    assert set(extras()["serve"]) >= {"aiohttp", "onnxruntime"}
    assert extras()["postgres"] == ("psycopg",)
    assert not {"dev", "all"} & set(extras())


def test_every_mistake_of_the_settings_is_a_finding_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nport = -1\nprot = 1\n[[provider]]\nname = "a"\nkey_env = "NO_SUCH"')
    findings = [f for f in examine(path, {}) if f.check == "configuration"]
    assert [f.verdict for f in findings] == ["error"] * 3
    assert found(path)["the rest"].verdict == "skipped"


def test_a_missing_file_is_an_error_and_no_file_a_warning(tmp_path: Path) -> None:
    assert found(tmp_path / "none.toml")["configuration"].verdict == "error"
    finding = next(f for f in examine(None, {}, offline=True) if f.check == "configuration")
    assert finding.verdict == "warning"
    assert "tiercel init" in finding.text


def test_a_changed_bundle_is_an_error(tmp_path: Path, bundle_folder: Path) -> None:
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    with (tmp_path / "bundle" / "policy.json").open("a") as stream:
        stream.write(" ")
    finding = found(write(tmp_path, '[[workload]]\nname = "desk"\nbundle = "bundle"'), offline=True)["bundle of desk"]
    assert finding.verdict == "error"
    assert "policy.json was changed" in finding.text


def test_a_forged_certificate_is_an_error(tmp_path: Path, bundle_folder: Path) -> None:
    import hashlib

    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    record = json.loads((folder / "certificate.json").read_text())
    record["rows"][0][2] = 1.0 - record["rows"][0][2]
    (folder / "certificate.json").write_text(json.dumps(record))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["certificate.json"] = hashlib.sha256((folder / "certificate.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    finding = found(write(tmp_path, '[[workload]]\nname = "desk"\nbundle = "bundle"'), offline=True)["bundle of desk"]
    assert finding.verdict == "error"
    assert "its certificate does not hold" in finding.text


@pytest.mark.parametrize("answer", ["<html>", "[]", "{}", '{"status": "ok"}'])
def test_a_port_that_another_program_holds_is_an_error(tmp_path: Path, loop: Loop, answer: str) -> None:
    with running(loop, frontier(lambda _: web.Response(text=answer))) as url:
        port = int(url.rsplit(":", 1)[1].partition("/")[0])
        finding = found(write(tmp_path, f"[server]\nport = {port}"), offline=True)["port"]
    assert finding.verdict == "error"
    assert "held by another program" in finding.text


class TestPrices:
    PROVIDER = '[[provider]]\nname = "a"\nurl = "http://127.0.0.1:1/v1"\n'
    BUDGET = '[[workload]]\nname = "desk"\nbudget_usd = 5\n'

    def finding(self, folder: Path, text: str) -> Finding:
        return found(write(folder, f'{text}[capture]\nstore = "store.db"\n'), offline=True)["prices"]

    def test_without_budgets_prices_are_not_needed(self, tmp_path: Path) -> None:
        assert self.finding(tmp_path, f'{self.PROVIDER}model = "nobody-knows"\n').verdict == "ok"

    @pytest.mark.parametrize(
        ("provider", "rest", "missing"),
        [
            ('model = "nobody-knows"\n', "", "nobody-knows"),
            ('only = ["gpt-4o", "nobody-*", "nobody-knows"]\n', "", "nobody-knows"),
            ("", '[frontier]\ndefault_model = "nobody-knows"\n', "nobody-knows"),
            ('models = { "gpt-4o" = "deployed", "strange" = "other" }\n', "", "other"),
        ],
    )
    def test_a_model_without_a_price_is_a_warning_where_a_workload_has_a_budget(
        self, tmp_path: Path, provider: str, rest: str, missing: str
    ) -> None:
        finding = self.finding(tmp_path, self.PROVIDER + provider + self.BUDGET + rest)
        assert finding.verdict == "warning"
        assert f"would not hold for {missing}, so" in finding.text
        (tmp_path / "prices.csv").write_text(f"model,input,output\n{missing},0,0\n")
        priced = f'[costs]\nprices = "prices.csv"\n{self.PROVIDER}{provider}{self.BUDGET}{rest}'
        assert self.finding(tmp_path, priced).verdict == "ok"

    def test_a_key_with_a_budget_is_enough(self, tmp_path: Path) -> None:
        from tiercel.store.database import open_database
        from tiercel.store.keys import create_key, revoke_key

        database = open_database(tmp_path / "store.db")
        key, _ = create_key(database, "test", budget_usd=1.0)
        text = f'{self.PROVIDER}model = "nobody-knows"\n'
        assert self.finding(tmp_path, text).verdict == "warning"
        revoke_key(database, key.id)
        database.close()
        assert self.finding(tmp_path, text).verdict == "ok"


def test_a_port_that_a_running_gateway_holds_is_fine(
    tmp_path: Path, configured: Callable[..., Settings], loop: Loop
) -> None:
    with serving(loop, configured()) as gateway:
        port = int(gateway.url.rsplit(":", 1)[1].partition("/")[0])
        finding = found(write(tmp_path, f"[server]\nport = {port}"), offline=True)["port"]
    assert finding.verdict == "ok"
    assert "running Tiercel" in finding.text


def test_an_address_that_this_machine_does_not_have_is_an_error(tmp_path: Path) -> None:
    finding = found(write(tmp_path, '[server]\nhost = "192.0.2.1"'), offline=True)["port"]
    assert finding.verdict == "error"


def frontier(handler: Callable[[web.Request], web.Response]) -> web.Application:
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return handler(request)

    app.router.add_get("/{path:.*}", answer)
    return app


def asked(
    tmp_path: Path, loop: Loop, handler: Callable[[web.Request], web.Response], more: str = ""
) -> tuple[Finding, list[web.Request]]:
    seen: list[web.Request] = []

    def noted(request: web.Request) -> web.Response:
        seen.append(request)
        return handler(request)

    with running(loop, frontier(noted)) as url:
        text = f'[server]\nport = 0\n[[provider]]\nname = "a"\nurl = "{url}"\nkey_env = "K"\n{more}'
        return found(write(tmp_path, text), {"K": KEY})["provider a"], seen


def test_a_provider_is_asked_for_its_models_with_its_key(tmp_path: Path, loop: Loop) -> None:
    finding, (request,) = asked(tmp_path, loop, lambda _: web.json_response(MODELS), 'model = "frontier-1"')
    assert finding.verdict == "ok"
    assert "2 models" in finding.text
    assert request.path == "/v1/models"
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_each_kind_sends_the_key_its_own_way(tmp_path: Path, loop: Loop) -> None:
    _, (request,) = asked(tmp_path, loop, lambda _: web.json_response(MODELS), 'kind = "anthropic"')
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"]
    _, (request,) = asked(tmp_path, loop, lambda _: web.json_response(MODELS), 'kind = "azure"')
    assert request.headers["api-key"] == KEY
    assert "Authorization" not in request.headers


def test_azures_resource_lists_its_models_with_a_version() -> None:
    provider = Provider(name="a", kind="azure", url="https://me.openai.azure.com/", api_version="2024-10-21")
    assert models_url(provider) == "https://me.openai.azure.com/openai/models?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (lambda _: web.Response(status=401, text=f"bad key {KEY}"), "error", "does not take the key (401, K)"),
        (lambda _: web.Response(status=403), "error", "does not take the key"),
        (lambda _: web.Response(status=404), "warning", "lists no models"),
        (lambda _: web.Response(status=429), "warning", "answers with 429"),
        (lambda _: web.Response(status=500), "warning", "answers with 500"),
        (lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), "error", "redirects"),
        (lambda _: web.Response(text="<html>"), "warning", "not with a list of models"),
        (lambda _: web.json_response([1]), "warning", "not with a list of models"),
        (
            lambda _: web.json_response(MODELS, headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}),
            "warning",
            "set this machine's clock",
        ),
        (lambda _: web.json_response({"data": [{"id": "other"}]}), "warning", "does not list frontier-1"),
    ],
)
def test_what_a_provider_says_is_told_in_one_line(
    tmp_path: Path, loop: Loop, answer: Callable[[web.Request], web.Response], verdict: str, words: str
) -> None:
    finding, _ = asked(tmp_path, loop, answer, 'model = "frontier-1"')
    assert finding.verdict == verdict
    assert words in finding.text


def test_a_provider_that_is_not_there_is_an_error_and_offline_it_is_not_asked(tmp_path: Path) -> None:
    path = write(tmp_path, f'[[provider]]\nname = "a"\nurl = "http://127.0.0.1:{free_port()}"')
    assert found(path)["provider a"].verdict == "error"
    assert "can't be reached" in found(path)["provider a"].text
    assert found(path, offline=True)["provider a"].verdict == "skipped"


def test_a_store_is_made_by_the_gateway_and_not_by_the_doctor(tmp_path: Path) -> None:
    path = write(tmp_path, '[capture]\nstore = "data/tiercel.db"')
    finding = found(path, offline=True)["store"]
    assert finding.verdict in ("ok", "skipped")
    assert not (tmp_path / "data").exists()
    assert found(path, offline=True)["disk"].verdict in ("ok", "warning")


def test_a_full_disk_is_an_error_and_a_scarce_one_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(capture=Capture(store=str(tmp_path / "t.db")))
    for free, verdict in ((10**12, "ok"), (5 * 10**8, "warning"), (10**7, "error")):
        monkeypatch.setattr(_doctor_places.shutil, "disk_usage", lambda _, f=free: shutil._ntuple_diskusage(0, 0, f))
        assert _doctor_places.disk(settings).verdict == verdict


def test_recognisers_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_people.py").write_text("class Names: ...\nnumber = 3\n")
    (tmp_path / "my_broken.py").write_text("raise RuntimeError('secret text')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["my_people:Names", "my_people:number", "my_people:None_", "my_broken:X", "no_such_module:X"]
    findings = found(write(tmp_path, f"[privacy]\nrecognisers = {json.dumps(names)}"), offline=True)
    verdicts = [findings[f"recogniser {name}"].verdict for name in names]
    assert verdicts == ["ok", "error", "error", "error", "error"]
    assert "secret text" not in findings["recogniser my_broken:X"].text


def test_a_folder_that_holds_no_recogniser_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    finding = found(write(tmp_path, '[privacy]\nrecogniser_folders = ["names"]'), offline=True)["recogniser names"]
    assert finding.verdict == "error"
    assert "tiercel recogniser" in finding.text
