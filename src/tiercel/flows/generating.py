"""A generative student as it serves: llama.cpp writes the answer, the task's grammar keeps its form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import Generated, GenerationRequest
from tiercel.errors import BrokenAnswerError, ContextOverflowError, TiercelError
from tiercel.students.known_words import KnownWords
from tiercel.students.prompting import Prompt, Prompter
from tiercel.students.response import Responses
from tiercel.tasks.sql_grammar import limit_texts
from tiercel.tasks.sql_placeholders import Hidden, Placeholders
from tiercel.tasks.sql_values import ColumnValues
from tiercel.types import Answer, FunctionCall, ToolCall

__all__ = ["GENERATION_SIGNALS", "Generator", "GeneratorRecord", "answer_of", "text_of"]

Json = dict[str, Any]

GENERATION_SIGNALS = (
    "mean_logprob",
    "log_probability",
    "weakest_token",
    "margin",
    "tokens",
    "finished",
    "length",
    "familiarity",
)
WORST = -30.0
"""Log probability of what was not answered at all."""


class GeneratorRecord(Struct, frozen=True, kw_only=True):
    """What a generative student knows of its task."""

    task: str
    rung: str
    context: int
    """Tokens of a request and its answer."""
    max_tokens: int
    """Tokens of an answer at the most."""
    precision: str
    schema: Json | None = None
    """JSON Schema that answers follow."""
    grammar: str | None = None
    """GBNF that answers follow."""
    prompt: Prompt | None = None
    """What surrounds a request; None where the model was trained on bare requests."""
    slots: int = 8
    """Requests worked on at once; each takes memory for `context` tokens."""
    values: ColumnValues | None = None
    """Values that requests may name, which the model reads and writes as placeholders; None where it sees them."""
    texts: tuple[str, ...] | None = None
    """Texts that queries may hold beside a request's placeholders; None for any."""
    one_token: tuple[str, ...] = ()
    """All answers there are, where each is one token of the vocabulary: no second token is then asked for, not even
    the one that ends an answer."""


