"""Several adapters made into one: the updates add up, and what does not go together is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from luthier import verbs
from luthier.errors import LuthierError
from luthier.models import combining, saving
from luthier.models.combining import Part, combine, parts
from luthier.models.loading import load
from luthier.recipe import Model, Plugin, Recipe, Source, lock
from luthier.run import Run


def base(folder: Path, seed: int = 0) -> Model:
    return tiny.folder(folder, seed=seed, num_hidden_layers=1, initializer_range=0.2)


def run(folder: Path, model: Model, seed: int, r: int = 4, adapt: str = "lora", **keys: Any) -> Run:
    policy = load.load(model, [Plugin(name=adapt, args={"r": r, **keys} if adapt == "lora" else keys)], device="cpu")
    torch.manual_seed(seed)
    for _, weight in policy.trainable():
        weight.data.normal_(0, 0.1)
    made = Run(folder)
    folder.mkdir()
    recipe = Recipe(model=model, data=(Source(path="rows.jsonl"),), adapt=tuple(policy.adapt), output=str(folder))
    made.recipe_path.write_text(lock(recipe))
    saving.save(policy, made)
    return made


def updates(module: Any) -> dict[str, Tensor]:
    layers = module.get_base_model().named_modules()
    found = {name: layer.get_delta_weight("default") for name, layer in layers if name.endswith("_proj")}
    assert len(found) == 7
    return found


def updates_of(made: Run) -> dict[str, Tensor]:
    return updates(load.open_run(made, device="cpu").module)


def test_linear_is_the_exact_sum_of_the_updates_whatever_their_ranks_and_scales(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    a = run(tmp_path / "a", model, 1, r=4, alpha=2.0)
    b = run(tmp_path / "b", model, 2, r=6, rslora=True)
    ours = updates(combine([Part(a.folder, 0.7), Part(b.folder, -0.3)]).module)
    theirs = [updates_of(a), updates_of(b)]
    for name, update in ours.items():
        assert torch.allclose(update, 0.7 * theirs[0][name] - 0.3 * theirs[1][name], atol=1e-6), name
    turned = updates(combine([Part(b.folder, -0.3), Part(a.folder, 0.7)]).module)
    assert all(torch.allclose(ours[name], turned[name], atol=1e-6) for name in ours)


def test_ties_keeps_the_largest_and_elects_one_sign(tmp_path: Path) -> None:
    """As the paper (arXiv:2306.01708): trim, elect the sign of the larger total, mean of those that agree."""
    model = base(tmp_path / "base")
    runs = [run(tmp_path / name, model, seed) for seed, name in enumerate("ab")]
    ours = updates(combine([Part(each.folder, 1.0) for each in runs], "ties", density=0.5).module)
    for name, update in ours.items():
        trimmed = []
        for each in runs:
            delta = updates_of(each)[name]
            kept = delta.abs().flatten().topk(delta.numel() // 2).indices
            mask = torch.zeros(delta.numel())
            mask[kept] = 1
            trimmed.append(delta * mask.view_as(delta))
        stack = torch.stack(trimmed)
        agree = stack.sign() == stack.sum(0).sign()
        mean = (stack * agree).sum(0) / agree.sum(0).clamp(min=1)
        left, values, right = torch.linalg.svd(mean, full_matrices=False)
        nearest = left[:, :8] * values[:8] @ right[:8]  # the sum of the ranks
        assert torch.allclose(update, nearest, atol=1e-4), name


@pytest.mark.parametrize("how", ["dare_linear", "dare_ties", "magnitude_prune"])
def test_the_other_ways_are_drawn_from_the_seed(tmp_path: Path, how: str) -> None:
    model = base(tmp_path / "base")
    given = [Part(run(tmp_path / name, model, seed).folder, 0.5) for seed, name in enumerate("ab")]
    one, same = (updates(combine(given, how, density=0.7, seed=5).module) for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(torch.isfinite(update).all() and update.abs().max() > 0 for update in one.values())


def test_the_result_is_a_run_of_its_own(tmp_path: Path) -> None:
    model = base(tmp_path / "base")
    a, b = run(tmp_path / "a", model, 1), run(tmp_path / "b", model, 2)
    made = verbs.combine([f"{a.folder}:0.5", f"{b.folder}:0.5"], tmp_path / "ab")
    found, first, second = updates_of(Run.open(tmp_path / "ab")), updates_of(a), updates_of(b)
    assert all(torch.allclose(found[name], (first[name] + second[name]) / 2, atol=1e-6) for name in found)
    kept = json.loads(made.summary_path.read_text())["combined"]
    assert kept["how"] == "linear" and list(kept["of"].values()) == [0.5, 0.5]
    saving.merge(load.open_run(made, device="cpu"), tmp_path / "merged")
    with pytest.raises(LuthierError, match="is not empty"):
        verbs.combine([f"{a.folder}:0.5", f"{b.folder}:0.5"], tmp_path / "ab")


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    one, other = base(tmp_path / "one"), base(tmp_path / "other", seed=1)
    a, b = run(tmp_path / "a", one, 1), run(tmp_path / "b", other, 2)
    with pytest.raises(LuthierError, match="trained on other bases"):
        combine([Part(a.folder, 1), Part(b.folder, 1)])
    with pytest.raises(LuthierError, match="no way 'tied'"):
        combine([Part(a.folder, 1), Part(b.folder, 1)], "tied")
    c = run(tmp_path / "c", one, 3, adapt="ia3")
    with pytest.raises(LuthierError, match="only LoRA adapters can be combined, this one is ia3"):
        combine([Part(a.folder, 1), Part(c.folder, 1)])
    d = run(tmp_path / "d", one, 3, dora=True)
    with pytest.raises(LuthierError, match="only plain LoRA adds up; this adapter has dora"):
        combine([Part(a.folder, 1), Part(d.folder, 1)])
    origin = json.loads((a.adapter / load.ORIGIN).read_text())
    e = run(tmp_path / "e", one, 4)
    (e.adapter / load.ORIGIN).write_text(json.dumps({**origin, "quantize": {"name": "nf4", "args": {}}}))
    with pytest.raises(LuthierError, match="in other bits"):
        combine([Part(a.folder, 1), Part(e.folder, 1)])
    f = run(tmp_path / "f", one, 5)
    with pytest.raises(LuthierError, match="share above 0 and at most 1, not 0"):
        combine([Part(a.folder, 1), Part(f.folder, 1)], "ties", density=0)
    for file, what in (
        (load.OWN, "weights of other kinds beside it"),
        ("head.safetensors", "a reward model's head"),
    ):
        (f.adapter / file).touch()
        with pytest.raises(LuthierError, match=f"only plain LoRA adds up; this adapter has {what}"):
            combine([Part(a.folder, 1), Part(f.folder, 1)])
        (f.adapter / file).unlink()


@pytest.mark.parametrize("written", [["a"], ["a:much", "b:1"], ["a:0.7"]])
def test_a_weight_that_is_missing_is_asked_for(written: list[str]) -> None:
    with pytest.raises(LuthierError, match=r"how much of|two runs at least"):
        parts(written)
    assert combining.parts(["a:0.7", "b:c:-1"]) == [Part(Path("a"), 0.7), Part(Path("b:c"), -1.0)]


@pytest.mark.parametrize("written", [["a:nan", "b:1"], ["a:1", "b:inf"], ["a:0", "b:0"]])
def test_weights_that_make_no_update_are_refused(written: list[str]) -> None:
    with pytest.raises(LuthierError, match="at least one of them is not 0"):
        parts(written)


# on a base in bf16, as runs have it unless told otherwise
def in_file(made: Run) -> dict[str, Tensor]:
    """s B A of each layer by name, in fp64 from the adapter's file alone."""
    config = json.loads((made.adapter / "adapter_config.json").read_text())
    state = load_file(made.adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    scale = config["lora_alpha"] / config["r"]
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    names = [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]
    assert len(names) == 7
    return {n: scale * state[f"{n}.lora_B.weight"].double() @ state[f"{n}.lora_A.weight"].double() for n in names}


def in_bf16(tmp_path: Path, adapt: str = "lora", **keys: Any) -> list[Run]:
    """Two runs whose adapters are a little away from where they began."""
    model = dataclasses.replace(base(tmp_path / "base"), dtype="bf16")
    runs = []
    for seed, name in enumerate("ab"):
        policy = load.load(
            model, [Plugin(name=adapt, args={"r": 4, **keys})], device="cpu", beginning=load.Beginning(seed)
        )
        assert policy.dtype == torch.bfloat16
        torch.manual_seed(seed)
        for _, weight in policy.trainable():
            weight.data += torch.randn_like(weight) * 0.02
        made = Run(tmp_path / name)
        made.folder.mkdir()
        recipe = Recipe(model=model, data=(Source(path="r.jsonl"),), adapt=tuple(policy.adapt), output=str(made.folder))
        made.recipe_path.write_text(lock(recipe))
        saving.save(policy, made)
        runs.append(made)
    return runs


def nearest(update: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def combined(tmp_path: Path, runs: list[Run], how: str = "linear", density: float = 0.5) -> Run:
    parts = [f"{made.folder}:{weight}" for made, weight in zip(runs, (0.7, 0.3), strict=True)]
    return verbs.combine(parts, tmp_path / "ab", how=how, density=density)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("adapt", "keys"), [("lora", {}), ("pissa", {"niter": 0}), ("olora", {})])
def test_on_a_bf16_base_the_sum_is_written_in_fp32(tmp_path: Path, adapt: str, keys: dict[str, Any]) -> None:
    runs = in_bf16(tmp_path, adapt, **keys)
    first, second = map(in_file, runs)
    made = combined(tmp_path, runs)
    found = in_file(made)
    assert all(off(found[name], 0.7 * first[name] + 0.3 * second[name]) < 1e-5 for name in found)
    opened = updates(load.open_run(made, device="cpu").module)
    for name, update in opened.items():
        assert off(update.double(), found[f"base_model.model.{name}"]) < 1e-5, name


@pytest.mark.parametrize("how", ["dare_linear", "magnitude_prune"])
def test_what_drops_nothing_is_the_sum(tmp_path: Path, how: str) -> None:
    runs = in_bf16(tmp_path, "pissa", niter=0)
    first, second = map(in_file, runs)
    found = in_file(combined(tmp_path, runs, how, density=1.0))
    assert all(off(found[name], 0.7 * first[name] + 0.3 * second[name]) < 1e-5 for name in found)


def test_on_a_bf16_base_ties_is_that_of_the_updates_in_fp32(tmp_path: Path) -> None:
    """At density 1 nothing is trimmed, so that no near tie decides: elect the sign of the larger total, weigh, mean."""
    runs = in_bf16(tmp_path)
    found = in_file(combined(tmp_path, runs, "ties", density=1.0))
    for name, update in found.items():
        stack = torch.stack([in_file(made)[name] for made in runs])
        agree = stack.sign() == torch.where(stack.sum(0) >= 0, 1, -1)
        weighed = stack * torch.tensor([0.7, 0.3], dtype=torch.float64)[:, None, None]
        mean = (weighed * agree).sum(0) / agree.sum(0).clamp(min=1)
        assert off(update, nearest(mean, 8)) < 1e-5, name


def test_dare_keeps_what_the_seed_draws_and_scales_it_up(tmp_path: Path) -> None:
    runs = in_bf16(tmp_path)
    made = combined(tmp_path, runs, "dare_linear", density=0.5)
    found, parts = in_file(made), [in_file(each) for each in runs]
    names = [f"base_model.model.{name}" for name in updates_of(made)]
    torch.manual_seed(0)  # the recipe's
    for name in names:  # drawn layer by layer, in the model's order
        update = found[name]
        expected = torch.zeros_like(update)
        for part, weight in zip(parts, (0.7, 0.3), strict=True):
            delta = part[name]
            expected += weight * delta * torch.bernoulli(torch.full(delta.shape, 0.5)) / 0.5
        assert off(update, nearest(expected, 8)) < 1e-5, name
