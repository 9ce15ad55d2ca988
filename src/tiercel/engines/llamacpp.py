"""llama.cpp in this process, through xllamacpp: GGUF models, several requests in one batch, nothing on the network.

Requests go straight to the library. Its template, tokenizer and slots can only be asked over HTTP: that listener is a
socket in a folder of its own that no other user may enter (on systems without such sockets: loopback and a random key).
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tiercel.engines._chat_engine import ChatEngine
from tiercel.engines._http import JsonClient
from tiercel.engines._llama_server import LlamaServer, llama_body, llama_error
from tiercel.engines._relay import Relay
from tiercel.engines._stderr import kept_stderr
from tiercel.engines.protocol import GenerationRequest
from tiercel.engines.tool_form import ToolForm, find_tool_form
from tiercel.errors import BundleError, ConfigurationError, EngineError, MissingExtraError, TiercelError
from tiercel.types import Message

__all__ = ["LlamaCppEngine"]

Json = dict[str, Any]

LONGEST_CONTEXT = 4096
"""Tokens of a slot where nothing else is asked for; memory for them is taken at the start."""
TRIED_GRAMMARS = 1_000
"""Grammars that are remembered as good."""
_SILENT = -1
_ERRORS = 1
_CLOSING_S = 5.0
_LOG_PREFIX = re.compile(r"^[\d.]+ [DIWE] ")


class LlamaCppEngine(ChatEngine):
    """Runs one GGUF model on this machine.

    Args:
        model: the GGUF file.
        context: tokens of one request and its answer, cut to what the model was trained for.
        slots: requests worked on at once; each has memory for `context` tokens.
        threads: None for as many as this process may use.
        adapters: LoRA adapters in GGUF form by the names that requests use.
        chat_template: a Jinja template in the place of the model's own.
        cache_prompts: keep what a slot has read, so that the next request with the same beginning starts later. A
            prompt read in other pieces may change the last bits of a probability.

    Raises:
        BundleError: the model or an adapter is missing or can't be loaded.
        ConfigurationError: a number can't be.
        MissingExtraError: xllamacpp is not installed.
    """

    def __init__(
        self,
        model: Path,
        *,
        context: int = LONGEST_CONTEXT,
        slots: int = 4,
        threads: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        chat_template: str | None = None,
        cache_prompts: bool = True,
    ) -> None:
        if context < 1 or slots < 1 or (threads is not None and threads < 1):
            raise ConfigurationError(f"context {context}, slots {slots}, threads {threads}: give 1 or more of each")
        paths = dict(adapters or {})
        for path in (model, *paths.values()):
            _need_gguf(path)
        self.name = f"llama.cpp with {model.name}"
        self.slots = slots
        self._adapters = tuple(paths)
        self._cache_prompts = cache_prompts
        self._folder = Path(tempfile.mkdtemp(prefix="tiercel-"))
        self._streams: weakref.WeakSet[Relay[Json]] = weakref.WeakSet()
        self._good_grammars: dict[bytes, None] = {}
        self._tool_form: ToolForm | None = None
        self._lock = threading.Lock()
        threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        try:
            params, client = self._parameters(model, paths, context, threads or 1, chat_template)
            self._server: Any = _load(params, model)
            self._api = LlamaServer(self._asking(client(self._server.listening_address)))
            # A server that is let go before its loop runs never ends: the question goes through the loop.
            self._api.busy()
            props = self._api.props()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.context = int(props["default_generation_settings"]["n_ctx"])
        self._takes_tools = bool(props["chat_template_caps"]["supports_tools"])
        _OPEN.add(self)

    def _parameters(
        self, model: Path, adapters: Mapping[str, Path], context: int, threads: int, chat_template: str | None
    ) -> tuple[Any, Callable[[str], JsonClient]]:
        """Parameters for xllamacpp, and the client of its listener once its address is known."""
        library = _library()
        params: Any = library.CommonParams()
        params.model.path = str(model)
        params.n_ctx = context * self.slots
        params.n_parallel = self.slots
        params.fit_params = False
        params.warmup = False
        params.verbosity = _SILENT
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.n_threads_http = 2
        params.ui = False
        # Beyond the slots' own memory, prompts would be kept in up to 8 GB more.
        params.cache_ram_mib = 0
        params.lora_adapters = [library.CommonAdapterLoraInfo(str(path), 1.0) for path in adapters.values()]
        params.lora_init_without_apply = True
        if chat_template is not None:
            params.chat_template = chat_template
        if hasattr(socket, "AF_UNIX"):
            path = self._folder / "s.sock"
            params.hostnames = [str(path)]
            return params, lambda _: JsonClient(path=path)
        key = secrets.token_hex(32)
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
        return params, lambda address: JsonClient(address, headers={"Authorization": f"Bearer {key}"})

    def _asking(self, client: JsonClient) -> Callable[[str, str, Json | None], Json]:
        def ask(method: str, path: str, body: Json | None) -> Json:
            self._alive()
            try:
                status, found = client.ask(method, path, body)
            except OSError as error:
                raise EngineError(f"{self.name} does not answer ({type(error).__name__})") from None
            if status != 200:
                raise llama_error(found.get("error", {}) if isinstance(found, dict) else {})
            return found

        return ask

    def _alive(self) -> Any:
        if self._server is None:
            raise EngineError(f"{self.name} was closed; start a new engine")
        return self._server

    @property
    def busy(self) -> int:
        """Slots that are at work."""
        return self._api.busy()

    def count_tokens(self, messages: Sequence[Message], tools: list[Json] | None = None) -> int:
        """Tokens that the request takes with the chat template around it."""
        self._check_tools(tools)
        return self._api.count(messages, tools)

    def render(self, messages: Sequence[Message], tools: list[Json] | None = None) -> str:
        """The prompt by the chat template, less the first BOS where the tokenizer adds one."""
        self._check_tools(tools)
        return self._api.render(messages, tools)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, BOS and special tokens included."""
        return self._api.tokenize(text)

    def _check_tools(self, tools: list[Json] | None) -> None:
        if tools and not self._takes_tools:
            raise ConfigurationError(
                f"{self.name}: the chat template has no place for tools, and the model would never see them; "
                "leave them out or give a chat_template that writes them"
            )

    def _form(self, request: GenerationRequest) -> ToolForm | None:
        if not request.must_call:
            return None
        if self._tool_form is None:
            self._tool_form = find_tool_form(self.render)
        return self._tool_form

    def _body(self, request: GenerationRequest, form: ToolForm | None) -> Json:
        body: Json = {**llama_body(request, form, self._adapters), "cache_prompt": self._cache_prompts}
        if "grammar" in body:
            self._try_grammar(body["grammar"])
        return body

    def _try_grammar(self, grammar: str) -> None:
        """Let llama.cpp read a grammar once: it says what is wrong with one on stderr only."""
        key = hashlib.sha256(grammar.encode()).digest()
        if key in self._good_grammars:
            return
        with kept_stderr() as kept:
            try:
                found = self._alive().handle_completions({"prompt": ".", "max_tokens": 1, "grammar": grammar})
                kept.drop = bad = "error" in found
            except (ValueError, RuntimeError):
                kept.drop = bad = True
        if bad:
            reason = next((line for line in kept.text.splitlines() if line.strip()), "no reason given")
            raise ConfigurationError(f"llama.cpp can't read the grammar ({reason.strip()}); mend it")
        with self._lock:
            self._good_grammars[key] = None
            if len(self._good_grammars) > TRIED_GRAMMARS:
                del self._good_grammars[next(iter(self._good_grammars))]

    def _complete(self, body: Json) -> Json:
        with _mapped(self.name):
            found = self._alive().handle_chat_completions(body)
        if "error" in found:
            raise llama_error(found["error"], max_tokens=body["max_tokens"])
        return found

    def _open(self, body: Json) -> Relay[Json]:
        server, name = self._alive(), self.name
        # Progress is reported for every piece of the prompt, so that a long one can be cancelled while it is read.
        body = body | {"return_progress": True}

        def work(put: Callable[[Json], bool]) -> None:
            failed: list[Json] = []

            def take(chunk: Json) -> bool:
                if "error" in chunk:
                    failed.append(chunk["error"])
                    return True
                return put(chunk)

            with _mapped(name):
                found = server.handle_chat_completions(body, take)
            if isinstance(found, dict) and "error" in found:
                failed.append(found["error"])
            if failed:
                raise llama_error(failed[0], max_tokens=body["max_tokens"])

        relay: Relay[Json] = Relay(work)
        self._streams.add(relay)
        return relay

    def close(self) -> None:
        """Cancel all work and free the model; later calls raise EngineError."""
        with self._lock:
            server, self._server = self._server, None
        if server is None:
            return
        for stream in list(self._streams):
            stream.close()
        for stream in list(self._streams):
            stream.join(_CLOSING_S)
        del server
        shutil.rmtree(self._folder, ignore_errors=True)
        _OPEN.discard(self)

    def __enter__(self) -> LlamaCppEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _mapped:
    """Turns what xllamacpp raises into our errors."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError) and not isinstance(error, TiercelError):
            raise ConfigurationError(f"llama.cpp refused the request: {error}; change the request") from None
        if isinstance(error, RuntimeError | MemoryError | TypeError) and not isinstance(error, TiercelError):
            raise EngineError(f"{self._name} failed: {error}") from None


def _need_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BundleError(f"{path}: can't be read ({error.strerror}); give a GGUF file") from None
    if magic != b"GGUF":
        raise BundleError(f"{path}: is no GGUF file; convert the model first")


def _library() -> Any:
    try:
        import xllamacpp
    except ImportError:
        raise MissingExtraError("xllamacpp", "generate") from None
    return xllamacpp


def _load(params: Any, model: Path) -> Any:
    library = _library()
    try:
        return library.Server(params)
    except RuntimeError:
        pass
    # Loading is silent, and so is its failure: a second time it may speak.
    params.verbosity = _ERRORS
    for name in params.hostnames:
        Path(name).unlink(missing_ok=True)
    with kept_stderr() as kept:
        kept.drop = True
        try:
            return library.Server(params)
        except RuntimeError:
            # llama.cpp writes its log from a thread of its own.
            time.sleep(0.2)
    lines = [_LOG_PREFIX.sub("", line).strip() for line in kept.text.splitlines()]
    reasons = [line for line in lines if re.search("error|fail|unknown", line, re.IGNORECASE) and "exiting" not in line]
    reason = reasons[0] if reasons else "it gives no reason"
    raise BundleError(f"{model}: llama.cpp can't load it ({reason}); convert it again or free some memory")


_OPEN: weakref.WeakSet[LlamaCppEngine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that is still in native code when the interpreter ends would take the process down."""
    for engine in list(_OPEN):
        engine.close()