class Generator:
    """A decoder in llama.cpp.

    Args:
        model: the GGUF file.
        record: of the student.
        known: words of the training requests.
        threads: None for all cores.
        slots: None for the record's.
    """

    kind = "generator"
    signals = GENERATION_SIGNALS
    files = ("model.gguf", "generator.json", "known_words.safetensors")

    def __init__(
        self,
        model: Path,
        record: GeneratorRecord,
        known: KnownWords,
        *,
        threads: int | None = None,
        slots: int | None = None,
    ) -> None:
        self.model = model
        self.record = record
        self.known = known
        self.engine = LlamaCppEngine(model, context=record.context, slots=slots or record.slots, threads=threads)
        room = min(record.context, self.engine.context) - record.max_tokens
        self._prompter = Prompter(record.prompt or Prompt(), self.engine.count_tokens, room)
        self._placeholders = Placeholders(record.values) if record.values is not None else None
        self._grammars: dict[tuple[str, ...], str] = {}

    @property
    def rung(self) -> str:
        """The rung that it stands on."""
        return self.record.rung

    def request(self, text: str) -> GenerationRequest:
        """What the engine is asked for a request of the workload."""
        return self._asked(self._hidden(text))

    def _hidden(self, text: str) -> Hidden:
        return self._placeholders.hide(text) if self._placeholders else Hidden(text=text, values={})

    def _asked(self, hidden: Hidden) -> GenerationRequest:
        return GenerationRequest(
            messages=self._prompter.messages(hidden.text),
            max_tokens=1 if self.record.one_token else self.record.max_tokens,
            schema=self.record.schema,
            grammar=self._grammar(tuple(hidden.values)),
            logprobs=2,
        )

    def _grammar(self, names: tuple[str, ...]) -> str | None:
        """The grammar of an answer to a request with these placeholders: it may compare with no other texts."""
        grammar, texts = self.record.grammar, self.record.texts
        if grammar is None or texts is None or self._placeholders is None:
            return grammar
        if names not in self._grammars:
            self._grammars[names] = limit_texts(grammar, (*names, *texts))
        return self._grammars[names]

    def respond(self, texts: Sequence[str]) -> Responses:
        """Answers for `texts`.

        A request that does not fit the context is not asked. Neither it nor one whose answer broke its form (bytes
        that are no text) can be accepted.
        """
        hidden = [self._hidden(text) for text in texts]
        found = self.engine.generate_many([self._asked(h) for h in hidden])
        for error in found:
            if isinstance(error, TiercelError) and not isinstance(error, ContextOverflowError | BrokenAnswerError):
                raise error
        told = [f if isinstance(f, Generated) else None for f in found]
        said = [self._restored(g.answer.text, h) if g else "" for g, h in zip(told, hidden, strict=True)]
        answers = [answer_of(self.record.task, text) for text in said]
        lengths = np.log1p([len(t.split()) for t in texts])
        own = np.array([_signals(g, self.record.one_token) for g in told], dtype=np.float64).reshape(len(texts), -1)
        return Responses(
            answers=answers,
            signals=np.column_stack([own, lengths, self.known.share([h.text for h in hidden]).astype(np.float64)]),
        )

    def read(self, request: str, said: str) -> Answer:
        """The answer that the model's text stands for, as a reply to `request`."""
        return answer_of(self.record.task, self._restored(said, self._hidden(request)))

    def _restored(self, text: str, hidden: Hidden) -> str:
        return self._placeholders.restore(text, hidden) if self._placeholders else text

    def single_threaded(self) -> Generator:
        """The same student on one thread."""
        return Generator(self.model, self.record, self.known, threads=1, slots=1)

    def save(self, folder: Path) -> None:
        """Write model, record and words into `folder`."""
        from safetensors.numpy import save_file

        target = folder / "generator"
        target.mkdir(parents=True, exist_ok=True)
        if target.resolve() != self.model.parent.resolve():
            shutil.copyfile(self.model, target / self.files[0])
        (target / self.files[1]).write_bytes(msgspec.json.format(msgspec.json.encode(self.record), indent=1))
        save_file({"hashes": self.known.hashes}, target / self.files[2])

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> Generator:
        """The student that `save` wrote into `folder`."""
        from safetensors.numpy import load_file

        source = folder / "generator"
        record = msgspec.json.decode((source / cls.files[1]).read_bytes(), type=GeneratorRecord)
        known = KnownWords(load_file(source / cls.files[2])["hashes"])
        return cls(source / cls.files[0], record, known, threads=threads)


def _signals(generated: Generated | None, one_token: Sequence[str] = ()) -> tuple[float, ...]:
    """Signals of one answer, but for length and familiarity of its request; `one_token`: answers that are whole."""
    if generated is None or not generated.tokens:
        return WORST, WORST, WORST, 0.0, 0.0, 0.0
    logprobs = np.maximum([t.logprob for t in generated.tokens], WORST)
    gaps = [t.alternatives[0].logprob - t.alternatives[1].logprob for t in generated.tokens if len(t.alternatives) > 1]
    # The grammar also allows the first letters of a label: those are no answer.
    finished = float(generated.finish_reason == "stop" or generated.answer.text in one_token)
    return (
        float(logprobs.mean()),
        float(logprobs.sum()),
        float(logprobs.min()),
        float(np.min(gaps)) if gaps else 0.0,
        float(np.log1p(len(logprobs))),
        finished,
    )


def text_of(task: str, answer: Answer) -> str:
    """What a decoder is taught to write for an answer; function calls as JSON."""
    if task != "function_calling":
        return answer.text
    calls = [{"name": c.function.name, "arguments": _arguments(c.function.arguments)} for c in answer.tool_calls]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False) if calls else ""


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def answer_of(task: str, text: str) -> Answer:
    """The answer that a decoder's text stands for; what is no call stays text, and loses."""
    if task != "function_calling":
        return Answer(content=text)
    try:
        calls = json.loads(text)
    except ValueError:
        return Answer(content=text)
    made = list[ToolCall]()
    for call in calls if isinstance(calls, list) else [calls]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return Answer(content=text)
        arguments = json.dumps(call.get("arguments", {}), ensure_ascii=False)
        made.append(ToolCall(function=FunctionCall(name=call["name"], arguments=arguments)))
    return Answer(tool_calls=tuple(made))
