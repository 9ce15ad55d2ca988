"""The first tiercel.toml: what is found here is put in, what may be wanted stands as a comment beside it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from tiercel.errors import BundleError

__all__ = ["KNOWN", "Found", "KnownProvider", "look_around", "starting_file"]


class KnownProvider(Struct, frozen=True, kw_only=True):
    """A provider that is recognised by its key's usual name."""

    name: str
    variable: str
    """Environment variable in which its own libraries look for the key."""
    kind: str = "openai"
    url: str = ""
    """Empty where the kind says it."""
    url_variable: str | None = None
    """Environment variable with the URL, for a provider whose URL is the customer's own."""
    responses: bool = False
    """Whether it serves /responses itself."""
    only: tuple[str, ...] = ()
    """Models that it serves, where their names tell; so that no other one's request is sent to it."""


_OPENAI = ("gpt-*", "chatgpt-*", "o[0-9]*", "codex-*", "text-*", "davinci-*", "babbage-*", "ft:*")

KNOWN = (
    KnownProvider(name="openai", variable="OPENAI_API_KEY", responses=True, only=_OPENAI),
    KnownProvider(name="anthropic", variable="ANTHROPIC_API_KEY", kind="anthropic", only=("claude-*",)),
    KnownProvider(name="azure", variable="AZURE_OPENAI_API_KEY", kind="azure", url_variable="AZURE_OPENAI_ENDPOINT"),
    KnownProvider(name="openrouter", variable="OPENROUTER_API_KEY", url="https://openrouter.ai/api/v1"),
    KnownProvider(name="groq", variable="GROQ_API_KEY", url="https://api.groq.com/openai/v1"),
    KnownProvider(name="together", variable="TOGETHER_API_KEY", url="https://api.together.xyz/v1"),
    KnownProvider(name="mistral", variable="MISTRAL_API_KEY", url="https://api.mistral.ai/v1"),
    KnownProvider(name="deepseek", variable="DEEPSEEK_API_KEY", url="https://api.deepseek.com/v1"),
    KnownProvider(
        name="gemini",
        variable="GEMINI_API_KEY",
        url="https://generativelanguage.googleapis.com/v1beta/openai",
    ),
)
"""Providers that `tiercel init` recognises, in the order of fallback that it writes."""


class Found(Struct, frozen=True, kw_only=True):
    """What is here to begin with."""

    providers: tuple[KnownProvider, ...]
    """Those whose key is in the environment; each has its URL."""
    bundles: tuple[Path, ...]
    """Bundles below the folder, as paths from it."""


def look_around(folder: Path, environ: Mapping[str, str]) -> Found:
    """Find bundles in a folder and providers in the environment; no value of a key is read further than "not empty".

    Args:
        folder: that tiercel.toml will stand in.
        environ: variables of the environment.
    """
    providers: list[KnownProvider] = []
    for known in KNOWN:
        if not environ.get(known.variable, "").strip():
            continue
        if known.url_variable is None:
            providers.append(known)
        elif url := _plain_url(environ.get(known.url_variable, "")):
            providers.append(KnownProvider(name=known.name, variable=known.variable, kind=known.kind, url=url))
    return Found(providers=tuple(providers), bundles=_bundles(folder))


def _bundles(folder: Path) -> tuple[Path, ...]:
    """Bundles at most three folders down; of several for one workload, the newest."""
    from tiercel.flows.bundle import read_manifest

    newest: dict[str, tuple[float, Path]] = {}
    patterns = ("manifest.json", "*/manifest.json", "*/bundle/manifest.json", "*/*/bundle/manifest.json")
    for manifest in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        try:
            fingerprint = read_manifest(manifest.parent).reader.key.fingerprint
        except (BundleError, OSError):  # a manifest of another program, or one that can't be read
            continue
        written = manifest.stat().st_mtime
        if fingerprint not in newest or written > newest[fingerprint][0]:
            newest[fingerprint] = (written, manifest.parent.relative_to(folder))
    return tuple(sorted(path for _, path in newest.values()))


def _plain_url(url: str) -> str:
    """A URL that can stand in a file: one without a user or a query, which may be secret."""
    return url.strip() if re.fullmatch(r"https?://[\w.:-]+(/[\w./-]*)?", url.strip()) else ""


