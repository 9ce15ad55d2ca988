"""Content of one message: parts of a chat message to blocks of Anthropic's API, and back.

A field of a part or block that neither API shares (`cache_control`, `citations`) goes across under its own name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from tiercel.providers._fields import Fields, Json, shown

__all__ = ["NO_BLOCK", "NO_CHAT_WORD", "block_of", "call_of", "content_of", "part_of", "parts_of", "tool_use_of"]

NO_CHAT_WORD = "which chat completions have no word for; send such requests to a provider that speaks Anthropic's API"
NO_BLOCK = "which Anthropic's API has no word for; send such requests to a provider that speaks chat completions"
_NAMELESS = "document.pdf"
"""OpenAI's API wants a name with a file's data."""


def parts_of(holder: Fields, name: str = "content") -> list[Fields]:
    """The blocks or parts of content, text being one of its own.

    Raises:
        TiercelError: of the holder's kind, where content is neither text nor a list of objects.
    """
    content = holder.raw.get(name)
    if isinstance(content, str):
        return [holder.made({"type": "text", "text": content}, name)] if content else []
    return list(holder.each(name))


def content_of(parts: Sequence[Json]) -> str | list[Json]:
    """Parts or blocks as content: one plain text is written as text."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return list(parts)


def part_of(block: Fields) -> Json:
    """A block of a user's message, of the system prompt or of a tool's result as a part of a chat message."""
    kind = block.need_text("type")
    if kind == "text":
        return {"type": "text", "text": block.need_text("text")} | block.others("type", "text")
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": _image_url(block)}} | block.others("type", "source")
    if kind == "document":
        return {"type": "file", "file": _file(block)} | block.others("type", "source", "title")
    raise block.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")


def _image_url(block: Fields) -> str:
    source = block.need_inner("source")
    kind = source.need_text("type")
    if kind == "base64":
        return f"data:{source.need_text('media_type')};base64,{source.need_text('data')}"
    if kind == "url":
        return source.need_text("url")
    raise source.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")


def _file(block: Fields) -> Json:
    source = block.need_inner("source")
    kind = source.need_text("type")
    title = block.text("title")
    if kind == "file":
        return {"file_id": source.need_text("file_id")} | ({"filename": title} if title else {})
    if kind == "base64":
        data = f"data:{source.need_text('media_type')};base64,{source.need_text('data')}"
    elif kind == "text":
        try:
            text = base64.b64encode(source.need_text("data").encode()).decode()
        except UnicodeEncodeError:
            raise source.wrong("data", "holds broken characters") from None
        data = f"data:{source.text('media_type') or 'text/plain'};base64,{text}"
    else:
        raise source.wrong("type", f"is {shown(kind)}, {NO_CHAT_WORD}")
    return {"filename": title or _NAMELESS, "file_data": data}


def block_of(part: Fields) -> Json:
    """A part of a chat message as a block."""
    kind = part.need_text("type")
    if kind == "text":
        return {"type": "text", "text": part.need_text("text")} | part.others("type", "text")
    if kind == "refusal":
        return {"type": "text", "text": part.need_text("refusal")} | part.others("type", "refusal")
    if kind == "image_url":
        return {"type": "image", "source": _image_source(part)} | part.others("type", "image_url")
    if kind == "file":
        return {"type": "document"} | _document(part.need_inner("file")) | part.others("type", "file")
    raise part.wrong("type", f"is {shown(kind)}, {NO_BLOCK}")


def _image_source(part: Fields) -> Json:
    image = part.need_inner("image_url")
    url = image.need_text("url")
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    media_type, data = _data_url(image, "url", url)
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(file: Fields) -> Json:
    name = file.text("filename")
    title = {"title": name} if name else {}
    if file_id := file.text("file_id"):
        return {"source": {"type": "file", "file_id": file_id}} | title
    media_type, data = _data_url(file, "file_data", file.need_text("file_data"))
    if media_type == "application/pdf":
        return {"source": {"type": "base64", "media_type": media_type, "data": data}} | title
    if not media_type.startswith("text/"):
        raise file.wrong("file_data", f"is neither a PDF nor text, {NO_BLOCK}")
    try:
        text = base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise file.wrong("file_data", "is not text in UTF-8, encoded as base64") from None
    return {"source": {"type": "text", "media_type": "text/plain", "data": text}} | title


def _data_url(holder: Fields, name: str, url: str) -> tuple[str, str]:
    """Media type and base64 data of a data: URL."""
    head, comma, data = url.partition(",")
    scheme, _, media_type = head.partition(":")
    if scheme.lower() != "data" or not comma or not media_type.lower().endswith(";base64"):
        raise holder.wrong(name, "is not a URL of the form data:TYPE;base64,DATA")
    return media_type.partition(";")[0].lower(), data


def call_of(block: Fields) -> Json:
    """A tool_use block as a tool call; its input becomes the text of a JSON object."""
    block.inner("input")
    arguments = block.text_of("input") if block.raw.get("input") else "{}"
    function = {"name": block.need_text("name"), "arguments": arguments}
    call = {"id": block.need_text("id"), "type": "function", "function": function}
    return call | block.others("type", "id", "name", "input")


def tool_use_of(call: Fields, made_id: str | None = None) -> Json:
    """A tool call as a tool_use block.

    Args:
        call: of an assistant message.
        made_id: the id where the call has none; None to demand one.

    Raises:
        TiercelError: of the call's kind, where it is no call of a function or its arguments are no JSON object.
    """
    if (kind := call.text("type")) not in (None, "", "function"):
        raise call.wrong("type", f"is {shown(kind)}, {NO_BLOCK}")
    function = call.need_inner("function")
    given = call.text("id") or made_id or call.need_text("id")
    block = {"type": "tool_use", "id": given, "name": function.need_text("name"), "input": function.json("arguments")}
    return block | call.others("id", "type", "function", "index")
