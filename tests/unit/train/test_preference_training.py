"""Preference training through the whole loop on tiny models: references, sharing, splits, resume, state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_judged import Judged
from transformers import GPT2LMHeadModel

from luthier.errors import LuthierError
from luthier.forward.forward import Forward
from luthier.models import heads
from luthier.models.adapters.peft.lora import Lora
from luthier.models.adapters.peft.lora_starts import Pissa
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin
from luthier.recipe.schema import Reference, Validate
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.roles.mismatched import cut, mismatched
from luthier.train.roles.reference import choose
from luthier.types import Encoded

PAIRWISE = ["dpo", "ipo", "hinge", "sppo", "nca", "apo_zero", "apo_down", "orpo", "cpo", "simpo"]


def trained(
    folder: Path, objective: str, store: Any, *, module: Any = None, keep: Any = "auto", args: Any = None, **train: Any
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The `step` events and the trained weights of one short run."""
    policy = tiny.Policy(module if module is not None else tiny.lora())
    built = OBJECTIVES.build(objective, args)
    for role, _ in built.needs.heads:
        policy.heads[role] = heads.attach(policy.bare, policy.device)
    recipe = tiny.recipe(folder, **{"steps": 3, "epochs": 1, "save_every": 100, **train})
    object.__setattr__(recipe, "objective", Plugin(name=objective, args=args or {}))
    object.__setattr__(recipe, "reference", Reference(cache=keep))
    run = Run(folder)
    fit(policy, built, tiny.Prepared(store), recipe, run)
    return [event for event in run.events() if event["kind"] == "step"], policy.snapshot()


def untouched_lora() -> Any:
    """A PEFT model whose B matrices are zero."""
    return Lora(r=4).attach(tiny.model())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_dpo_begins_at_log_2_whatever_the_reference_is(tmp_path: Path, full: bool, keep: bool) -> None:
    module = tiny.model() if full else untouched_lora()
    steps, _ = trained(tmp_path, "dpo", Judged(8), module=module, keep=keep, steps=1)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6) and steps[0]["margin"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("full", [False, True])
def test_references_kept_and_live_train_the_same_weights(tmp_path: Path, full: bool) -> None:
    def module() -> Any:
        return tiny.model() if full else untouched_lora()

    live, weights = trained(tmp_path / "a", "dpo", Judged(8), module=module(), keep=False)
    kept, others = trained(tmp_path / "b", "dpo", Judged(8), module=module(), keep=True)
    assert [s["loss"] for s in kept] == pytest.approx([s["loss"] for s in live], rel=1e-5)
    assert live[-1]["loss"] < math.log(2) - 0.01, "nothing was learnt"
    torch.testing.assert_close(weights, others, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "aot", "simpo", "orpo", "reward", "kto", "process_reward"])
