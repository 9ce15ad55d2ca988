"""Says what became of certificates to those who have to know: the log, and a webhook.

The webhook gets one JSON object by POST; `kind` says which: "verdict", "cause" or "input drift". None holds what
anybody wrote; segments are named as the certificate names them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tiercel.gateway.sections import Secret

if TYPE_CHECKING:
    from tiercel.routing.attribution import Cause
    from tiercel.routing.audit_events import Verdict

__all__ = ["Alarms"]

Json = dict[str, Any]

_log = logging.getLogger("tiercel.gateway")


class Alarms:
    """Tells; callable from every thread.

    Args:
        hook: gives the webhook's URL; None for none.
    """

    def __init__(self, hook: Callable[[], Secret | None]) -> None:
        self._hook = hook
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Call webhooks from the running loop."""
        self._loop = asyncio.get_running_loop()

    async def close(self, limit_s: float) -> None:
        """Let webhooks that are being called end, for as long as that may take."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=limit_s)
        for task in self._under_way:
            task.cancel()

    def verdict(self, workload: str, verdict: Verdict, cause: Cause) -> None:
        """The state of a workload or segment changed.

        Args:
            workload: name.
            verdict: on it.
            cause: whose a risen loss is, as far as that is known.
        """
        level = logging.ERROR if verdict.send_back else logging.INFO
        where = f"{workload}, segment {verdict.segment!r}" if verdict.segment else workload
        what = f"; the frontier answers it until it has a new certificate (cause: {cause})" if verdict.send_back else ""
        _log.log(level, "workload %s: its bound is %s (%s)%s", where, verdict.state, verdict.reason, what)
        self._tell(
            kind="verdict",
            workload=workload,
            segment=verdict.segment,
            state=verdict.state,
            reason=verdict.reason,
            epoch=verdict.epoch,
            sent_back=verdict.send_back,
            cause=cause,
        )

    def cause(self, workload: str, epoch: int, cause: Cause) -> None:
        """It is known, or not known any more, whose a risen loss is."""
        level = logging.WARNING if cause != "none" else logging.INFO
        _log.log(level, "workload %s: the cause of a risen loss is now: %s", workload, cause)
        self._tell(kind="cause", workload=workload, epoch=epoch, cause=cause)

    def input_drift(self, workload: str, signals: Sequence[str], examples: Sequence[str]) -> None:
        """Requests are not like those of the certificate any more.

        Args:
            workload: name.
            signals: what differs.
            examples: ids of traces that show what is new.
        """
        _log.warning("workload %s: its requests differ from those of its certificate: %s", workload, ", ".join(signals))
        self._tell(kind="input drift", workload=workload, signals=list(signals), examples=list(examples))

    def _tell(self, **told: Any) -> None:
        hook = self._hook()
        if hook is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._call, hook.reveal(), told)

    def _call(self, url: str, told: Json) -> None:
        task = asyncio.get_running_loop().create_task(_post(url, told))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


async def _post(url: str, told: Json) -> None:
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=told) as response:
            if response.status >= 400:
                _log.error("the webhook answered %d", response.status)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        _log.error("the webhook can't be reached (%s)", type(error).__name__)
