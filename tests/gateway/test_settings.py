from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.gateway.manifests import write_manifest
from tiercel.errors import ConfigurationError
from tiercel.gateway.sections import Secret, Server, Settings, is_loopback
from tiercel.gateway.settings import SECTIONS, read_settings
from tiercel.gateway.settings_changes import RESTART, changed

KEY = "sk-live-0123456789abcdef"
ENVIRON = {"OPENAI_API_KEY": KEY, "STORE": "postgresql://tiercel:hunter2@db/tiercel", "TEAM": "blue"}


def read(folder: Path, text: str, environ: dict[str, str] | None = None, **more: Any) -> Settings:
    path = folder / "tiercel.toml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path, ENVIRON if environ is None else environ, **more)


def mistakes(folder: Path, text: str, environ: dict[str, str] | None = None, **more: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text, environ, **more)
    told = str(caught.value)
    path = folder / "tiercel.toml"
    first, *rest = told.split("\n  ")
    if rest:
        assert first == f"{path} has {len(rest)} mistakes:"
        return rest
    return [told.removeprefix(f"{path}: ")]


@pytest.fixture
def pilot_folder(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "pilot" / "bundle").parent


WHOLE = """
[server]
host = "0.0.0.0"
port = 9000
workers = 2
max_body_mb = 5
drain_s = 12

[[provider]]
name = "openai"
key_env = "OPENAI_API_KEY"
models = { "gpt-4o" = "gpt-4.1" }
headers = { x-team = { env = "TEAM" }, x-plain = "yes" }

[[provider]]
name = "local"
url = "http://127.0.0.1:11434/v1"
model = "qwen3"
retries = 0

[frontier]
providers = ["local", "openai"]
default_model = "gpt-4o"

[[workload]]
name = "helpdesk"
bundle = "pilot"
local_only = true
capture = false
tiers = ["cache", "student"]
budget_usd = 20
period = "day"
requests_per_minute = 600

[[workload]]
name = "letters"
providers = ["openai"]
capture = 0.25

[capture]
store_env = "STORE"
sample = 0.5
retention_days = 30

[privacy]
redact_storage = true
redact_escalation = ["email"]
recognisers = ["people.names:Names"]
"""


def test_what_the_file_says_is_what_the_settings_hold(tmp_path: Path, pilot_folder: Path) -> None:
    settings = read(tmp_path, WHOLE)
    assert settings.server == Server(host="0.0.0.0", port=9000, workers=2, max_body_mb=5.0, drain_s=12.0)
    assert settings.server.needs_keys
    assert [p.name for p in settings.chain()] == ["local", "openai"]
    helpdesk, letters = settings.workloads
    assert helpdesk.bundle == pilot_folder
    assert settings.chain(helpdesk) == ()
    assert [p.name for p in settings.chain(letters)] == ["openai"]
    assert (helpdesk.share(0.5), letters.share(0.5), helpdesk.budget_usd, helpdesk.period) == (0.0, 0.25, 20.0, "day")
    assert settings.capture.location == ENVIRON["STORE"]
    assert (settings.privacy.redact_storage, settings.privacy.redact_escalation) == (True, ("email",))
    assert settings.warnings == ()


def test_a_provider_converts_to_what_its_client_is_made_from(tmp_path: Path, pilot_folder: Path) -> None:
    openai, local = read(tmp_path, WHOLE).providers
    assert openai.upstream() == {
        "name": "openai",
        "kind": "openai",
        "url": "https://api.openai.com/v1",
        "api_key": KEY,
        "model": None,
        "models": {"gpt-4o": "gpt-4.1"},
        "headers": {"x-team": "blue", "x-plain": "yes"},
        "timeout_s": 600.0,
        "first_byte_s": None,
        "api_version": None,
        "responses": False,
        "max_connections": None,
    }
    assert local.upstream()["api_key"] is None
    assert local.upstream()["url"] == "http://127.0.0.1:11434/v1"


