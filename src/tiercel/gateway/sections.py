"""The sections of tiercel.toml as frozen values; `settings.read_settings` makes them from the file.

Every field has a docstring, from which the page of the settings is written, and a description of what may stand there,
with which a wrong value is answered. A `Secret` is never read from the file itself.
"""

from __future__ import annotations

import hmac
import ipaddress
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

__all__ = [
    "Cache",
    "Capture",
    "Costs",
    "Frontier",
    "Monitor",
    "Privacy",
    "Provider",
    "Secret",
    "Server",
    "Settings",
    "Telemetry",
    "Workload",
    "is_loopback",
]


@final
class Secret:
    """A value that shows itself only to who asks by `reveal`: no repr, log line or JSON holds it.

    Args:
        value: to keep.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at `host`."""
    name = host.strip("[]").partition("%")[0].lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z", description="letters, digits, dots, dashes or underscores"),
]
Address = Annotated[str, Meta(min_length=1, description="an address or a name of this machine, such as 127.0.0.1")]
Url = Annotated[str, Meta(min_length=1, description="a URL that begins with http:// or https://")]
Model = Annotated[str, Meta(min_length=1, description="the name of a model")]
Store = Annotated[str, Meta(min_length=1, description="a path, or a postgresql:// URL without password")]
EnvironmentName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}\Z",
        description="the name of an environment variable, such as OPENAI_API_KEY, and not what it holds",
    ),
]
Switch = Annotated[bool, Meta(description="true or false")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="seconds above 0 and up to a day, such as 60")]
Money = Annotated[float, Meta(ge=0, description="USD, 0 or more")]
Count = Annotated[int, Meta(ge=1, description="a whole number from 1")]
Share = Annotated[float, Meta(ge=0, le=1, description="a share from 0.0 (none) to 1.0 (all)")]
Names = Annotated[tuple[Name, ...], Meta(description='a list of names, such as ["openai", "local"]')]
File = Annotated[Path, Meta(description="a path, taken from this file's folder where it is relative")]
Kinds = Annotated[
    bool | tuple[Name, ...],
    Meta(description='true for every kind, or a list of kinds, such as ["email", "phone"]'),
]
Tier = Literal["cache", "student", "frontier"]


class Server(Struct, frozen=True, kw_only=True):
    """`[server]`: where the gateway listens and what it allows."""

    host: Address = "127.0.0.1"
    """Address to listen at. Anything but loopback opens the gateway to other machines, and then it demands keys."""
    port: Annotated[int, Meta(ge=0, le=65_535, description="a port from 1 to 65535, or 0 for any free one")] = 8080
    """Port to listen at; 0 takes any that is free, and the log names it."""
    workers: Annotated[int, Meta(ge=1, le=64, description="a whole number from 1 to 64")] = 1
    """Processes that share the port. Each loads every bundle, so memory grows with them."""
    max_body_mb: Annotated[float, Meta(gt=0, le=1024, description="megabytes above 0 and up to 1024")] = 10.0
    """Largest body of a request, in megabytes; a larger one gets 413."""
    max_depth: Annotated[int, Meta(ge=8, le=500, description="a whole number from 8 to 500")] = 64
    """Deepest nesting of a request's JSON, in levels; a deeper one gets 400."""
    request_timeout_s: Seconds = 600.0
    """Seconds that a request may take as a whole, its retries and its stream included; then it gets 504, or its stream
    ends with an error."""
    drain_s: Annotated[float, Meta(ge=0, le=3_600, description="seconds from 0 to 3600")] = 30.0
    """Seconds that requests in flight get to end after SIGTERM."""
    require_keys: Annotated[bool | None, Meta(description="true or false")] = None
    """Whether a request needs a virtual key. When left out: yes unless `host` is loopback."""
    insecure_open: Switch = False
    """Allows `require_keys = false` at an address that other machines reach, or at loopback under a public name.
    Whoever gets there spends your money."""

    @property
    def needs_keys(self) -> bool:
        """Whether a request needs a virtual key, once the default is settled."""
        return not is_loopback(self.host) if self.require_keys is None else self.require_keys


