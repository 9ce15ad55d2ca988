"""OpenAI's Responses API in the words of chat completions, and answers back; pure functions on decoded JSON.

| of a request | in a chat completion request |
|---|---|
| `instructions` | a message of the role `system`, first |
| `input` | messages; reasoning, text and calls of one answer are one message of the assistant |
| `function_call_output` | a message of the role `tool`; its images stay with it (`strict_chat` moves them) |
| `reasoning` items | `reasoning_content`; `encrypted_content` is left out: it is for its maker alone |
| `max_output_tokens` | `max_completion_tokens` |
| `reasoning.effort`, `text.verbosity`, `text.format` | `reasoning_effort`, `verbosity`, `response_format` |
| `top_logprobs`, or "message.output_text.logprobs" in `include` | `logprobs`, `top_logprobs` |
| `stream` | with `stream_options.include_usage`, since such streams always end with token counts |
| ids and status of items, `phase` | left out: nothing is stored that they could name |
| `reasoning.summary`, the rest of `include`, `max_tool_calls`, `stream_options` | left out: no answer means less |
| `store` true, `previous_response_id`, `conversation`, `prompt`, `background`, `context_management` | error |
| `truncation` auto, `reasoning.mode` other than standard | error |
| tools other than functions, their items, `item_reference`, stored images, URLs of files | error |
| all others (`temperature`, `metadata`, `parallel_tool_calls`, `user`) | the same name |

An answer's text, refusal, reasoning and calls are output items; the finish_reasons length and content_filter make it
incomplete. Signatures of thinking blocks have no word there and are left out. Several choices, audio and custom calls
are errors. An error in a request is a `DataError`, one in an answer an `UnreadableAnswerError`.
"""

from __future__ import annotations

from tiercel.providers._responses_answer import response_from_completion
from tiercel.providers._responses_events import ResponseEvents
from tiercel.providers._responses_request import chat_from_responses

__all__ = ["ResponseEvents", "chat_from_responses", "response_from_completion"]
