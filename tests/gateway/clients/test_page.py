"""docs/clients.md does what it says, and libraries that are told nothing take the gateway from the environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gateway.clients.conftest import Gateway
from tests.gateway.clients.conversations import MODEL, POEM, POEM_ANSWER

PAGE = Path(__file__).parents[3] / "docs" / "clients.md"
FENCE = re.compile(r"^## (.*?)\n```(py|js)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCES = FENCE.findall(PAGE.read_text("utf-8"))
MODULES = Path(os.environ.get("TIERCEL_TEST_NODE_MODULES", "")).expanduser()


def at(gateway: Gateway, code: str) -> str:
    """A fence with the address and a key of a gateway."""
    return code.replace("http://127.0.0.1:8080", gateway.root).replace("tcl-...", gateway.keys["any"])


@pytest.mark.parametrize(("library", "code"), [(name, code) for name, kind, code in FENCES if kind == "py"])
def test_python_runs(gateway: Gateway, library: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(at(gateway, code), library, "exec"), {"__name__": "page"})
    assert POEM_ANSWER in capsys.readouterr().out


@pytest.mark.parametrize("code", [code for _, kind, code in FENCES if kind == "js"])
def test_javascript_runs(gateway: Gateway, code: str, tmp_path: Path) -> None:
    if shutil.which("node") is None or not (MODULES / "openai").is_dir():
        pytest.skip("node, or the package openai in TIERCEL_TEST_NODE_MODULES, is missing")
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "page.mjs").write_text(at(gateway, code), encoding="utf-8")
    done = subprocess.run(["node", "page.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{POEM_ANSWER} frontier" in done.stdout


def test_every_library_has_its_fence() -> None:
    assert [name for name, _, _ in FENCES] == [
        "openai (Python)",
        "openai (Node.js)",
        "anthropic (Python)",
        "langchain-openai",
        "litellm",
        "pydantic-ai",
    ]


def test_the_environment_is_enough(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, root in (("OPENAI", gateway.url), ("ANTHROPIC", gateway.root)):
        monkeypatch.setenv(f"{name}_BASE_URL", root)
        monkeypatch.setenv(f"{name}_API_KEY", gateway.keys["any"])
    import anthropic
    import litellm
    import openai
    from langchain_openai import ChatOpenAI
    from pydantic_ai import Agent

    ask = [{"role": "user", "content": POEM}]
    said = [
        openai.OpenAI().chat.completions.create(model=MODEL, messages=ask).choices[0].message.content,  # type: ignore[arg-type]
        anthropic.Anthropic().messages.create(model=MODEL, max_tokens=9, messages=ask).content[0].text,  # type: ignore
        ChatOpenAI(model=MODEL).invoke(POEM).content,
        litellm.completion(model=f"openai/{MODEL}", messages=ask).choices[0].message.content,
        litellm.completion(model=f"anthropic/{MODEL}", messages=ask).choices[0].message.content,
        Agent(f"openai-chat:{MODEL}").run_sync(POEM).output,
        Agent(f"anthropic:{MODEL}").run_sync(POEM).output,
    ]
    assert said == [POEM_ANSWER] * 7