class Provider(Struct, frozen=True, kw_only=True):
    """`[[provider]]`: one API that answers what no student does."""

    name: Name
    """What the other settings, the logs and the metrics call it."""
    kind: Annotated[Literal["openai", "azure", "anthropic"], Meta(description="openai, azure or anthropic")] = "openai"
    """Dialect that it speaks: `openai` is any API that is compatible with OpenAI's chat completions."""
    url: Url = ""
    """Base of the API, such as https://api.openai.com/v1; of Azure, your resource. When left out: OpenAI's or
    Anthropic's own, by `kind`."""
    key_env: EnvironmentName | None = None
    """Environment variable that holds the key."""
    key_file: File | None = None
    """File that holds the key, such as /run/secrets/openai. Not needed for an API on your own network."""
    model: Model | None = None
    """Model to ask for, whatever a request names. When left out: the one that the request names."""
    models: Annotated[
        dict[str, Model], Meta(description='a table of names, such as { "gpt-4o" = "my-deployment" }')
    ] = {}
    """Names of models as requests have them, and what this provider calls each. Others pass unchanged."""
    only: (
        Annotated[
            tuple[Model, ...],
            Meta(min_length=1, description='a list of names in which * stands for anything, such as ["gpt-*", "o3"]'),
        ]
        | None
    ) = None
    """Models that it may be asked for, as requests name them; a request for another one is never sent to it. When left
    out: any."""
    headers: Annotated[
        dict[str, Secret],
        Meta(description='a table of texts, or of { env = "NAME" } or { file = "PATH" } for a secret'),
    ] = {}
    """Headers to send with every request; a secret one as { env = "NAME" } or { file = "PATH" }."""
    timeout_s: Seconds = 600.0
    """Seconds that an answer may take; of a stream, seconds until its next bytes."""
    first_byte_s: Seconds | None = None
    """Seconds until the first bytes of a stream; then another provider is tried. When left out: `timeout_s`."""
    max_connections: Count | None = None
    """Connections at a time; further requests wait for one. When left out: no limit."""
    api_version: Annotated[str, Meta(min_length=1, description="a date, such as 2024-10-21")] | None = None
    """Version of Azure's API, such as 2024-10-21; needed where `url` is a resource and does not end in /v1."""
    responses: Switch = False
    """Whether it has /responses itself, so that those requests need no translation."""
    stream_usage: Annotated[bool | None, Meta(description="true or false")] = None
    """Whether to ask for the token counts of streams whose client does not; they are kept from that client. When left
    out: yes, but for an `api_version` of Azure before 2024-09-01 and for Mistral's own API, which refuse the question.
    Without, streams are counted by `tokenizer`, or estimated."""
    tokenizer: File | None = None
    """The model's tokenizer.json, to count the texts of answers that come without token counts. When left out: they are
    estimated."""
    retries: Annotated[int, Meta(ge=0, le=10, description="a whole number from 0 to 10")] = 2
    """Further tries after a failure that may pass, before the next provider is asked."""
    api_key: Secret | None = None
    """The key that `key_env` or `key_file` led to; None for none."""

    @property
    def counts_streams(self) -> bool:
        """Whether it is asked for the token counts of every stream, once the default is settled."""
        if self.stream_usage is not None:
            return self.stream_usage
        if self.kind == "azure":
            return self.api_version is None or self.api_version >= "2024-09-01"
        return self.kind == "openai" and urlsplit(self.url).hostname != "api.mistral.ai"

    def takes(self, model: str) -> bool:
        """Whether a request for this model may be sent to it."""
        if self.only is None or model in self.models:
            return True
        return any(fnmatchcase(model, pattern) for pattern in self.only)

    def upstream(self) -> dict[str, Any]:
        """What a client of this provider is made from: name, kind, URL, key in clear, models, headers and times."""
        return {
            "name": self.name,
            "kind": self.kind,
            "url": self.url,
            "api_key": self.api_key.reveal() if self.api_key else None,
            "model": self.model,
            "models": dict(self.models),
            "headers": {name: value.reveal() for name, value in self.headers.items()},
            "timeout_s": self.timeout_s,
            "first_byte_s": self.first_byte_s,
            "api_version": self.api_version,
            "responses": self.responses,
            "max_connections": self.max_connections,
        }


class Frontier(Struct, frozen=True, kw_only=True):
    """`[frontier]`: who answers what no student does."""

    providers: Names = ()
    """Providers in the order in which they are tried. When left out: all, as they stand in the file."""
    default_model: Model | None = None
    """Model of a request that names none, or that names `tiercel/NAME`."""


