"""A workload whose decoder a server of its own serves."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flows.decoders import decoder_bundle, model_of, served
from tests.flows.test_structure import order
from tests.gateway.conftest import Frontier, Loop, Running, answering, send, serving
from tests.gateway.test_doctor import found, write
from tests.ports import free_port
from tiercel.errors import ProviderError
from tiercel.gateway.desk import UNREACHABLE
from tiercel.gateway.permissions import may_answer
from tiercel.gateway.sections import Settings
from tiercel.gateway.sections import Workload as WorkloadSettings
from tiercel.gateway.workloads import Workload
from tiercel.store.keys import VirtualKey

SAID = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "from the frontier"}}]}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_bundle(tmp_path_factory.mktemp("decoder"))


def ask(gateway: Running, seed: int = 0) -> tuple[str, str]:
    """The tier that answered, and the reason."""
    text = order(random.Random(seed))[0]
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}]}
    status, headers, _ = send(gateway.url, asked)
    assert status == 200
    return headers["x-tiercel-tier"], headers["x-tiercel-reason"]


def test_it_answers_and_the_frontier_does_once_it_is_away(
    loop: Loop, configured: Callable[..., Settings], frontier: Frontier, decoder: Path
) -> None:
    frontier.behave = answering(200, SAID)
    workload: dict[str, Any] = {"bundle": decoder, "engine_timeout_s": 5.0}
    with ExitStack() as over:
        with served(model_of(decoder)) as url:
            settings = configured(frontier.provider(), bundle=False, workload={**workload, "engine": url})
            gateway = over.enter_context(serving(loop, settings))
            assert "student" in {ask(gateway, seed)[0] for seed in range(8)}
        assert ask(gateway) == ("frontier", UNREACHABLE)
        desk = gateway.worker.gateway.state.workloads.known[0].desk
        assert desk is not None
        asked: list[Any] = []
        desk.bundle.answer_many = asked.append  # type: ignore[method-assign, assignment]
        assert ask(gateway) == ("frontier", UNREACHABLE)
        assert not asked  # nobody waits for it again so soon


@pytest.mark.parametrize(("url", "asked"), [("http://10.0.0.7:8000/v1", False), ("http://[::1]:8000/v1", True)])
def test_an_engine_elsewhere_is_not_asked_for_a_key_that_stays_here(url: str, asked: bool) -> None:
    workload = Workload(settings=WorkloadSettings(name="w", engine=url))
    local = VirtualKey(id="key_1", name="k", tenant="t", created=0.0, local_only=True)
    assert may_answer("student", local, workload) is asked
    assert may_answer("student", None, workload)


def test_a_gateway_does_not_start_without_its_engine(
    loop: Loop, configured: Callable[..., Settings], decoder: Path, tmp_path: Path
) -> None:
    away = configured(bundle=False, workload={"bundle": decoder, "engine": f"http://127.0.0.1:{free_port()}/v1"})
    with pytest.raises(ProviderError, match="can't be reached"), serving(loop, away):
        pass
    text = f'[[workload]]\nname = "w"\nbundle = "{decoder}"\nengine = "http://127.0.0.1:{free_port()}/v1"\n'
    finding = found(write(tmp_path, text), offline=True)["bundle of w"]
    assert (finding.verdict, "can't be reached" in finding.text) == ("error", True)
