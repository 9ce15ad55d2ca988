"""Redaction of a whole chat completion request, and values put back into its answer, whole or as a stream.

All text of a request is read: messages and their parts, arguments of tool calls and results of tools (as JSON where
they are JSON), descriptions of tools, metadata and fields that nobody here knows. What makes a request work is left:
model, roles, ids, names of functions and of parameters. Images, sound and files can't be read; they are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tiercel.datasets.personal_data import Span
from tiercel.datasets.redaction import Mode, Redactor, Session, StreamRestorer
from tiercel.errors import DataError

__all__ = ["ChatStreamRestorer", "redact_chat", "restore_chat"]

Json = dict[str, Any]
Visit = Callable[[str, str], str]
"""What becomes of a text; the second argument is the key that it stands under, empty where there is none."""

_UNREAD = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "audio",
        "input_audio",
        "file",
        "input_file",
        "document",
        "video",
        "video_url",
    }
)
_LEFT = frozenset(
    {"role", "type", "id", "tool_call_id", "call_id", "tool_use_id", "cache_control", "signature", "encrypted_content"}
)
"""Fields of messages and parts that make the request work."""
_LEFT_OF_BODY = frozenset(
    {
        "model",
        "tool_choice",
        "function_call",
        "modalities",
        "service_tier",
        "reasoning_effort",
        "stream",
        "stream_options",
        "logit_bias",
    }
)
_DESCRIBING = frozenset({"description", "title", "default", "const", "enum", "examples", "example", "$comment"})
"""Fields of a tool or a schema that hold text, not structure."""
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|-?\d[\d.eE+-]*+', re.DOTALL)
_COLON = re.compile(r"\s*:")


def redact_chat(body: Json, redactor: Redactor) -> tuple[Json, Session]:
    """A chat completion request without personal data, and the session that puts it back into the answer.

    Args:
        body: as decoded from JSON; it is not changed.
        redactor: what is taken out. In `Mode.ONE_WAY` the session has forgotten the values already.

    Raises:
        DataError: the body is nested too deep.
    """
    session = redactor.session()
    learnt = dict[tuple[str, str], list[Span]]()

    def learn(text: str, key: str) -> str:
        learnt[text, key] = session.learn(text, key)
        return text

    def redact(text: str, key: str) -> str:
        return session.redact(text, key, learnt[text, key])

    def reserve(text: str, key: str) -> str:
        session.reserve(text)
        return text

    try:
        # No placeholder may be given out before every text was looked at for the like of one.
        _Walk(reserve).body(body)
        walk = _Walk(learn)
        walk.body(body)
        session.unread_parts = walk.unread_parts
        redacted = _Walk(redact).body(body) if session.counts else body
    except RecursionError:
        raise DataError("the request can't be redacted: it is nested too deep; send it flatter") from None
    if redactor.mode is Mode.ONE_WAY:
        session.forget()
    return redacted, session


class _Walk:
    """One way through a request; makes a new one of what `visit` returns."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.unread_parts = 0

    def body(self, body: Json) -> Json:
        made: Json = {}
        for key, value in body.items():
            if key in ("messages", "input") and isinstance(value, list):
                made[key] = [self.message(m) if isinstance(m, dict) else self.free(m) for m in value]
            elif key in ("tools", "functions", "response_format"):
                made[key] = self.schema(value)
            else:
                made[key] = value if key in _LEFT_OF_BODY else self.free(value, key)
        return made

    def message(self, message: Json) -> Json:
        made: Json = {}
        for key, value in message.items():
            if key in _LEFT:
                made[key] = value
            elif key == "content":
                made[key] = self.content(value, maybe_json=message.get("role") in ("tool", "function"))
            elif key in ("tool_calls", "function_call"):
                made[key] = self.calls(value)
            elif key == "name" and isinstance(value, str) and message.get("role") != "function":
                # APIs refuse angle brackets in the name of a participant.
                made[key] = self.visit(value, "").replace("<", "").replace(">", "")
            else:
                made[key] = self.free(value)
        return made

    def content(self, content: Any, *, maybe_json: bool) -> Any:
        if isinstance(content, str):
            return self.json_text(content) if maybe_json and _is_json(content) else self.visit(content, "")
        if isinstance(content, list):
            return [self.part(part) if isinstance(part, dict) else self.free(part) for part in content]
        return self.free(content)

    def part(self, part: Json) -> Json:
        source = part.get("source")
        if part.get("type") in _UNREAD and not (isinstance(source, dict) and source.get("type") == "text"):
            self.unread_parts += 1
            return part
        made: Json = {}
        for key, value in part.items():
            if key in _LEFT or (key == "name" and part.get("type") == "tool_use"):
                made[key] = value
            elif key == "content":
                made[key] = self.content(value, maybe_json=True)
            else:
                made[key] = self.free(value)
        return made

    def calls(self, calls: Any) -> Any:
        """Tool calls: the texts of their arguments; names and ids are left."""
        if isinstance(calls, list):
            return [self.calls(call) for call in calls]
        if not isinstance(calls, dict):
            return self.free(calls)
        made: Json = {}
        for key, value in calls.items():
            if key in _LEFT or key in ("name", "index"):
                made[key] = value
            elif key == "arguments" and isinstance(value, str):
                made[key] = self.json_text(value) if _is_json(value) else self.visit(value, "")
            else:
                made[key] = self.calls(value) if isinstance(value, dict) else self.free(value)
        return made

    def schema(self, value: Any, key: str = "") -> Any:
        """A tool or a JSON schema: descriptions and example values alone."""
        if key in _DESCRIBING:
            return self.free(value)
        if isinstance(value, dict):
            # A parameter may be called "description": its value is a schema then, not a text.
            return {
                k: self.schema(
                    v, "" if key == "properties" or (isinstance(v, dict) and k in ("description", "title")) else k
                )
                for k, v in value.items()
            }
        return [self.schema(v) for v in value] if isinstance(value, list) else value

    def free(self, value: Any, key: str = "") -> Any:
        """Any value: every text in it, keys too, and numbers long enough to be an id."""
        if isinstance(value, str):
            return self.visit(value, key)
        if isinstance(value, dict):
            return {self.visit(k, ""): self.free(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.free(v, key) for v in value]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 100_000:
            return _or_number(self.visit(str(value), key), value)
        return value

    def json_text(self, text: str) -> str:
        """JSON as text: strings and numbers in it, each beside its key; all else stays as it is written."""
        pieces, at, key = list[str](), 0, ""
        for m in _TOKEN.finditer(text):
            written = m.group()
            is_key = written[0] == '"' and _COLON.match(text, m.end()) is not None
            value: str = msgspec.json.decode(written) if written[0] == '"' else written
            new = self.visit(value, "" if is_key else key)
            if new != value:
                pieces += text[at : m.start()], msgspec.json.encode(new).decode()
                at = m.end()
            key = value if is_key else key
        return "".join(pieces) + text[at:]


def _or_number(text: str, value: int) -> str | int:
    return value if text == str(value) else text


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return False
    return True


def restore_chat(completion: Json, session: Session) -> Json:
    """A chat completion with the values put back: texts, and arguments of tool calls as JSON."""
    choices = [
        choice | {"message": _restored(choice["message"], session.restore, session.restore_json)}
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict)
        else choice
        for choice in completion.get("choices") or ()
    ]
    return completion | {"choices": choices} if choices else completion


