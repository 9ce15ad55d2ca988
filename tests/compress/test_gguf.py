from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from tests.compress.conftest import Trained
from tests.engines.tiny_llama import make_llama, sentences
from tiercel.compress.gguf import check_convertible, convert_to_gguf
from tiercel.compress.gguf_edit import edit_gguf
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import GenerationRequest
from tiercel.errors import BundleError, ConfigurationError, StorageError
from tiercel.types import Message

TEXTS = [f"{asked} {answer}" for asked, answer in sentences()]


def value(path: Path, key: str) -> object:
    field = gguf.GGUFReader(str(path)).fields.get(key)
    return None if field is None else field.contents()


def copied(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "copy"))


def changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_gguf_says_what_the_tokenizer_does(trained: Trained) -> None:
    assert value(trained.gguf, "tokenizer.ggml.add_bos_token") is True
    assert value(trained.gguf, "tokenizer.ggml.add_eos_token") is False
    assert value(trained.gguf, "tokenizer.ggml.add_space_prefix") is False
    kinds = value(trained.gguf, "tokenizer.ggml.token_type")
    tokens = value(trained.gguf, "tokenizer.ggml.tokens")
    assert isinstance(kinds, list) and isinstance(tokens, list)
    assert kinds[tokens.index("<|user|>")] in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)


def test_a_template_without_a_bos_is_served_without_one(trained: Trained, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().removeprefix("{{ bos_token }}"))
    made = convert_to_gguf(folder, tmp_path / "made.gguf")
    assert value(made, "tokenizer.ggml.add_bos_token") is False


def test_more_ends_than_one_are_written(trained: Trained, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    changed(folder / "generation_config.json", eos_token_id=[2, 7])
    made = convert_to_gguf(folder, tmp_path / "made.gguf")
    assert value(made, "tokenizer.ggml.eos_token_id") == 2
    assert value(made, "tokenizer.ggml.eot_token_id") == 7
    changed(folder / "generation_config.json", eos_token_id=[2, 7, 8, 9])
    with pytest.raises(ConfigurationError, match="stops at 4 tokens"):
        convert_to_gguf(folder, tmp_path / "again.gguf")


def test_nothing_is_said_and_nothing_left_behind(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    convert_to_gguf(trained.folder, tmp_path / "new" / "model.gguf", "q8_0")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model.gguf"]


def test_four_bits_are_calibrated_and_answer(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model", layers=1)
    f16 = convert_to_gguf(folder, tmp_path / "f16.gguf")
    made = convert_to_gguf(folder, tmp_path / "q4.gguf", "q4_0", texts=TEXTS[:60])
    assert made.stat().st_size < f16.stat().st_size
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(str(made)).tensors}
    assert kinds["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.Q4_0
    with LlamaCppEngine(made, slots=1, threads=1) as engine:
        request = GenerationRequest(messages=(Message(role="user", content="a parcel"),), max_tokens=5)
        assert engine.generate(request).output_tokens == 5


def test_four_bits_need_texts(trained: Trained, tmp_path: Path) -> None:
    for texts in ((), ("", "")):
        with pytest.raises(ConfigurationError, match="q4_k_m is calibrated on texts"):
            convert_to_gguf(trained.folder, tmp_path / "made.gguf", "q4_k_m", texts=texts)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _unknown_architecture(folder: Path) -> None:
    changed(folder / "config.json", architectures=["NobodysForCausalLM"])


def _many_ends(folder: Path) -> None:
    changed(folder / "generation_config.json", eos_token_id=[2, 3, 4, 5])


def _window(folder: Path) -> None:
    """As the micro rung saves a decoder that was trained with a window."""
    changed(folder / "config.json", architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=16)


def _empty_weights() -> bytes:
    from safetensors.numpy import save

    return save({})


def _small_embedding(folder: Path) -> None:
    changed(folder / "config.json", vocab_size=400)


def _new_byte_level_bpe(folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template = (folder / "chat_template.jinja").read_text()
    _no_tokenizer(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[aeiou]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    fast.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_config, r"no config\.json.*give a Hugging Face"),
        (_no_tokenizer, "has no tokenizer; save it"),
        (_no_template, "no chat template.*set tokenizer.chat_template"),
        (_unknown_architecture, "does not know the architecture NobodysForCausalLM; use"),
        (_small_embedding, "480 tokens but the embedding 400 rows; call model.resize"),
        (_new_byte_level_bpe, "does not know this byte-level BPE tokenizer.*SentencePiece"),
    ],
)
def test_a_folder_that_can_not_be_converted_is_one_clear_line(
    trained: Trained, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = copied(trained, tmp_path)
    spoil(folder)
    target = tmp_path / "made.gguf"
    with pytest.raises(ConfigurationError, match=says) as caught:
        convert_to_gguf(folder, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    assert not list(tmp_path.glob(".gguf-*"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_template, "no chat template"),
        (_unknown_architecture, "does not know the architecture NobodysForCausalLM; use"),
        (_new_byte_level_bpe, "does not know this byte-level BPE tokenizer.*SentencePiece"),
        (_many_ends, "stops at 4 tokens, a GGUF names three"),
        (_window, "its tokens see 16 tokens back, in a context of 1024; llama.cpp knows no such window for mistral"),
    ],
)
def test_what_can_never_be_converted_is_known_without_a_weight(
    trained: Trained, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = copied(trained, tmp_path)
    check_convertible(folder)
    spoil(folder)
    (folder / "model.safetensors").write_bytes(_empty_weights())
    with pytest.raises(ConfigurationError, match=says) as caught:
        check_convertible(folder)
    assert "\n" not in str(caught.value)


def test_a_window_is_refused_unless_no_request_reaches_beyond_it(trained: Trained, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    _window(folder)
    with pytest.raises(ConfigurationError, match="train without a window"):
        convert_to_gguf(folder, tmp_path / "made.gguf")
    assert not (tmp_path / "made.gguf").exists()
    assert convert_to_gguf(folder, tmp_path / "made.gguf", context=16).is_file()


def test_a_place_that_can_not_be_written_is_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't be written"):
        convert_to_gguf(trained.folder, tmp_path / "file" / "made.gguf")


def test_an_edit_changes_adds_and_takes_away_values_alone(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "edited.gguf"
    values = {"general.name": "other", "tokenizer.chat_template": None, "x.whole": 3, "x.real": 0.5, "x.yes": True}
    edit_gguf(trained.gguf, path, values)
    assert [value(path, key) for key in values] == ["other", None, 3, 0.5, True]
    assert value(path, "tokenizer.ggml.tokens") == value(trained.gguf, "tokenizer.ggml.tokens")
    before, after = (gguf.GGUFReader(str(p)).tensors for p in (trained.gguf, path))
    assert [(t.name, t.tensor_type, t.data.tobytes()) for t in before] == [
        (t.name, t.tensor_type, t.data.tobytes()) for t in after
    ]


def test_an_edit_of_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + b"\0" * 8)
    with pytest.raises(BundleError, match=r"no\.gguf: is no GGUF"):
        edit_gguf(path, tmp_path / "out.gguf", {})
