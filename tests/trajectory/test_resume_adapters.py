"""Stopped and continued = never stopped, for every kind of adapter: what is added, rewritten, scheduled, remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier.models import Beginning, load
from luthier.objectives import OBJECTIVES
from luthier.recipe import Model, Plugin
from luthier.recipe.abilities import adjust
from luthier.run import Run
from luthier.train import Beside, fit

KINDS: dict[str, list[Plugin]] = {
    "adalora, which remembers": [Plugin(name="adalora", args={"r": 2, "before": 0.1})],
    "pissa, which rewrites": [Plugin(name="pissa", args={"r": 4})],
    "eva, which measures": [Plugin(name="eva", args={"r": 4, "rows": 16})],
    "prefix, before each row": [Plugin(name="prefix", args={"tokens": 3, "hidden": 8})],
    "houlsby, of our own": [Plugin(name="houlsby", args={"size": 4})],
    "progressive, which changes": [Plugin(name="progressive", args={"groups": 2, "every": 3})],
    "lora plus trained norms": [Plugin(name="lora", args={"r": 4, "plus": 4.0}), Plugin(name="train", args={})],
}


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("base")
    tiny.folder(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield path


def train(base: Path, adapt: list[Plugin], run: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    store = tiny.Store(24)
    policy = load(Model(name=str(base), dtype="fp32"), adapt, device="cpu", beginning=Beginning(sample=store.encoded))
    recipe = tiny.recipe(run, epochs=3, save_every=1, clip=1.0)
    recipe = replace(
        recipe, train=adjust(recipe.train, [(p.name, a) for p, a in zip(adapt, policy.adapters, strict=True)])[0]
    )

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == stop_after:
            raise Stop

    fit(policy, OBJECTIVES.build("sft"), tiny.Prepared(store), recipe, Run(run), beside=Beside(watch=watch))
    return {name: weight.detach().clone() for name, weight in policy.module.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_continued_after_a_stop_it_ends_with_the_same_weights(folder: Path, tmp_path: Path, kind: str) -> None:
    whole = train(folder, KINDS[kind], tmp_path / "whole")
    with pytest.raises(Stop):
        train(folder, KINDS[kind], tmp_path / "halves", stop_after=6)
    halves = train(folder, KINDS[kind], tmp_path / "halves")
    assert list(Run(tmp_path / "halves").events("step"))[-1]["step"] == 9
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
