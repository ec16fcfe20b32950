"""Which type of numbers suits a machine, told from what its processor and its GPUs say."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from luthier import machine
from luthier.recipe import Recipe, resolve


@pytest.mark.parametrize(
    ("flags", "capability", "best"),
    [
        ({"avx2", "avx512_bf16"}, 0.0, "bf16"),
        ({"asimd", "bf16"}, 0.0, "bf16"),
        ({"avx2", "avx512f"}, 0.0, "fp32"),
        (set(), 0.0, "fp32"),
        ({"avx2"}, 9.0, "bf16"),
        ({"avx512_bf16"}, 7.5, "fp32"),
    ],
)
def test_bf16_where_it_is_multiplied(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], capability: float, best: str
) -> None:
    monkeypatch.setattr(machine, "_flags", lambda: flags)
    monkeypatch.setattr(machine, "_capability", lambda: capability)
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.best_dtype() == best
    resolved = resolve(Recipe(model="m", data="rows.jsonl", output="out"))
    assert resolved.recipe.model.dtype == best
    assert "from auto" in resolved.reasons["model", "dtype"]


@pytest.mark.parametrize(("version", "visible"), [("2.13.0+cpu", None), ("2.13.0", ""), ("2.13.0", "-1")])
def test_a_gpu_that_torch_cannot_use_does_not_count(
    monkeypatch: pytest.MonkeyPatch, version: str, visible: str | None
) -> None:
    monkeypatch.setattr(machine, "_capability", lambda: 9.0)
    monkeypatch.setattr(machine, "_flags", lambda: {"avx2"})
    monkeypatch.setattr(metadata, "version", lambda name: version)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.best_dtype() == "fp32"


def test_the_slowest_of_the_gpus_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 9.0\necho 7.5\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._capability.__wrapped__() == 7.5
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine._capability.__wrapped__() == 0.0


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the system does not tell")
def test_the_processor_is_read_as_torch_reads_it() -> None:
    import torch

    if "avx2" in machine._flags():
        assert torch.cpu._is_avx2_supported()
    assert ("avx512_bf16" in machine._flags()) == torch.cpu._is_avx512_bf16_supported()
