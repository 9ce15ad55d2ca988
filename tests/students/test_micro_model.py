"""The micro rung's decoder is a Llama: what is stored gives the same logits in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tiercel.errors import BundleError, ConfigurationError
from tiercel.students.micro_model import MicroDecoder, MicroShape, load_decoder, save_decoder

TWINS = [(200 + i, 20 + i) for i in range(100)]


def decoder(window: int | None = None, seed: int = 0) -> MicroDecoder:
    torch.manual_seed(seed)
    shape = MicroShape.of_size(250_000, vocabulary=300, context=64, answer=16, window=window, rope=5000.0)
    found = MicroDecoder(shape, twins=TWINS).eval()
    for parameter in found.parameters():
        # Layers start by adding nothing: without this, no test would see what they do.
        torch.nn.init.normal_(parameter, std=0.2)
    return found


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("window", "kind"), [(None, "LlamaForCausalLM"), (5, "MistralForCausalLM")])
@torch.no_grad()
def test_transformers_gives_the_same_logits(tmp_path: Path, window: int | None, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    ours, ids = decoder(window), tokens(3, 40)
    save_decoder(ours, tmp_path, begin=1, end=2)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == kind
    wanted = ours.logits(ours(ids)[0])
    torch.testing.assert_close(theirs(ids).logits, wanted, atol=1e-4, rtol=1e-4)
    again = load_decoder(tmp_path)
    assert again.shape == ours.shape
    torch.testing.assert_close(again.logits(again(ids)[0]), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [150_000, 300_000, 1_000_000, 3_000_000, 10_000_000])
def test_the_size_is_kept_and_used(size: int) -> None:
    shape = MicroShape.of_size(size, vocabulary=512, context=64, answer=8)
    assert 0.5 * size < shape.parameters <= size
    assert sum(p.numel() for p in MicroDecoder(shape).parameters()) == shape.parameters
    assert shape.depth >= 4
    assert shape.heads % shape.groups == 0
    assert f"{shape.parameters / 1e6:.2f} M" in str(shape)


@pytest.mark.parametrize("size", [0, 10_000, 90_000])
def test_too_small_a_size_is_one_clear_error(size: int) -> None:
    with pytest.raises(ConfigurationError, match="larger --micro-size"):
        MicroShape.of_size(size, vocabulary=4096, context=64, answer=8)


@torch.no_grad()
def test_a_token_does_not_see_what_comes_after() -> None:
    ours, ids = decoder(), tokens(2, 30)
    changed = ids.clone()
    changed[:, 20:] = 7
    assert torch.equal(ours(ids)[0][:, :20], ours(changed)[0][:, :20])
    assert not torch.allclose(ours(ids)[0][:, 21:], ours(changed)[0][:, 21:])


@torch.no_grad()
def test_a_window_ends_where_it_says() -> None:
    ours, ids = decoder(window=3), tokens(1, 40)
    reach = 3 - 1
    seen = ours.shape.depth * reach
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 300
    same = (ours(ids)[0] == ours(changed)[0]).all(-1)[0]
    assert same[seen + 1 :].all()
    assert not same[seen]


@torch.no_grad()
def test_twins_differ_by_one_vector() -> None:
    ours = decoder()
    table = ours.embeddings()
    apart = torch.stack([table[twin] - table[other] for twin, other in TWINS])
    torch.testing.assert_close(apart, ours.after_space.expand_as(apart), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_cache_changes_nothing() -> None:
    ours, ids = decoder(), tokens(2, 20)
    whole = ours(ids)[0]
    first, past = ours(ids[:, :15])
    positions = torch.arange(15, 20).expand(2, 5)
    mask = (torch.arange(20) <= torch.arange(15, 20)[:, None])[None, None]
    second, _ = ours(ids[:, 15:], mask=mask, positions=positions, past=past)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="mask"):
        ours(ids[:, 15:], past=past)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"half a fi", b"{}"])
def test_a_damaged_folder_is_one_clear_error(tmp_path: Path, file: str, content: bytes | None) -> None:
    save_decoder(decoder(), tmp_path, begin=1, end=2)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(BundleError, match="train the student again"):
        load_decoder(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path, begin=1, end=2)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": ', '"num_hidden_layers": 1'))
    with pytest.raises(BundleError, match="train the student again"):
        load_decoder(tmp_path)