def test_sharing_and_splitting_change_nothing(tmp_path: Path, objective: str) -> None:
    store = Judged(8, responses=1 if objective in ("kto", "process_reward") else 3)
    whole, weights = trained(tmp_path / "a", objective, store, share_prefix=False, fused=False)
    shared, others = trained(tmp_path / "b", objective, store)
    split, parts = trained(tmp_path / "c", objective, store, micro_tokens=100)
    padded, rows = trained(tmp_path / "d", objective, store, layout="padded")
    for events, found in ((shared, others), (split, parts), (padded, rows)):
        for what in ("loss", "grad_norm"):
            assert [s[what] for s in events] == pytest.approx([s[what] for s in whole], rel=3e-5), what
        # Adam turns rounding in gradients near zero into updates of its own size
        torch.testing.assert_close(weights, found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("objective", PAIRWISE)
def test_every_pairwise_objective_prefers_the_better_response_more(tmp_path: Path, objective: str) -> None:
    steps, _ = trained(tmp_path, objective, Judged(8), module=untouched_lora(), steps=12)
    assert steps[-1]["margin"] > steps[0]["margin"] + 1e-3


def test_ranks_of_the_evaluation_loss_are_those_of_steps_of_trainings_size(tmp_path: Path) -> None:
    rows, held = Judged(8), Judged(8, seed=1)
    parts = {"all": held.encoded, "first": held.encoded[:4], "last": held.encoded[4:]}
    losses = {}
    for name, encoded in parts.items():
        validation = Judged(len(encoded))
        validation.encoded = list(encoded)
        recipe = tiny.recipe(tmp_path / name, validate=Validate(every=1), steps=1, batch=4)
        run, objective = Run(tmp_path / name), OBJECTIVES.build("aot", {"unpaired": True, "beta": 5.0})
        fit(tiny.Policy(tiny.lora()), objective, tiny.Prepared(rows, validation), recipe, run)
        losses[name] = next(event["loss"] for event in run.events("evaluation"))
    assert losses["first"] != pytest.approx(losses["last"], abs=1e-3)
    assert losses["all"] == pytest.approx((losses["first"] + losses["last"]) / 2, rel=1e-5)


def test_a_whole_step_that_does_not_fit_is_told_not_tried_for_ever(tmp_path: Path) -> None:
    def full(model: Any, _args: Any) -> None:
        if model.training:
            raise torch.OutOfMemoryError("CUDA out of memory")

    module = tiny.lora()
    module.get_base_model().model.register_forward_pre_hook(full)
    with pytest.raises(LuthierError, match=r"not enough memory for a whole step of \d+ tokens.*\n.*lower train.batch"):
        trained(tmp_path, "aot", Judged(8), module=module)


@pytest.mark.parametrize("objective", ["dpo", "kto", "bco", "reward", "process_reward"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, objective: str) -> None:
    class Killed(Exception):
        pass

    store = Judged(8, responses=1 if objective in ("kto", "bco", "process_reward") else 2)
    _, weights = trained(tmp_path / "whole", objective, store, save_every=2, steps=4)

    def policy() -> Any:
        made = tiny.Policy(tiny.lora())
        for role, _ in OBJECTIVES.build(objective).needs.heads:
            made.heads[role] = heads.attach(made.bare, made.device)
        return made

    recipe = tiny.recipe(tmp_path / "killed", steps=4, epochs=1, save_every=2)
    object.__setattr__(recipe, "objective", Plugin(name=objective))

    def kill(event: Any) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            raise Killed

    run = Run(tmp_path / "killed")
    with pytest.raises(Killed):
        fit(policy(), OBJECTIVES.build(objective), tiny.Prepared(store), recipe, run, beside=Beside(watch=kill))
    last = policy()
    fit(last, OBJECTIVES.build(objective), tiny.Prepared(store), recipe, run)
    for name, weight in last.snapshot().items():
        assert torch.equal(weight, weights[name]), name


def test_a_second_model_is_the_reference(tmp_path: Path) -> None:
    policy, second = tiny.Policy(tiny.lora(0)), tiny.Policy(tiny.model(7))
    built = OBJECTIVES.build("dpo")
    run = Run(tmp_path / "run")
    fit(
        policy,
        built,
        tiny.Prepared(Judged(8)),
        tiny.recipe(run.folder, steps=1),
        run,
        beside=Beside({"reference": lambda: second}),
    )
    step = next(event for event in run.events() if event["kind"] == "step")
    assert abs(step["loss"] - math.log(2)) > 1e-3, "another model gives other log-probabilities"


def test_mismatched_pairs_join_each_prompt_with_the_response_before_it() -> None:
    examples = [Judged(3, responses=1)[i] for i in range(3)]
    for place, made in enumerate(mismatched(examples)):
        own, other = examples[place], examples[place - 1]
        prompt = int(np.flatnonzero(own.weights[0])[0])
        response = int(np.flatnonzero(other.weights[0])[0])
        assert made.ids[0].tolist() == [*own.ids[0][:prompt], *other.ids[0][response:]]
        assert made.weights[0].sum() == other.weights[0].sum()


class Uneven(tiny.Store):
    """Labelled rows of 16 tokens at most, whose prompts and responses come to 28 where they are mixed up."""

    def __init__(self) -> None:
        super().__init__(4)
        ids = [np.arange(3, 19, dtype=np.int32) for _ in range(4)]
        prompts = [14, 2, 14, 2]
        weights = [(np.arange(16) >= prompt).astype(np.float32) for prompt in prompts]
        self.encoded = [Encoded((ids[i],), (weights[i],), columns={"reward": (float(i < 2),)}) for i in range(4)]
        self.digest = "uneven"
        self.lengths = np.full(4, 16, np.int32)
        self.scored = np.array([w.sum() for w in weights], np.int32)


@pytest.mark.parametrize(("context", "max_tokens"), [(16, 1024), (256, 16)])
def test_mismatched_pairs_stay_within_the_context_and_the_longest_row(
    tmp_path: Path, context: int, max_tokens: int
) -> None:
    """GPT-2 has no position beyond its context: a pair of 14 and 14 tokens would be an index error there."""
    torch.manual_seed(0)
    module = Lora(r=4).attach(GPT2LMHeadModel(tiny.config("gpt2", max_position_embeddings=context)))
    steps, _ = trained(tmp_path, "kto", Uneven(), module=module, steps=1, batch=4, max_tokens=max_tokens)
    assert steps[0]["mismatched_cut"] in (0.25, 0.5)
    told = [event for event in Run(tmp_path).events() if event.get("guard") == "mismatched"]
    assert len(told) == 1 and "cut at their end" in told[0]["text"]


def test_a_mismatched_pair_is_cut_in_its_response() -> None:
    one, other = Uneven()[0], Uneven()[1]
    pair = mismatched([one, other])[0]
    assert len(pair) == 28
    short = cut(pair, 16)
    assert short.ids[0].tolist() == [*one.ids[0][:14], *other.ids[0][2:4]]
    assert short.weights[0].tolist() == [0.0] * 14 + [1.0] * 2


def test_a_sum_trains_on_pairs_and_on_the_better_responses(tmp_path: Path) -> None:
    steps, _ = trained(tmp_path / "a", "dpo", Judged(8), module=untouched_lora(), steps=1)
    both, _ = trained(
        tmp_path / "b", "sum", Judged(8), module=untouched_lora(), steps=1, args={"of": {"dpo": 1.0, "sft": 0.5}}
    )
    logp, tokens = both[0]["logp_better"], both[0]["length_better"]
    assert both[0]["loss"] == pytest.approx(steps[0]["loss"] - 0.5 * logp / tokens, rel=1e-5)


def test_the_shared_part_of_the_tokens_is_told(tmp_path: Path) -> None:
    store = Judged(8)
    trained(tmp_path / "a", "simpo", store, steps=1)
    summary = Run(tmp_path / "a").read_json(Run(tmp_path / "a").summary_path)
    shared = sum(example.shared for example in store.encoded) / sum(len(example) for example in store.encoded)
    assert summary["shared"] == pytest.approx(shared, abs=0.02)


def test_prompts_are_weighed_before_the_first_step(tmp_path: Path) -> None:
    store = Judged(12, responses=1)
    steps, _ = trained(tmp_path / "a", "bco", store, module=untouched_lora(), args={"density_ratio": True}, steps=1)
    plain, _ = trained(tmp_path / "b", "bco", store, module=untouched_lora(), steps=1)
    assert plain[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["loss"] != pytest.approx(math.log(2), abs=1e-4)


def test_linear_attention_switches_sharing_off_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=tiny.VOCABULARY + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        num_experts=0, decoder_sparse_step=1, mlp_only_layers=[0, 1],
    )  # fmt: skip
    module = Qwen3NextForCausalLM(config)
    steps, _ = trained(tmp_path, "dpo", Judged(4), module=module, steps=1, batch=4, keep=False)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert "padded rows (Qwen3NextForCausalLM has layers of type linear_attention)" in capsys.readouterr().err
    assert Run(tmp_path).read_json(Run(tmp_path).summary_path)["shared"] == 0


def test_kept_references_of_other_first_weights_are_told_apart() -> None:
    identities = []
    for seed in (0, 0, 1):
        policy = tiny.Policy(tiny.lora(seed=seed), adapters=[Pissa(r=4)])
        policy.started = {"taken": torch.zeros(1)}
        with Forward(policy.module).opened() as forward:
            identities.append(choose(policy, forward, None, "the same recipe").identity)
    assert identities[0] == identities[1] != identities[2]
