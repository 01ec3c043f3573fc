"""The visible GPUs are counted without importing torch."""

from pathlib import Path

import pytest

from sft_app.launch.job.gpus import count_visible_gpus


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-8f6d,MIG-2", 2)]
)
def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_visible_gpus() == count


def test_without_it_the_devices_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_visible_gpus(tmp_path) == 2
