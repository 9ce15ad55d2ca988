"""A bundle whose model a server elsewhere serves: answered from there, and refused where it serves something else."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.flows.decoders import decoder_bundle, model_of, served
from tests.flows.test_structure import order
from tiercel import load
from tiercel.compress.gguf_edit import edit_gguf
from tiercel.engines import vllm_process
from tiercel.engines.remote import RemoteEngine
from tiercel.errors import ConfigurationError, EngineError, MissingExtraError, ParityError, ProviderError
from tiercel.flows.probing import REQUESTS, probe_of, require_same_model
from tiercel.types import Message


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_bundle(tmp_path_factory.mktemp("probing"))


def test_a_server_of_the_bundles_model_answers_as_the_bundle_does(bundle: Path) -> None:
    requests = [[{"role": "user", "content": order(random.Random(i))[0]}] for i in range(12)]
    here = load(bundle, threads=1)
    assert len(here.student.record.probes) == len(REQUESTS)
    with served(model_of(bundle)) as url:
        there = load(bundle, engine=url)
        assert url.partition("//")[2] in there.student.engine.name
        for own, told in zip(here.answer_many(requests), there.answer_many(requests), strict=True):
            assert (told.proposal, told.tier) == (own.proposal, own.tier)
            assert told.confidence == pytest.approx(own.confidence, abs=0.02)
        there.student.engine.close()


def another_template(model: Path, target: Path) -> None:
    import gguf

    key = "tokenizer.chat_template"
    template = gguf.GGUFReader(str(model)).fields[key].contents()
    edit_gguf(model, target, {key: f"{template}{{{{ '  ' }}}}"})


def another_rope(model: Path, target: Path) -> None:
    edit_gguf(model, target, {"llama.rope.freq_base": 50.0})


@pytest.mark.parametrize(
    ("fault", "says"), [(another_template, "its prompt of probe 0"), (another_rope, "of probe|probe")]
)
def test_a_server_of_another_model_is_refused(
    bundle: Path, tmp_path: Path, fault: Callable[[Path, Path], None], says: str
) -> None:
    fault(model_of(bundle), tmp_path / "other.gguf")
    with (
        served(tmp_path / "other.gguf") as url,
        pytest.raises(ParityError, match=f"does not serve the bundle's model: .*({says}).*model.gguf"),
    ):
        load(bundle, engine=url)


def test_what_an_engine_has_to_tell_is_asked_for(bundle: Path) -> None:
    student = load(bundle, threads=1).student
    probes = student.record.probes
    asked = student._prompter.messages
    require_same_model(student.engine, probes, asked)
    with pytest.raises(ConfigurationError, match="run the pilot again"):
        require_same_model(student.engine, (), asked)

    class Silent:
        """The real engine, as one of those servers that keep their probabilities to themselves."""

        counts_exactly = True

        def __getattr__(self, name: str) -> Any:
            return getattr(student.engine, name)

        def generate(self, request: Any) -> Any:
            return student.engine.generate(msgspec.structs.replace(request, logprobs=None))

    with pytest.raises(ConfigurationError, match="reports no log probabilities"):
        require_same_model(Silent(), probes, asked)  # type: ignore[arg-type]
    guessing = Silent()
    guessing.counts_exactly = False
    with pytest.raises(ConfigurationError, match="does not count tokens"):
        require_same_model(guessing, probes, asked)  # type: ignore[arg-type]


def test_an_engine_of_the_callers_own_serves_and_ends_with_the_bundle(bundle: Path) -> None:
    asked = [{"role": "user", "content": order(random.Random(1))[0]}]
    with served(model_of(bundle)) as url:
        mine = load(bundle, engine=RemoteEngine(url, slots=2))
        assert mine.answer(asked).proposal == load(bundle, threads=1).answer(asked).proposal
        mine.close()
        with pytest.raises(EngineError):
            mine.answer(asked)


def test_vllm_is_started_where_it_is_asked_for(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[str]()

    class Started(RemoteEngine):
        """A server that is there already, in the place of a vLLM that this machine may not have."""

        def __init__(self, model: str) -> None:
            started.append(model)
            super().__init__(url)

    with served(model_of(bundle)) as url:
        monkeypatch.setattr(vllm_process, "VllmEngine", Started)
        there = load(bundle, engine="vllm:models/merged")
        there.close()
    assert started == ["models/merged"]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_a_vllm_that_is_not_there_is_named(bundle: Path) -> None:
    with pytest.raises(MissingExtraError, match="vllm"):
        load(bundle, engine="vllm:models/merged")


def test_an_engine_that_is_not_there_is_named(bundle: Path) -> None:
    with pytest.raises(ProviderError, match="can't be reached"):
        load(bundle, engine="http://127.0.0.1:9/v1")


def test_the_bundle_holds_no_request_of_the_traffic_for_its_probe(bundle: Path) -> None:
    student = load(bundle, threads=1).student
    assert [probe.request for probe in student.record.probes] == list(REQUESTS)
    # What does not fit is left out, and a pilot does not end by it.
    few = probe_of(student.engine, lambda text: (Message(role="user", content=text * 400),))
    assert few == ()
