"""Function calls of a decoder: two functions, and calls that come together, from Python and through the gateway."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_lines
from tests.gateway.conftest import Loop, send, serving
from tiercel import load
from tiercel.flows import micro_rung
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway.sections import Settings
from tiercel.report.result import PilotResult
from tiercel.types import ToolCall

pytest.importorskip("xllamacpp")

ARTISTS, ROOMS = ("Bach", "Björk", "Coltrane", "Eno"), ("hall", "kitchen", "studio", "attic")


def function(name: str, **properties: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [function("play", artist="string"), function("light", room="string", on="boolean")]
ARGUMENTS = {"play": {"artist"}, "light": {"room", "on"}}


def asked(rng: random.Random) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """A request, and the calls that answer it: one or, in a third of the rows, two."""
    artist, room, on = rng.choice(ARTISTS), rng.choice(ROOMS), rng.random() < 0.5
    play = (f"play {artist}", ("play", {"artist": artist}))
    light = (f"{room} light {'on' if on else 'off'}", ("light", {"room": room, "on": on}))
    chosen = rng.choice([(play,), (light,), (play, light)])
    return f"{' and '.join(text for text, _ in chosen)} {rng.randrange(10**5)}", [call for _, call in chosen]


def row(rng: random.Random) -> dict[str, Any]:
    text, calls = asked(rng)
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    answer = {"role": "assistant", "content": None, "tool_calls": made}
    return {"tools": TOOLS, "messages": [{"role": "user", "content": text}, answer]}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PilotResult]:
    """Folder and result of a pilot whose decoder writes the calls."""
    folder, rng = tmp_path_factory.mktemp("calls"), random.Random(0)
    traffic = write_lines(folder / "traffic.jsonl", *(row(rng) for _ in range(450)))
    settings = PilotSettings(max_loss=0.4, threads=1, students=("micro",), micro_size=260_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_rung, "PLAN", {"epochs": 25})
        return folder / "out", pilot([traffic], folder / "out", settings)


def read(calls: tuple[ToolCall, ...]) -> list[tuple[str, dict[str, Any]]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def test_every_call_has_the_arguments_of_its_own_function(result: tuple[Path, PilotResult]) -> None:
    out, told = result
    assert told.task == "function_calling"
    [student] = told.students
    # What the dial says, and not the 2.5 million that are usual.
    assert 0.1 < float(student.note.partition(" M parameters")[0]) <= 0.26
    bundle, rng = load(out), random.Random(5)
    requests = [asked(rng) for _ in range(40)]
    responses = bundle.student.respond([text for text, _ in requests])
    finished = responses.signals[:, bundle.student.signals.index("finished")] > 0
    assert finished.sum() > 30
    counts = set[int]()
    for answer, whole in zip(responses.answers, finished, strict=True):
        if whole:
            calls = read(answer.tool_calls)
            counts.add(len(calls))
            assert all(set(arguments) == ARGUMENTS[name] for name, arguments in calls)
    assert counts >= {1, 2}
    accepted = 0
    for text, calls in requests:
        messages = [{"role": "user", "content": text}]
        answered = bundle.answer(messages, tools=TOOLS)
        accepted += answered.tier == "student" and read(answered.tool_calls) == calls
        assert bundle.answer(messages, tools=TOOLS[:1]).reason == "another workload"
    assert accepted > 10


def test_the_gateway_answers_with_calls_that_come_together(
    result: tuple[Path, PilotResult], configured: Callable[..., Settings], loop: Loop
) -> None:
    settings = configured(workload={"bundle": result[0] / "bundle", "name": "calls"}, bundle=False)
    bundle, rng = load(result[0]), random.Random(6)
    both = (a for a in iter(lambda: asked(rng), None) if len(a[1]) == 2)
    text, calls = next(
        a for a in both if read(bundle.answer([{"role": "user", "content": a[0]}], tools=TOOLS).tool_calls) == a[1]
    )
    asking = {"model": "any", "messages": [{"role": "user", "content": text}], "tools": TOOLS}
    with serving(loop, settings) as gateway:
        status, headers, data = send(gateway.url, asking)
        other, *_ = send(gateway.url, asking | {"tools": TOOLS[:1]})
    assert (status, headers["x-tiercel-tier"]) == (200, "student")
    [choice] = json.loads(data)["choices"]
    told = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in choice["message"]["tool_calls"]]
    assert (told, choice["finish_reason"]) == (calls, "tool_calls")
    # Nobody else is there to answer what offers other functions.
    assert other >= 400