class Workload(Struct, frozen=True, kw_only=True):
    """`[[workload]]`: a workload with a student, with limits, or with both."""

    name: Name
    """What requests (`model = "tiercel/NAME"`), logs and metrics call it."""
    bundle: File | None = None
    """Bundle that answers it, or the folder of the pilot that wrote one. Without: a provider answers every request."""
    providers: Names = ()
    """Providers for this workload, in order. When left out: those of `[frontier]`."""
    local_only: Switch = False
    """Whether its requests never leave this machine: what its student does not answer gets an error."""
    capture: Annotated[
        bool | Share | None, Meta(description="true, false, or a share from 0.0 to 1.0 of requests to store")
    ] = None
    """Whether its requests are stored, or the share of them. When left out: `sample` of `[capture]`."""
    tiers: (
        Annotated[tuple[Tier, ...], Meta(min_length=1, description='a list of "cache", "student" and "frontier"')]
        | None
    ) = None
    """Tiers that may answer it. When left out: all."""
    budget_usd: Annotated[float, Meta(ge=0, le=1e9, description="USD from 0 to 1000000000")] | None = None
    """USD that it may spend in a `period`; then it gets 429. 0 allows nothing that costs. When left out: no limit."""
    period: Annotated[Literal["day", "month", "total"], Meta(description="day, month or total")] = "month"
    """What the budget is for: a calendar day or month in UTC, or all time."""
    requests_per_minute: Count | None = None
    """Requests a minute; more get 429. When left out: no limit."""
    tokens_per_minute: Count | None = None
    """Input and output tokens a minute; more get 429. When left out: no limit."""
    max_input_tokens: Count | None = None
    """Longest request in tokens, as estimated before it is sent; a longer one gets 400. When left out: no limit."""
    threads: Count | None = None
    """Threads of the student. When left out: all cores."""
    gpu: Switch = False
    """Whether its student runs on a GPU: its seconds are then priced at `gpu_hour_usd`."""
    engine: Url | None = None
    """Server that serves the decoder of its bundle, such as http://127.0.0.1:8000/v1: llama.cpp's or vLLM. At the start
    it is asked a few made-up requests, and must answer them as the bundle's own model does. When left out: it runs
    in the gateway."""
    engine_key_env: EnvironmentName | None = None
    """Environment variable that holds the engine's key."""
    engine_key_file: File | None = None
    """File that holds the engine's key."""
    engine_timeout_s: Seconds = 30.0
    """Seconds that the engine may take; then a provider answers."""
    engine_key: Secret | None = None
    """The key that `engine_key_env` or `engine_key_file` led to; None for none."""

    @property
    def engine_is_elsewhere(self) -> bool:
        """Whether its student is asked on another machine."""
        return self.engine is not None and not is_loopback(urlsplit(self.engine).hostname or "")

    def share(self, sample: float) -> float:
        """The share of its requests to store, in [0, 1]; `sample` is that of `[capture]`."""
        return sample if self.capture is None else float(self.capture)


class Capture(Struct, frozen=True, kw_only=True):
    """`[capture]`: what is stored of requests and answers, and where."""

    enabled: Switch = True
    """Whether requests and answers are stored. The ledger of costs is kept in any case."""
    sample: Share = 1.0
    """Share of requests whose content is stored."""
    store: Store = "tiercel.db"
    """SQLite file, or a postgresql:// URL without password. Several gateways share one PostgreSQL."""
    store_env: EnvironmentName | None = None
    """Environment variable with the store's URL, for one with a password."""
    store_file: File | None = None
    """File with the store's URL, for one with a password."""
    queue: Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")] = 10_000
    """Entries that wait to be stored; when it is full, further ones are dropped and counted, and no request waits."""
    retention_days: Annotated[float, Meta(gt=0, description="days above 0")] | None = None
    """Days after which content is deleted. When left out: never."""
    content: Switch = True
    """Whether the text of requests and answers is stored, and not only their figures."""
    store_url: Secret | None = None
    """The URL that `store_env` or `store_file` led to; None where `store` says it all."""

    @property
    def location(self) -> str:
        """Path or URL of the store, its password included."""
        return self.store_url.reveal() if self.store_url else self.store


class Privacy(Struct, frozen=True, kw_only=True):
    """`[privacy]`: personal data that is taken out."""

    redact_storage: Kinds = ()
    """Kinds of personal data to take out of what is stored."""
    redact_escalation: Kinds = ()
    """Kinds of personal data to take out of what goes to a provider; they are put back into its answer."""
    recognisers: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")], ...],
        Meta(description='a list of classes as "module:Class"'),
    ] = ()
    """Further recognisers of personal data, such as "my_names:People"."""
    recogniser_folders: Annotated[tuple[File, ...], Meta(description="a list of folders")] = ()
    """Recognisers that `tiercel recogniser` taught, by their folders."""


