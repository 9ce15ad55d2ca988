"""OpenAI's legacy completions in the words of chat completions, and answers back; pure functions on decoded JSON.

| of a request | in a chat completion request |
|---|---|
| `prompt`, one text | a message of the user: what a base model would continue, a chat model answers |
| `max_tokens` | `max_completion_tokens`; 16 where it is missing, as that API has it |
| `logprobs` k | `logprobs` true, and `top_logprobs` k if it is above 0 |
| `best_of` no more than `n` | left out |
| several prompts, tokens, `echo`, `suffix`, `best_of` above `n` | error |
| all others (`n`, `stop`, `temperature`, `seed`, `stream`, `user`) | the same name |

In an answer, a refusal is text, and tool calls, which nobody asked for, are an error. An error in a request is a
`DataError`, one in an answer an `UnreadableAnswerError`.
"""

from __future__ import annotations

import time
import uuid

from tiercel.providers._fields import Fields, Json, of_answer, of_request
from tiercel.providers._messages_errors import CUT_OFF, openai_error
from tiercel.providers._pieces import Text, said

__all__ = ["CompletionTexts", "chat_from_completions", "text_from_completion"]

_DEFAULT_TOKENS = 16
_HINT = "send one text, or send such requests to a provider that speaks completions"
_KNOWN = ("prompt", "max_tokens", "logprobs", "echo", "suffix", "best_of")
_HEAD = ("id", "created", "model", "choices", "object")


def chat_from_completions(body: Json) -> Json:
    """A request for a completion as one for a chat completion.

    Args:
        body: the request; the result shares parts of it.

    Raises:
        DataError: a field is missing or of a wrong type, or asks for what chat completions have no word for.
    """
    fields = of_request(body)
    n = fields.whole("n")
    if (best_of := fields.whole("best_of")) is not None and best_of > (1 if n is None else n):
        raise fields.wrong("best_of", "asks for more answers than are given back; leave it out")
    if fields.flag("echo"):
        raise fields.wrong("echo", "asks for the prompt in the answer, which a chat has no word for; leave it out")
    if fields.text("suffix"):
        raise fields.wrong("suffix", "asks for what stands before a text, which a chat has no word for; leave it out")
    longest = fields.whole("max_tokens")
    chat: Json = {"model": fields.need_text("model"), "messages": [{"role": "user", "content": _prompt(fields)}]}
    chat["max_completion_tokens"] = _DEFAULT_TOKENS if longest is None else longest
    if (top := fields.whole("logprobs")) is not None:
        chat |= {"logprobs": True} | ({"top_logprobs": top} if top else {})
    return chat | fields.others(*_KNOWN)


def _prompt(fields: Fields) -> str:
    prompt = fields.raw.get("prompt")
    # Some clients write one prompt as a list of one.
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if prompt is None:
        raise fields.wrong("prompt", "is missing")
    what = "several prompts or tokens" if isinstance(prompt, list) else "neither text nor a list"
    raise fields.wrong("prompt", f"is {what}, which chat completions have no word for; {_HINT}")


def text_from_completion(completion: Json) -> Json:
    """A chat completion, of any number of choices, as a text completion.

    Raises:
        UnreadableAnswerError: it is no chat completion, or says what a text has no word for.
    """
    fields = of_answer(completion)
    choices = [_choice(choice, choice.need_inner("message"), 0) for choice in fields.each("choices")]
    found = _head(fields) | {"choices": choices}
    return found | {name: value for name, value in fields.others(*_HEAD).items() if value is not None}


def _head(fields: Fields) -> Json:
    created = fields.number("created")
    return {
        "id": fields.text("id") or f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time() if created is None else created),
        "model": fields.text("model") or "",
    }


def _choice(choice: Fields, message: Fields | None, offset: int) -> Json:
    """One choice; `offset` counts the characters of its text that came before."""
    if message and message.raw.get("tool_calls"):
        raise message.wrong("tool_calls", "has no word in this API")
    logprobs = choice.inner("logprobs")
    texts = [piece for piece in said(message, logprobs) if isinstance(piece, Text)] if message else []
    tokens = [token for piece in texts for token in piece.logprobs]
    return {
        "index": choice.count("index"),
        "text": "".join(piece.text for piece in texts),
        "logprobs": _logprobs(tokens, offset) if tokens else None,
        "finish_reason": choice.text("finish_reason"),
    } | choice.others("index", "message", "delta", "logprobs", "finish_reason")


def _logprobs(tokens: list[Json], offset: int) -> Json:
    """Log probabilities as four lists; offsets count characters of the text."""
    found: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for i, token in enumerate(tokens):
        fields = of_answer(token, f"logprobs.content[{i}]")
        text = fields.need_text("token")
        found["tokens"].append(text)
        found["token_logprobs"].append(fields.number("logprob"))
        found["top_logprobs"].append({t.need_text("token"): t.number("logprob") for t in fields.each("top_logprobs")})
        found["text_offset"].append(offset)
        offset += len(text)
    return found


class CompletionTexts:
    """Chunks of a chat completion in, chunks of a text completion out; an error comes out as {"error": {...}}."""

    def __init__(self) -> None:
        self._head: Json | None = None
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._over = False

    def feed(self, chunk: Json) -> list[Json]:
        """The chunks that a chunk gives rise to.

        Raises:
            UnreadableAnswerError: it is no chunk of a chat completion, or says what a text has no word for.
        """
        fields = of_answer(chunk, "the chunk")
        if self._over:
            return []
        if fields.raw.get("error"):
            self._over = True
            return [chunk if isinstance(chunk["error"], dict) else openai_error(chunk)]
        if self._head is None:
            self._head = _head(fields)
        choices = [told for choice in fields.each("choices") if (told := self._told(choice))]
        extra = fields.others(*_HEAD)
        if not choices and extra.get("usage") is None:
            return []
        return [self._head | {"choices": choices} | extra]

    def end(self) -> list[Json]:
        """Nothing after a whole answer, else an error: no more chunks come."""
        whole = bool(self._begun) and self._begun == self._ended
        over, self._over = self._over, True
        return [] if over or whole else [CUT_OFF]

    def _told(self, choice: Fields) -> Json | None:
        """A choice of a chunk, None where it says nothing."""
        index = choice.count("index")
        self._begun.add(index)
        found = _choice(choice, choice.inner("delta"), self._offsets.get(index, 0))
        self._offsets[index] = self._offsets.get(index, 0) + len(found["text"])
        if found["finish_reason"]:
            self._ended.add(index)
        return found if found["text"] or found["finish_reason"] or found["logprobs"] else None