def test_without_a_file_the_defaults_are_safe() -> None:
    settings = read_settings(None, {})
    assert settings == Settings()
    assert is_loopback(settings.server.host)
    assert not settings.server.needs_keys
    assert Server(host="::").needs_keys


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("[server]\nprot = 1", "server.prot", "did you mean port?"),
        ("[server]\nnonsense = 1", "server.nonsense", "there are host, port"),
        ("[sever]\nport = 1", "sever", "did you mean server?"),
        ("[server]\nport = 70000", "server.port", "70000 does not fit; give a port"),
        ('[server]\nport = "8080"', "server.port", "give a port"),
        ("[server]\nport = true", "server.port", "true does not fit"),
        ("[server]\ndrain_s = inf", "server.drain_s", "no number to reckon with"),
        ("[server]\nmax_body_mb = nan", "server.max_body_mb", "no number to reckon with"),
        ("[server]\nmax_body_mb = 0", "server.max_body_mb", "0 does not fit"),
        ("[[server]]\nport = 1", "server", "write [server] once"),
        ("server = 3", "server", "write [server]"),
        ('[server]\nhost = "0.0.0.0"\nrequire_keys = false', "server.require_keys", "insecure_open = true"),
        ('[server]\nhost = "gateway.example.com"\nrequire_keys = false', "server.require_keys", "listen at 127.0.0.1"),
        ('[provider]\nname = "a"', "provider", "write [[provider]]"),
        ("[[provider]]\nkey_env = 'OPENAI_API_KEY'", "provider[0].name", "is missing"),
        ('[[provider]]\nname = "a b"\nkey_env = "OPENAI_API_KEY"', "provider[0].name", "give letters"),
        ('[[provider]]\nname = "a"', "provider[0]", "has no key"),
        ('[[provider]]\nname = "a"\nurl = "https://8.8.8.8/v1"', "provider[0]", "has no key"),
        ('[[provider]]\nname = "a"\nheaders = {x = "y"}', "provider[0]", "has no key"),
        ('[[provider]]\nname = "a"\nkey_env = "NONE_SUCH"', "provider[0].key_env", "NONE_SUCH is not set"),
        ('[[provider]]\nname = "a"\nkind = "azure"\nkey_env = "OPENAI_API_KEY"', "provider[0].url", "is missing"),
        ('[[provider]]\nname="a"\nkind="azure"\nurl="http://x"\nkey_env="TEAM"', ".api_version", "2024-10-21"),
        ('[[provider]]\nname="a"\nurl="http://x"\napi_version="1"', ".api_version", "Azure's alone"),
        ('[[provider]]\nname = "a"\nkind = "openia"\nkey_env = "OPENAI_API_KEY"', "provider[0].kind", '"openai"?'),
        ('[[provider]]\nname = "a"\nurl = "ftp://x"', "provider[0].url", "http://"),
        ('[[provider]]\nname = "a"\nurl = "http://u:p@127.0.0.1"', "provider[0].url", "a user, a query"),
        ('[[provider]]\nname = "a"\nurl = "http://vllm:8000"\nretries = 99', "provider[0].retries", "0 to 10"),
        (
            '[[provider]]\nname="a"\nurl="http://x"\nheaders={authorization={env="TEAM"}}',
            ".authorization",
            "take it out",
        ),
        ('[[provider]]\nname="a"\nurl="http://x"\nheaders={host="y"}', "provider[0].headers.host", "take it out"),
        ('[[provider]]\nname="a"\nurl="http://x"\nheaders={"a b"="y"}', "provider[0].headers", "is no header"),
        ('[[provider]]\nname="a"\nurl="http://x"\nheaders={a={env="TEAM",x=1}}', "headers.a", "give a text"),
        ('[[provider]]\nname="a"\nurl="http://x"\nheaders={a="\\u00e9"}', "headers.a", "visible ASCII"),
        ('[[provider]]\nname="a"\nurl="http://x"\nheaders=3', "provider[0].headers", "is no table"),
        ('[[provider]]\nname="a"\nurl="http://x"\nmodels={a=3}', "provider[0].models", "give a table of names"),
        ('[frontier]\nproviders = ["openai"]', "frontier.providers[0]", "there are none"),
        ('[[workload]]\nname = "w"\nbundle = "nowhere"', "workload[0].bundle", "no such folder"),
        ('[[workload]]\nname = "w"\nbundle = "."', "workload[0].bundle", "no manifest.json"),
        ('[[workload]]\nname = "w"\nbundle = ""', "workload[0].bundle", "give a path"),
        ('[[workload]]\nname = "w"\nlocal_only = true', "workload[0].local_only", "leaves nobody to answer"),
        ('[[workload]]\nname = "w"\ntiers = ["student"]', "workload[0].tiers", "leaves nobody to answer"),
        ('[[workload]]\nname = "w"\nengine = "http://127.0.0.1:1/v1"', "workload[0].engine", "give the bundle"),
        ('[[workload]]\nname = "w"\nengine = "ftp://x"', "workload[0].engine", "its base, such as http://127.0.0.1"),
        ('[[workload]]\nname = "w"\nengine_key_env = "TEAM"', "workload[0]", "has the key of an engine and no engine"),
        (
            '[[workload]]\nname = "w"\nlocal_only = true\nengine = "http://10.0.0.7:8000/v1"',
            "workload[0].engine",
            "is another machine",
        ),
        ('[[workload]]\nname = "w"\ntiers = []', "workload[0].tiers", "give a list"),
        ('[[workload]]\nname = "w"\ntiers = ["students"]', "workload[0].tiers[0]", "this entry does not fit"),
        ('[[workload]]\nname = "w"\ncapture = 1.5', "workload[0].capture", "1.5 does not fit"),
        ('[[workload]]\nname = "w"\nbudget_usd = -1', "workload[0].budget_usd", "USD from 0"),
        ('[[workload]]\nname = "w"\n[[workload]]\nname = "w"', "workload[1].name", "taken by an earlier one"),
        ('[capture]\nstore = "mysql://h/d"', "capture.store", "postgresql://"),
        ('[capture]\nstore = "a.db"\nstore_env = "STORE"', "capture.store", "give one of them"),
        ('[capture]\nstore_env = "TEAM"', "capture.store_env", "postgresql://"),
        ('[capture]\nstore_env = "STORE"\nstore_file = "x"', "capture.store_file", "give one of the two"),
        ('[privacy]\nrecognisers = ["no class"]', "privacy.recognisers[0]", '"module:Class"'),
        ('[costs]\nprices = "none.csv"', "costs.prices", "no such price file"),
        (
            '[telemetry]\notlp_endpoint = "collector:4317"',
            "telemetry.otlp_endpoint",
            "give one such as http://127.0.0.1:4318",
        ),
        ('[telemetry]\nlog_level = "loud"', "telemetry.log_level", "give debug, info"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_right(tmp_path: Path, text: str, where: str, words: str) -> None:
    found = [m for m in mistakes(tmp_path, text) if where in m]
    assert any(words in m for m in found), found


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        '[cache]\nttl_s = -1\n[server]\nport = -1\nhots = "x"\n[[workload]]\nname = "w"\nproviders = ["x"]\n[privcy]\n'
    )
    places = [m.partition(":")[0] for m in mistakes(tmp_path, text)]
    assert places == ["cache.ttl_s", "server.port", "server.hots", "workload[0].providers[0]", "privcy"]