class Cache(Struct, frozen=True, kw_only=True):
    """`[cache]`: equal requests answered from memory."""

    enabled: Switch = False
    """Whether a request that equals an earlier one, of the same key, gets its answer."""
    ttl_s: Annotated[float, Meta(gt=0, description="seconds above 0, such as 3600")] = 3_600.0
    """Seconds that an answer is kept."""
    max_mb: Annotated[float, Meta(gt=0, description="megabytes above 0")] = 256.0
    """Memory for it, in megabytes a worker."""


class Costs(Struct, frozen=True, kw_only=True):
    """`[costs]`: what the ledger reckons with."""

    cpu_hour_usd: Money = 0.05
    """USD for an hour of one core."""
    gpu_hour_usd: Money = 2.0
    """USD for an hour of one GPU."""
    prices: File | None = None
    """CSV of prices over the table that ships: model,input,cached_input,output in USD per million tokens, and
    cache_write,cache_write_1h where they differ from input. What is paid from a budget needs a price; 0 is one."""


class Monitor(Struct, frozen=True, kw_only=True):
    """`[monitor]`: audits of accepted answers, and what a broken bound leads to."""

    enabled: Switch = True
    """Whether accepted answers are audited: the frontier is asked too, after the client has its answer."""
    share: Annotated[float, Meta(gt=0, le=1, description="a share above 0.0 and up to 1.0")] = 0.02
    """Share of the accepted answers that are audited; more of those near the threshold, fewer of those far from it."""
    budget: Annotated[float, Meta(gt=0, lt=1, description="a chance above 0.0 and below 1.0")] = 0.05
    """Chance that anything said online of a workload is ever wrong, over all its bundles; fixed by the first."""
    expire_s: Annotated[float, Meta(gt=0, description="seconds above 0")] = 3_600.0
    """Seconds after which an audit without a result counts as a loss."""
    anchors: File | None = None
    """Rows with the frontier's answer and a verified `reference`, which it is asked again now and then: they tell a
    frontier that has changed from a student that has. When left out: a risen loss is taken to be the student's."""
    anchors_per_day: Annotated[float, Meta(gt=0, le=86_400, description="a number above 0 and up to 86400")] = 24.0
    """Anchors asked a day and workload, all gateways together; 20 times as many while it is open whose a broken bound
    is."""
    anchors_budget_usd: Annotated[float, Meta(ge=0, le=1e9, description="USD from 0 to 1000000000")] | None = None
    """USD a month for the anchors of a workload; then they rest. When left out: no limit."""
    drift_share: Share = 0.02
    """Share of the requests that are compared with those of the certificate, after their answers; 0 for none."""
    webhook_env: EnvironmentName | None = None
    """Environment variable with a URL that is told of every verdict, as JSON by POST."""
    webhook_file: File | None = None
    """File with that URL."""
    hook: Secret | None = None
    """The URL that `webhook_env` or `webhook_file` led to; None for none."""


class Telemetry(Struct, frozen=True, kw_only=True):
    """`[telemetry]`: what the gateway tells of itself. None of it holds the text of a request."""

    metrics: Switch = True
    """Whether /metrics serves Prometheus."""
    otlp_endpoint: Url | None = None
    """URL that takes OpenTelemetry traces, such as http://127.0.0.1:4318. When left out: none are sent."""
    log_format: Annotated[Literal["text", "json"], Meta(description="text or json")] = "text"
    """Form of the log on stderr."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error")
    ] = "info"
    """Least level that is logged."""


class Settings(Struct, frozen=True, kw_only=True):
    """All that tiercel.toml says, its defaults filled in, its secrets read and its paths absolute."""

    server: Server = Server()
    providers: tuple[Provider, ...] = ()
    """`[[provider]]`, in the order of the file."""
    frontier: Frontier = Frontier()
    workloads: tuple[Workload, ...] = ()
    """`[[workload]]`, in the order of the file."""
    capture: Capture = Capture()
    privacy: Privacy = Privacy()
    cache: Cache = Cache()
    costs: Costs = Costs()
    monitor: Monitor = Monitor()
    telemetry: Telemetry = Telemetry()
    warnings: tuple[str, ...] = ()
    """What is allowed and yet looks wrong, one line each."""

    def chain(self, workload: Workload | None = None) -> tuple[Provider, ...]:
        """The providers that answer a workload, or any other request, in the order in which they are tried."""
        if workload is not None and workload.local_only:
            return ()
        names = (workload.providers if workload else ()) or self.frontier.providers
        known = {provider.name: provider for provider in self.providers}
        return tuple(known[name] for name in names) if names else self.providers
