"""Anthropic's Messages API in the words of chat completions, and back; pure functions on decoded JSON.

A body that goes from one API to the other keeps every field that both know, under the other's name. Of the rest:

| of the Messages API | in a chat completion |
|---|---|
| `system`; a later message of the role `system` | a message of the role `system` in its place |
| `tool_result` | a message of the role `tool`; its images stay with it, `is_error` under its own name |
| `thinking`, `redacted_thinking` blocks | `reasoning_content` (the text) and `thinking_blocks` (as they are) |
| `thinking` with a budget | `reasoning_effort` low (to 2,048 tokens), medium (to 8,192) or high; `thinking` as well |
| `output_config.effort`, `.format` | `reasoning_effort`, `response_format` json_schema with the name "answer", strict |
| `metadata.user_id` | `user` |
| `max_tokens` | `max_completion_tokens` |
| `stream` | with `stream_options.include_usage`, since such streams always end with token counts |
| `cache_control`, `citations` and other fields of a block or tool | the same name on the part, message or tool |
| other fields of a request (`top_k`, `thinking`, `context_management`) | the same name |
| `stop_sequence`, `stop_details` of an answer | the same name on the choice |
| `container`, `mcp_servers`, tools of Anthropic's own, their blocks, URLs of documents | error |

| of a chat completion | in the Messages API |
|---|---|
| `system`, `developer` before the first turn | `system`; later ones a message of the role `system` in its place |
| messages of one role that follow each other, results of tools among them | one turn of the user or assistant |
| `response_format` json_schema | `output_config.format`, which that API enforces itself (its `name` is left out) |
| `response_format` json_object | error |
| `reasoning_effort` | `thinking` adaptive with `output_config.effort`; "none" is `thinking` disabled |
| `parallel_tool_calls` false | `tool_choice.disable_parallel_tool_use` |
| `user`, else `safety_identifier` | `metadata.user_id` |
| text parts that are empty, an assistant's message without a word | left out: that API refuses them |
| `reasoning_content` without a signed block | left out: that API takes back what it signed and no other |
| `detail` of an image, `name` of a lone speaker or tool | left out |
| `seed`, `store`, `metadata`, `prediction`, `prompt_cache_*`, `stream_options` | left out: no answer means less |
| `n` above 1, `logprobs`, penalties, `logit_bias`, `verbosity`, audio, `functions`, custom and allowed tools | error |
| `temperature` above 1, several speakers of one role | error |
| several choices, audio and custom calls of an answer | error |
| other fields of a request, part, tool or call | the same name |

An assistant's message at the end goes across as it is: Anthropic's API continues it where its model allows that,
others answer it. An error in a request is a `DataError`, one in an answer an `UnreadableAnswerError`.
`strict_chat.strict_chat` makes of a request what a provider takes that knows chat completions alone.
"""

from __future__ import annotations

from tiercel.providers._messages_answer import completion_from_message, message_from_completion
from tiercel.providers._messages_chunks import CompletionChunks
from tiercel.providers._messages_errors import anthropic_error, openai_error, status_of_error
from tiercel.providers._messages_events import MessageEvents
from tiercel.providers._messages_from_chat import messages_from_chat
from tiercel.providers._messages_to_chat import chat_from_messages

__all__ = [
    "CompletionChunks",
    "MessageEvents",
    "anthropic_error",
    "chat_from_messages",
    "completion_from_message",
    "message_from_completion",
    "messages_from_chat",
    "openai_error",
    "status_of_error",
]
