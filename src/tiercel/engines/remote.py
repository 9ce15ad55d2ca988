"""Any server that speaks OpenAI's API, by its URL: llama.cpp, vLLM, SGLang, TGI, Ollama, or a provider."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from tiercel.engines._chat_engine import ChatEngine
from tiercel.engines._dialects import DIALECTS, Dialect, Llama
from tiercel.engines._http import JsonClient
from tiercel.engines._llama_server import TOO_LONG, llama_error
from tiercel.engines._relay import Relay
from tiercel.engines.protocol import GenerationRequest
from tiercel.engines.tool_form import ToolForm
from tiercel.errors import ConfigurationError, ContextOverflowError, EngineError, ProviderError, TiercelError
from tiercel.providers.openai_compatible import FrontierSettings, OpenAICompatible, UpstreamError
from tiercel.providers.tokens import estimate_usage
from tiercel.types import Message

__all__ = ["RemoteEngine"]

Json = dict[str, Any]
T = TypeVar("T")

SIDE_CALL_S = 30.0
"""Seconds that a call beside the answers may take: the list of models, a count of tokens."""
_OWNERS = {"llamacpp": "llama.cpp", "vllm": "vllm", "sglang": "sglang", "library": "ollama"}
_LENGTH_WORDS = ("context length", "context size", "maximum context", "context window", "max_total_tokens")
_CHANGE = "change the request"


class RemoteEngine(ChatEngine):
    """Asks one model of one server.

    Args:
        url: base of the API, such as http://127.0.0.1:8000/v1.
        model: its name; None for the only one that the server lists.
        api_key: sent as a bearer token; None to send none.
        dialect: llama.cpp, vllm, sglang, tgi, ollama or openai; None to ask the server.
        context: tokens of a request and its answer; None to ask the server. Ollama and providers do not say.
        slots: requests sent at once by `generate_many`.
        timeout_s: seconds that an answer may take; of a stream, seconds until its next bytes.

    Raises:
        ConfigurationError: an argument can't be, or the server does not say what it has to.
        ProviderError: the server does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        dialect: str | None = None,
        context: int | None = None,
        slots: int = 16,
        timeout_s: float = 600.0,
    ) -> None:
        if dialect is not None and dialect not in DIALECTS:
            raise ConfigurationError(f"dialect {dialect!r} is none; use one of {', '.join(DIALECTS)}")
        if slots < 1:
            raise ConfigurationError(f"slots is {slots}; give 1 or more")
        try:
            settings = FrontierSettings(url=url, model=None, api_key=api_key, timeout_s=timeout_s)
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace("the frontier's", "the engine's")) from None
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        self._host = settings.host
        self._client = OpenAICompatible(settings)
        self._side = JsonClient(settings.url.removesuffix("/v1"), headers=headers, timeout_s=SIDE_CALL_S)
        self.slots = slots
        listed = self._listed(model)
        self.model = str(listed.get("id") or model)
        self._dialect: Dialect = DIALECTS[dialect or self._guess(listed)](self._ask, self.model, listed)
        found = context or self._dialect.context()
        if found is None:
            raise ConfigurationError(
                f"{self._dialect.title} at {self._host} does not say how long its context is; "
                "give context, such as 8192"
            )
        self.context = found
        shown = self.model.rpartition("/")[2] if self.model.startswith("/") else self.model
        self.name = f"{self._dialect.title} with {shown} at {self._host}"
        self.counts_exactly = (
            type(self._dialect).count is not Dialect.count or type(self._dialect).ids is not Dialect.ids
        )
        self._loop = _LoopThread()
        self._streams: weakref.WeakSet[Relay[Json]] = weakref.WeakSet()
        self._closed = False

    def _listed(self, model: str | None) -> Json:
        """The entry of the model in the server's list; an empty one where there is no list."""
        try:
            entries = self._ask("GET", "/v1/models", None).get("data") or []
        except ConfigurationError:
            entries = []
        if model is None:
            if len(entries) != 1:
                names = ", ".join(str(e.get("id")) for e in entries) or "none"
                raise ConfigurationError(f"the server at {self._host} lists the models {names}; say which with model")
            return entries[0]
        return next((e for e in entries if e.get("id") == model), {"id": model})

    def _guess(self, listed: Json) -> str:
        owner = str(listed.get("owned_by"))
        if owner in _OWNERS:
            return _OWNERS[owner]
        try:
            return "tgi" if "max_total_tokens" in self._ask("GET", "/info", None) else "openai"
        except TiercelError:
            return "openai"

    def _ask(self, method: str, path: str, body: Json | None) -> Json:
        """A call beside the API."""
        try:
            status, found = self._side.ask(method, path, body)
        except OSError as error:
            raise ProviderError(
                f"the engine at {self._host} can't be reached ({type(error).__name__})", provider=self._host
            ) from None
        if status == 200 and found is not None:
            return found
        detail = found.get("error", found) if isinstance(found, dict) else None
        told = detail.get("message") if isinstance(detail, dict) else detail
        if 400 <= status < 500 and status not in (401, 403, 408, 429):
            raise ConfigurationError(f"the engine at {self._host} refused {path}: {told or status}; {_CHANGE}")
        raise ProviderError(
            f"the engine at {self._host} answered {path} with {status}", provider=self._host, status=status
        )

    def count_tokens(self, messages: Sequence[Message], tools: list[Json] | None = None) -> int:
        """Tokens of the rendered prompt; an estimate where `counts_exactly` is false."""
        found = self._dialect.count(messages, tools)
        return estimate_usage(messages, None, tools).input_tokens if found is None else found

    def render(self, messages: Sequence[Message], tools: list[Json] | None = None) -> str:
        """The prompt by the server's chat template.

        Raises:
            ConfigurationError: this kind of server does not show it.
        """
        found = self._dialect.render(messages, tools)
        if found is None:
            raise ConfigurationError(
                f"{self._dialect.title} does not show its rendered prompts; serve with llama.cpp or vLLM"
            )
        return found

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt.

        Raises:
            ConfigurationError: this kind of server does not show them.
        """
        found = self._dialect.tokenize(text)
        if found is None:
            raise ConfigurationError(f"{self._dialect.title} does not show its tokens; serve with llama.cpp or vLLM")
        return found

    def _form(self, request: GenerationRequest) -> ToolForm | None:
        return self._dialect.form() if request.must_call else None

    def _body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        if self._closed:
            raise EngineError(f"{self.name} was closed; make a new engine")
        return self._dialect.body(request, form)

    def _complete(self, body: Json) -> Json:
        try:
            try:
                return self._loop.run(self._client.complete(body))
            except UpstreamError as error:
                if error.failure != "unreachable":
                    raise
                # A server may close an idle connection in the moment it is used again; to ask twice does no harm.
                return self._loop.run(self._client.complete(body))
        except UpstreamError as error:
            raise self._mapped(error, body) from None

    def _open(self, body: Json) -> Relay[Json]:
        job = self._loop.job()

        def work(put: Callable[[Json], bool]) -> None:
            begun = False

            def noted(chunk: Json) -> bool:
                nonlocal begun
                begun = True
                return put(chunk)

            try:
                try:
                    job.run(self._pump(body, noted))
                except UpstreamError as error:
                    if begun or error.failure != "unreachable":
                        raise
                    job.run(self._pump(body, noted))
            except UpstreamError as error:
                raise self._mapped(error, body) from None

        relay: Relay[Json] = Relay(work, job.cancel)
        self._streams.add(relay)
        return relay

    async def _pump(self, body: Json, put: Callable[[Json], bool]) -> None:
        """Put the chunks of a stream as they come."""
        rest = b""
        async for part in self._client.stream(body):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                _, told, data = line.strip().partition(b"data:")
                if not told or data.strip() in (b"", b"[DONE]"):
                    continue
                try:
                    chunk = json.loads(data)
                except ValueError:
                    raise EngineError(f"{self.name} streams what is no JSON") from None
                if "error" in chunk:
                    raise self._broken_off(chunk["error"], body)
                if put(chunk):
                    return

    def _broken_off(self, error: Any, body: Json) -> TiercelError:
        """Our error for one that comes in the middle of a stream."""
        detail = error if isinstance(error, dict) else {"message": error}
        if isinstance(self._dialect, Llama):
            return llama_error(detail, max_tokens=body["max_tokens"])
        return EngineError(f"{self.name} failed: {detail.get('message') or 'no reason given'}")

    def _mapped(self, error: UpstreamError, body: Json) -> TiercelError:
        """Our error for a server's refusal or failure; the text never holds the key."""
        detail = error.detail or {}
        told = str(detail.get("message") or "")
        if error.status in (400, 404, 413, 422):
            if detail.get("type") == TOO_LONG or any(words in told.lower() for words in _LENGTH_WORDS):
                return ContextOverflowError(input_tokens=None, max_tokens=body["max_tokens"], context=self.context)
            return ConfigurationError(f"{self.name} refused the request: {told or error.status}; {_CHANGE}")
        return ProviderError(
            str(error).replace("the frontier", "the engine"),
            provider=error.provider,
            status=error.status,
            retry_after=error.retry_after,
        )

    def close(self) -> None:
        """Cancel all work and close the connections; later calls raise EngineError."""
        if self._closed:
            return
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        self._loop.run(self._client.close())
        self._loop.stop()

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LoopThread:
    """An event loop in a thread of its own, for the asynchronous client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="tiercel-remote")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result."""
        return self.job().run(work)

    def job(self) -> _Job:
        """Work that can be cancelled."""
        return _Job(self._loop)

    def stop(self) -> None:
        """End the loop; what still runs on it is cancelled."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


class _Job:
    """One coroutine on a loop of another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._cancelled = False
        self._future: Any = None

    def run(self, work: Coroutine[Any, Any, T]) -> T | Any:
        """The coroutine's result; None where it was cancelled."""
        with self._lock:
            if self._cancelled:
                work.close()
                return None
            self._future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return self._future.result()
        except CancelledError:
            return None
        except KeyboardInterrupt:
            self._future.cancel()
            raise

    def cancel(self) -> None:
        """Cancel the coroutine, started or not."""
        with self._lock:
            self._cancelled = True
            if self._future is not None:
                self._future.cancel()