def test_two_bundles_for_the_same_requests_are_a_mistake(tmp_path: Path, pilot_folder: Path) -> None:
    write_manifest(tmp_path / "copy")
    write_manifest(tmp_path / "other", "Answer in French.")
    text = "".join(f'[[workload]]\nname = "{name}"\nbundle = "{name}"\n' for name in ("pilot", "copy", "other"))
    (told,) = mistakes(tmp_path, text)
    assert told == "workload[1].bundle: answers the same requests as workload[0].bundle; keep one of them"


def test_a_bundle_of_a_newer_program_is_a_mistake(tmp_path: Path) -> None:
    write_manifest(tmp_path / "pilot")
    (tmp_path / "pilot" / "manifest.json").write_text('{"format": 99, "version": "9.0"}')
    (told,) = mistakes(tmp_path, '[[workload]]\nname = "w"\nbundle = "pilot"')
    assert told.endswith("upgrade tiercel")


@pytest.mark.parametrize(
    "text",
    [
        'api_key = "SECRET"',
        'key = "SECRET"',
        'apikey = "SECRET"',
        'token = "SECRET"',
        'key_env = "SECRET"',
        'key_file = "SECRET"',
        'url = "http://user:SECRET@h/v1"',
        'url = "SECRET"',
        'kind = "SECRET"',
        'headers = { authorization = "Bearer SECRET" }',
        'headers = { x-api-key = "SECRET" }',
        'headers = { x-token = "SECRET" }',
        'headers = { x-team = { env = "SECRET" } }',
        'headers = { x-team = { file = "SECRET" } }',
        'models = "SECRET"',
        'timeout_s = "SECRET"',
    ],
)
@pytest.mark.parametrize("secret", [KEY, "abcDEF0123456789abcDEF"])
def test_no_error_repeats_a_secret_that_was_pasted_into_the_file(tmp_path: Path, text: str, secret: str) -> None:
    told = "\n".join(mistakes(tmp_path, '[[provider]]\nname = "a"\n' + text.replace("SECRET", secret)))
    assert secret not in told
    if text.startswith(("api_key", "key =", "apikey", "token")):
        assert 'key_env = "OPENAI_API_KEY"' in told


