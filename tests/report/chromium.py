"""A headless Chromium that opens one page after another and tells what came of it, over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["PROGRAM", "Opened", "Scheme", "open_pages"]

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_MEASURE = """JSON.stringify({
  wide: document.scrollingElement.scrollWidth, inner: innerWidth,
  background: getComputedStyle(document.body).backgroundColor,
  colour: getComputedStyle(document.body).color,
  title: document.querySelector('h1').textContent})"""
_SILENT = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a page is looked at."""

    width: int
    colours: str
    """light or dark."""


@dataclass(kw_only=True)
class Opened:
    """What came of a page: what was measured in it, what it complained of, what it asked for, and how it looks."""

    measured: dict[str, Any] = field(default_factory=dict[str, Any])
    complaints: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])
    picture: bytes = b""


class _Tab:
    """One tab; every call waits for its answer and keeps what the browser tells meanwhile."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self._number = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self.socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            said = await self.socket.receive_json(timeout=60)
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]
            self.events.append(said)

    async def until(self, event: str) -> None:
        while not any(e["method"] == event for e in self.events):
            self.events.append(await self.socket.receive_json(timeout=60))


def open_pages(page: Path, schemes: list[Scheme], profile: Path) -> list[Opened]:
    """Open a file once for each scheme, in one browser with an empty profile."""
    assert PROGRAM is not None
    command = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    with subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as browser:
        assert browser.stderr is not None
        try:
            address = next(line for line in browser.stderr if line.startswith("DevTools listening on"))
            port = int(address.split("127.0.0.1:")[1].split("/")[0])
            return asyncio.run(_open_all(port, page, schemes))
        finally:
            browser.terminate()


async def _open_all(port: int, page: Path, schemes: list[Scheme]) -> list[Opened]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
            tabs = await response.json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(address, max_msg_size=0) as socket:
            return [await _open(_Tab(socket), page, scheme) for scheme in schemes]


async def _open(tab: _Tab, page: Path, scheme: Scheme) -> Opened:
    for domain in ("Page", "Runtime", "Log", "Network"):
        await tab.call(f"{domain}.enable")
    await tab.call(
        "Emulation.setDeviceMetricsOverride", width=scheme.width, height=900, deviceScaleFactor=1, mobile=False
    )
    features = [{"name": "prefers-color-scheme", "value": scheme.colours}]
    await tab.call("Emulation.setEmulatedMedia", features=features)
    tab.events.clear()
    await tab.call("Page.navigate", url=page.as_uri())
    await tab.until("Page.loadEventFired")
    found = await tab.call("Runtime.evaluate", expression=_MEASURE)
    picture = await tab.call("Page.captureScreenshot", format="png")
    return Opened(
        measured=json.loads(found["result"]["value"]),
        complaints=[str(e["params"]) for e in tab.events if e["method"] in _SILENT],
        requests=[e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"],
        picture=base64.b64decode(picture["data"]),
    )
