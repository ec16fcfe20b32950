"""Switching an adapter off leaves what trains as it was, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from luthier.models import load, open_run, saving
from luthier.recipe.schema import Plugin
from luthier.run import Run


@pytest.mark.parametrize("names", [["lora"], ["lora", "train"], ["houlsby"], ["oft"], ["bitfit"]])
def test_what_trains_still_trains_after_an_error_inside(tmp_path: Path, names: list[str]) -> None:
    plugins = [Plugin(name=name, args={"add_biases": True} if name == "bitfit" else {}) for name in names]
    policy = load(tiny.folder(tmp_path / "base"), plugins, device="cpu")
    before = {name for name, _ in policy.trainable()}
    with pytest.raises(ZeroDivisionError), policy.adapter_off():
        raise ZeroDivisionError
    assert {name for name, _ in policy.trainable()} == before
    with policy.adapter_off():
        pass
    assert {name for name, _ in policy.trainable()} == before


def test_nothing_of_an_opened_model_trains_after_an_error_inside(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    saving.save(load(tiny.folder(tmp_path / "base"), [Plugin(name="lora")], device="cpu"), run)
    policy = open_run(run, device="cpu")
    with pytest.raises(ZeroDivisionError), policy.adapter_off():
        raise ZeroDivisionError
    assert not policy.trainable()