@pytest.mark.parametrize(
    "url", ["postgresql://u:hunter2@h/d", "postgresql://h/d?password=hunter2", "mysql://u:hunter2@h"]
)
def test_a_store_with_a_password_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    (told,) = mistakes(tmp_path, f'[capture]\nstore = "{url}"')
    assert "hunter2" not in told
    assert 'store_env = "TIERCEL_STORE"' in told


def test_secrets_are_in_no_repr_and_no_json(tmp_path: Path, pilot_folder: Path) -> None:
    settings = read(tmp_path, WHOLE)
    shown = f"{settings!r} {settings.providers[0]} {settings.capture}"
    assert KEY not in shown
    assert "hunter2" not in shown
    assert "blue" not in shown
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_secret_equals_one_of_the_same_value_only() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def secret_file(folder: Path, content: bytes, mode: int) -> Path:
    path = folder / "secrets" / "openai"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


WITH_FILE = '[[provider]]\nname = "a"\nkey_file = "secrets/openai"'


def test_a_secret_file_gives_the_key_without_its_line_end(tmp_path: Path) -> None:
    secret_file(tmp_path, f"{KEY}\n".encode(), 0o600)
    settings = read(tmp_path, WITH_FILE)
    assert settings.providers[0].upstream()["api_key"] == KEY
    assert settings.warnings == ()


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such bits")
def test_a_secret_file_that_everybody_can_read_is_a_warning(tmp_path: Path) -> None:
    path = secret_file(tmp_path, KEY.encode(), 0o644)
    (warning,) = read(tmp_path, WITH_FILE).warnings
    assert warning == f"provider[0].key_file: everybody on this machine can read {path}; run: chmod 600 {path}"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"one\ntwo", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_a_mistake(tmp_path: Path, content: bytes) -> None:
    secret_file(tmp_path, content, 0o600)
    (told,) = mistakes(tmp_path, WITH_FILE)
    assert "holds no secret" in told


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, WITH_FILE)
    assert f"{tmp_path / 'secrets' / 'openai'} can't be read (no such file" in told


def test_a_key_with_a_blank_inside_is_a_mistake(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, '[[provider]]\nname = "a"\nkey_env = "K"', {"K": "sk-one two"})
    assert "holds blanks" in told
    assert "sk-one" not in told


def test_an_open_gateway_without_keys_needs_two_words_and_warns(tmp_path: Path) -> None:
    text = '[server]\nhost = "0.0.0.0"\nrequire_keys = false\ninsecure_open = true'
    settings = read(tmp_path, text)
    assert not settings.server.needs_keys
    assert any("insecure_open" in w for w in settings.warnings)