def starting_file(found: Found) -> str:
    """The text of a tiercel.toml that works as it is.

    Args:
        found: what is here.
    """
    parts = [_HEAD, *(_provider(p) for p in found.providers)]
    if not found.providers:
        parts.append(_NO_PROVIDER)
    parts += [_FRONTIER, *_workloads(found), _WORKLOAD_HINT, _REST]
    text = "\n".join(parts)
    tomllib.loads(text)
    return text


def _provider(provider: KnownProvider) -> str:
    lines = ["[[provider]]", f'name = "{provider.name}"']
    if provider.kind != "openai":
        lines.append(f'kind = "{provider.kind}"')
    if provider.url:
        lines.append(f'url = "{provider.url}"')
    if provider.kind == "azure" and not provider.url.rstrip("/").endswith("/v1"):
        lines.append('api_version = "2024-10-21"')
    if provider.only:
        names = ", ".join(f'"{name}"' for name in provider.only)
        lines.append(f"only = [{names}]  # requests for other models are not sent there")
    if provider.responses:
        lines.append("responses = true  # it serves that API itself, with what a translation has no word for")
    lines.append(f'key_env = "{provider.variable}"  # or key_file = "/run/secrets/{provider.name}"')
    return "\n".join([*lines, ""])


def _workloads(found: Found) -> list[str]:
    parts: list[str] = []
    taken: set[str] = set()
    for bundle in found.bundles:
        name = _name(bundle, taken)
        taken.add(name)
        parts.append(f'[[workload]]\nname = "{name}"\nbundle = {_quoted(bundle.as_posix())}\n')
    return parts


def _name(bundle: Path, taken: set[str]) -> str:
    """A name for a bundle's workload: of its folder, or of the folder above one that is called bundle."""
    words = [part for part in bundle.parts if part not in ("bundle", ".")]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", words[-1] if words else "").strip("-._")[:48] or "workload"
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    return name


def _quoted(text: str) -> str:
    """A TOML string; names of files may hold what a plain one may not."""
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\\x7f' else c for c in text)
    return f'"{escaped}"'


_HEAD = """\
# The gateway's settings; docs/configuration.md has all of them. `tiercel doctor` checks this file.
# Relative paths start from this file's folder. Secrets never stand here: name the variable or the file that holds one.

[server]
host = "127.0.0.1"      # "0.0.0.0" opens it to other machines; requests then need a virtual key
port = 8080
# workers = 2           # processes; each loads every bundle

# ---- who answers what no student does; tried in this order
"""
_NO_PROVIDER = """\
# No provider was found in the environment. Uncomment one; without any, only bundles answer.
# [[provider]]
# name = "openai"
# key_env = "OPENAI_API_KEY"
#
# [[provider]]
# name = "local"
# url = "http://127.0.0.1:11434/v1"      # Ollama, vLLM, llama-server, ...
# model = "qwen3"
"""
_FRONTIER = """\
[frontier]
# providers = ["openai", "anthropic"]    # another order
# default_model = "gpt-4o"               # of requests that name no model

# ---- workloads: what a bundle answers, and limits
"""
_WORKLOAD_HINT = """\
# [[workload]]
# name = "helpdesk"             # for model = "tiercel/helpdesk", and all that the bundle recognises
# bundle = "pilot"              # folder that `tiercel pilot` wrote
# local_only = true             # never leaves this machine
# budget_usd = 100.0            # a month
# requests_per_minute = 600
# capture = 0.1                 # store the text of a tenth
"""
_REST = """\
[capture]
enabled = true
store = "tiercel.db"            # or store_env = "TIERCEL_STORE" with a postgresql:// URL
# sample = 0.1                  # share of requests whose text is stored
# retention_days = 30

[privacy]
redact_storage = false          # true, or kinds such as ["email", "phone"]
redact_escalation = false

[cache]
enabled = false

[costs]
# prices = "prices.csv"         # model,input,cached_input,output in USD per million tokens
# cpu_hour_usd = 0.05

[telemetry]
metrics = true                  # /metrics for Prometheus
log_format = "text"             # or "json"
# otlp_endpoint = "http://127.0.0.1:4318"
"""
