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
from numpy.typing import NDArray

from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import Engine, Generated, GenerationRequest
from tiercel.errors import BrokenAnswerError, ContextOverflowError, TiercelError
from tiercel.flows.answer_confidence import FIRST_SIGNALS, LABELS_SEEN, answer_signals
from tiercel.flows.probing import Probe, probe_of, require_same_model
from tiercel.students.known_words import KnownWords
from tiercel.students.prompting import Prompt, Prompter
from tiercel.students.response import Responses
from tiercel.tasks.losses import compare
from tiercel.tasks.sql_grammar import limit_texts
from tiercel.tasks.sql_placeholders import Hidden, Placeholders
from tiercel.tasks.sql_values import ColumnValues
from tiercel.types import Answer, FunctionCall, ToolCall

__all__ = ["Generator", "GeneratorRecord", "answer_of", "answers_apart", "text_of"]

Json = dict[str, Any]

SAMPLE_TEMPERATURE = 1.0
"""The model's own distribution: the share of samples like the likeliest answer then estimates how likely that is."""


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
    signals: tuple[str, ...] = FIRST_SIGNALS
    """For the gate, in the order of its columns."""
    samples: int = 0
    """Answers that are drawn beside the likeliest one, to see how many agree with it; each costs as much."""
    probes: tuple[Probe, ...] = ()
    """What the model says to made-up requests, by which an engine elsewhere is known to serve it."""


class Generator:
    """A decoder in llama.cpp, or in an engine elsewhere that serves the same model.

    Args:
        model: the GGUF file.
        record: of the student.
        known: words of the training requests.
        threads: None for all cores.
        slots: None for the record's.
        engine: that serves the model; None for llama.cpp in this process.

    Raises:
        ConfigurationError: the engine can't tell what the gate needs.
        ParityError: the engine serves another model.
    """

    kind = "generator"
    files = ("model.gguf", "generator.json", "known_words.safetensors")

    def __init__(
        self,
        model: Path,
        record: GeneratorRecord,
        known: KnownWords,
        *,
        threads: int | None = None,
        slots: int | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.model = model
        self.record = record
        self.known = known
        self.engine: Engine
        if engine is None:
            self.engine = LlamaCppEngine(model, context=record.context, slots=slots or record.slots, threads=threads)
        else:
            self.engine = engine
        room = min(record.context, self.engine.context) - record.max_tokens
        self._prompter = Prompter(record.prompt or Prompt(), self.engine.count_tokens, room)
        if engine is not None:
            require_same_model(engine, record.probes, self._prompter.messages)
        self._placeholders = Placeholders(record.values) if record.values is not None else None
        self._grammars: dict[tuple[str, ...], str] = {}

    @property
    def rung(self) -> str:
        """The rung that it stands on."""
        return self.record.rung

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals."""
        return self.record.signals

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
            logprobs=LABELS_SEEN if "label_margin" in self.record.signals else 2,
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
        asked = [self._asked(h) for h in hidden]
        told = self._told(asked)
        answers = [self._answer(g, h) for g, h in zip(told, hidden, strict=True)]
        own = [answer_signals(g, self.record.one_token) for g in told]
        columns = {name: np.array([one[name] for one in own]) for name in (own[0] if own else {})}
        columns |= {
            "length": np.log1p([len(t.split()) for t in texts]),
            "familiarity": self.known.share([h.text for h in hidden]).astype(np.float64),
        }
        if self.record.samples:
            columns["sample_agreement"] = self._agreement(asked, hidden, answers)
        chosen = [columns[name] for name in self.signals] if own else [np.zeros(0)] * len(self.signals)
        return Responses(answers=answers, signals=np.column_stack(chosen).astype(np.float64))

    def _told(self, asked: Sequence[GenerationRequest]) -> list[Generated | None]:
        """What the engine says to each request; None where it does not fit or broke its form."""
        found = self.engine.generate_many(asked)
        for error in found:
            if isinstance(error, TiercelError) and not isinstance(error, ContextOverflowError | BrokenAnswerError):
                raise error
        return [f if isinstance(f, Generated) else None for f in found]

    def _agreement(
        self, asked: Sequence[GenerationRequest], hidden: Sequence[Hidden], answers: Sequence[Answer]
    ) -> NDArray[np.float64]:
        """How far answers that are drawn agree with the likeliest ones, shape (n,), in [0, 1]."""
        drawn = [
            msgspec.structs.replace(request, temperature=SAMPLE_TEMPERATURE, seed=number, logprobs=None)
            for request in asked
            for number in range(self.record.samples)
        ]
        told = self._told(drawn)
        found = np.zeros((len(asked), self.record.samples))
        for i, generated in enumerate(told):
            row, number = divmod(i, self.record.samples)
            if generated is not None:
                answer = self._answer(generated, hidden[row])
                found[row, number] = 1 - answers_apart(self.record.task, answer, answers[row])
        return found.mean(axis=1)

    def _answer(self, generated: Generated | None, hidden: Hidden) -> Answer:
        """The answer that the model's text stands for; an empty one where there is none."""
        return answer_of(self.record.task, self._restored(generated.answer.text, hidden) if generated else "")

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
    def load(cls, folder: Path, *, threads: int | None = None, engine: Engine | None = None) -> Generator:
        """The student that `save` wrote into `folder`; `engine` serves its model, where it is not to be served here."""
        from safetensors.numpy import load_file

        source = folder / "generator"
        record = msgspec.json.decode((source / cls.files[1]).read_bytes(), type=GeneratorRecord)
        known = KnownWords(load_file(source / cls.files[2])["hashes"])
        return cls(source / cls.files[0], record, known, threads=threads, engine=engine)

    def close(self) -> None:
        """Cancel all work and let the engine go."""
        self.engine.close()

    def probed(self) -> GeneratorRecord:
        """The record with what the model says to made-up requests."""
        return msgspec.structs.replace(self.record, probes=probe_of(self.engine, self._prompter.messages))


def answers_apart(task: str, first: Answer, second: Answer) -> float:
    """How far two answers to one request are from each other, in [0, 1]; labels and queries by their text."""
    if task in ("classification", "sql"):
        return float(first.text.strip() != second.text.strip())
    return compare(task, first, second).loss


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
