from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.tiny_llama import make_llama
from tiercel.errors import ConfigurationError
from tiercel.students.slm_base import free_memory, locate_model, open_base, tuning_bytes

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("base") / "Tiny-Llama")


def changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_model_is_described_without_its_weights(model: Path) -> None:
    base = open_base(str(model))
    assert (base.name, base.context, base.layers, base.width, base.vocabulary) == ("Tiny-Llama", 1024, 2, 64, 480)
    assert base.parameters == 2 * 480 * 64 + 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64) + 64
    assert base.adapter_unit == 2 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3)
    assert base.ends == (2,)
    assert base.system_role


@pytest.mark.parametrize(("window", "context"), [(16, 16), (4096, 1024), (None, 1024)])
def test_a_window_that_is_not_served_ends_the_context(
    model: Path, tmp_path: Path, window: int | None, context: int
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    changed(folder / "config.json", sliding_window=window, **mistral)
    assert open_base(str(folder)).context == context


def test_a_template_without_a_place_for_instructions_is_known(model: Path, tmp_path: Path) -> None:
    for number, start in enumerate(("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}", "")):
        folder = Path(shutil.copytree(model, tmp_path / str(number)))
        turns = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|over|>{% endfor %}"
        (folder / "chat_template.jinja").write_text(start + turns)
        assert not open_base(str(folder)).system_role


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for %}")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _unknown(folder: Path) -> None:
    changed(folder / "config.json", architectures=["NobodysForCausalLM"], model_type="nobodys")


def _an_encoder(folder: Path) -> None:
    changed(folder / "config.json", architectures=["ViTModel"], model_type="vit")


def _small_embedding(folder: Path) -> None:
    changed(folder / "config.json", vocab_size=400)


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(b"no")


def _an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    changed(folder / "adapter_config.json", base_model_name_or_path="owner/base")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_tokenizer, "has no tokenizer; save it"),
        (_no_template, "no chat template; take the model's instruct variant"),
        (_broken_template, "chat template can't be read.*fetch the model again"),
        (_no_config, r"no config\.json that can be read; give"),
        (_no_weights, "no weights in safetensors form; fetch"),
        (_unknown, "no causal language model that transformers knows .architecture NobodysForCausalLM.*; use"),
        (_an_encoder, "no causal language model .*ViTModel.*; use"),
        (_small_embedding, "tokenizer has 480 tokens but the embedding 400 rows; call"),
        (_broken_tokenizer, "tokenizer can't be read.*fetch the model again"),
        (_an_adapter, "is an adapter and no model; give owner/base"),
    ],
)
def test_a_model_that_is_not_whole_is_one_clear_line(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(ConfigurationError, match=says) as caught:
        open_base(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "../x", "a/b/c", "a model"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no such folder; give one, or a name on the hub"):
        locate_model(name)


def test_without_a_network_the_hub_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigurationError, match=r"neither a folder nor to be had from the hub.*check the name"
    ) as caught:
        locate_model("tiercel-tests/no-such-model")
    assert "\n" not in str(caught.value)


def test_more_of_everything_takes_more_memory(model: Path) -> None:
    base = open_base(str(model))
    common = {"weight_bytes": 2.0, "adapted": 1000, "tokens": 100, "checkpointing": False, "value_bytes": 2}
    least = tuning_bytes(base, **common)
    for more in ({"weight_bytes": 4.0}, {"adapted": 2000}, {"tokens": 200}, {"value_bytes": 4}):
        assert tuning_bytes(base, **{**common, **more}) > least
    assert tuning_bytes(base, **{**common, "checkpointing": True}) < least
    assert 2**20 < free_memory(main=True) <= 2**63