def test_plain_http_to_another_network_is_a_warning(tmp_path: Path) -> None:
    text = '[[provider]]\nname = "a"\nkey_env = "OPENAI_API_KEY"\nurl = "http://api.example.com/v1"'
    assert any("in clear text" in w for w in read(tmp_path, text).warnings)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "vllm", "vllm.models.svc.cluster.local", "[fd00::1]"])
def test_an_api_on_ones_own_network_needs_no_key(tmp_path: Path, host: str) -> None:
    settings = read(tmp_path, f'[[provider]]\nname = "a"\nurl = "http://{host}:8000/v1"')
    assert settings.providers[0].api_key is None
    assert settings.warnings == ()


def test_a_kind_that_nobody_recognises_is_a_mistake(tmp_path: Path) -> None:
    text = '[privacy]\nredact_storage = ["email", "phnoe"]'
    (told,) = mistakes(tmp_path, text, kinds=["email", "phone"])
    assert told == "privacy.redact_storage[1]: no such kind; did you mean phone?"
    assert read(tmp_path, text).privacy.redact_storage == ("email", "phnoe")
    assert read(tmp_path, text + '\nrecognisers = ["a:B"]', kinds=["email"]).privacy.recognisers == ("a:B",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[server\n", "is no TOML: .*line 1"),
        (b"[server]\n[server]\n", "is no TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x = " + b"[" * 5_000, "nested too deep|is no TOML"),
    ],
)
def test_a_file_that_is_no_toml_is_one_mistake(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tiercel.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        read_settings(path, {})


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tiercel init"):
        read_settings(tmp_path / "none.toml", {})
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_settings(tmp_path, {})


def test_relative_paths_start_from_the_files_folder(
    tmp_path: Path, pilot_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "tiercel.toml"
    path.write_text('[[workload]]\nname = "w"\nbundle = "pilot"\n[capture]\nstore = "data/t.db"')
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = read_settings(Path("../tiercel.toml"), {})
    assert settings.workloads[0].bundle == pilot_folder
    assert settings.capture.location == str(tmp_path / "data" / "t.db")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(sorted({n for kind in SECTIONS.values() for n in kind.__struct_fields__})) | st.text(
    max_size=6
)
_TABLES = st.dictionaries(_NAMES, _VALUES, max_size=5)


@hypothesis_settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(SECTIONS)) | st.text(max_size=6), _TABLES | st.lists(_TABLES) | _VALUES))
def test_whatever_stands_in_the_file_is_read_or_one_clear_error(document: dict[str, Any]) -> None:
    from tiercel.gateway import settings

    reading = settings._Reading(Path("tiercel.toml"), {})
    found = reading.settings(document)
    assert isinstance(found, Settings)
    assert all(isinstance(e, str) for e in reading.reader.errors)


def test_a_reload_says_what_takes_effect_and_what_waits(tmp_path: Path, pilot_folder: Path) -> None:
    old = read(tmp_path, WHOLE)
    assert changed(old, read(tmp_path, WHOLE)).none
    text = WHOLE.replace("port = 9000", "port = 9001").replace("drain_s = 12", "drain_s = 13")
    text = text.replace('name = "letters"', 'name = "mails"').replace("budget_usd = 20", "budget_usd = 21")
    found = changed(old, read(tmp_path, text))
    assert found.restart == ("server.port",)
    assert found.applied == (
        "server.drain_s",
        "workload letters (gone)",
        "workload mails (new)",
        "workload helpdesk.budget_usd",
    )


def test_a_new_key_and_a_new_order_are_changes_that_show_no_secret(tmp_path: Path) -> None:
    text = '[[provider]]\nname = "a"\nkey_env = "OPENAI_API_KEY"\n'
    other = '[[provider]]\nname = "b"\nurl = "http://b"\n'
    old = read(tmp_path, text + other)
    found = changed(old, read(tmp_path, other + text, {"OPENAI_API_KEY": "another"}))
    assert found.applied == ("provider a.key", "provider (order)")
    assert "another" not in json.dumps(found.applied)


def test_every_setting_that_waits_for_a_restart_exists() -> None:
    for setting in RESTART:
        section, _, name = setting.partition(".")
        assert name in SECTIONS[section].__struct_fields__
