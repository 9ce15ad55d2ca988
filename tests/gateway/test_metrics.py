"""What /metrics adds up of several worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tiercel.gateway.metrics import MULTIPROCESS, Metrics


def test_a_worker_that_is_just_starting_does_not_break_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, file = Metrics(), tmp_path / "counter_7.db"
    monkeypatch.setenv(MULTIPROCESS, str(tmp_path))
    file.touch()  # as a process leaves it between making its file and filling it

    def filled(_: float) -> None:
        values = MmapedDict(str(file))
        values.write_value(
            mmap_key("tiercel_requests", "tiercel_requests_total", ["tier"], ["cache"], "Requests"), 3.0, 0.0
        )
        values.close()

    monkeypatch.setattr("tiercel.gateway.metrics.time.sleep", filled)
    assert b'tiercel_requests_total{tier="cache"} 3.0' in metrics.page()