def _restored(value: Any, text: Callable[[str], str], arguments: Callable[[str], str]) -> Any:
    """A message with what the functions make of its texts; `arguments` is for the JSON of tool calls."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_restored(v, text, arguments) for v in value]
    if isinstance(value, dict):
        return {
            k: v if k in _LEFT else _restored(v, arguments if k == "arguments" else text, arguments)
            for k, v in value.items()
        }
    return value


class ChatStreamRestorer:
    """Puts values back into the chunks of a streamed chat completion.

    Each text of each choice, and the arguments of each tool call, has a `StreamRestorer` of its own. What they hold is
    passed on with the chunk that ends the choice, or by `close`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._restorers: dict[tuple[int, tuple[str | int, ...]], StreamRestorer] = {}

    def feed(self, chunk: Json) -> Json:
        """The chunk to pass on; it is not the one that came."""
        if not self._session.placeholders or not chunk.get("choices"):
            return chunk
        return chunk | {"choices": [self._choice(choice) for choice in chunk["choices"]]}

    def close(self) -> list[Json]:
        """Choices with what is still held, of a stream that broke off; empty where nothing is."""
        indices = sorted({index for index, _ in self._restorers})
        choices = [{"index": i, "delta": self._flushed(i, {}), "finish_reason": None} for i in indices]
        return [choice for choice in choices if choice["delta"]]

    def _choice(self, choice: Json) -> Json:
        index, delta = choice.get("index") or 0, choice.get("delta")
        made = self._delta(index, (), delta) if isinstance(delta, dict) else delta
        if choice.get("finish_reason") is not None:
            made = self._flushed(index, made if isinstance(made, dict) else {})
        return choice | {"delta": made}

    def _delta(self, index: int, path: tuple[str | int, ...], value: Any) -> Any:
        if isinstance(value, str):
            return self._restorer(index, path).feed(value)
        if isinstance(value, list):
            return [
                self._delta(index, (*path, v.get("index", i) if isinstance(v, dict) else i), v)
                for i, v in enumerate(value)
            ]
        if isinstance(value, dict):
            return {k: v if k in _LEFT or k == "name" else self._delta(index, (*path, k), v) for k, v in value.items()}
        return value

    def _restorer(self, index: int, path: tuple[str | int, ...]) -> StreamRestorer:
        key = index, path
        if key not in self._restorers:
            self._restorers[key] = StreamRestorer(self._session, json=path[-1] == "arguments")
        return self._restorers[key]

    def _flushed(self, index: int, delta: Json) -> Json:
        """A delta with what its choice still holds put at the end of each text."""
        for (of, path), restorer in self._restorers.items():
            if of == index and (held := restorer.close()):
                delta = _with_text(delta, path, held)
        return delta


def _with_text(value: Any, path: tuple[str | int, ...], text: str) -> Any:
    """A delta with a text added at a path; a number in the path is the `index` of an entry of a list."""
    if not path:
        return (value or "") + text
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        entries: list[Any] = list(value or ())
        for i, entry in enumerate(entries):
            if isinstance(entry, dict) and entry.get("index", i) == step:
                entries[i] = _with_text(entry, rest, text)
                return entries
        return [*entries, _with_text({"index": step}, rest, text)]
    held: Json = value or {}
    return held | {step: _with_text(held.get(step), rest, text)}
