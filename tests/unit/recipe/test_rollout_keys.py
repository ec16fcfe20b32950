"""`rollout:` and `reward:`: short and long forms, what is derived, and what does not go with the objective."""

from __future__ import annotations

import textwrap

import pytest
import yaml

from luthier.errors import LuthierError
from luthier.recipe import Recipe, differences, digest, json_schema, loads, lock, resolve
from luthier.recipe.describe import lines
from luthier.recipe.schema import Model, Plugin, Reward, Source
from luthier.workflow.registries import REGISTRIES

FAR = "rollout: {engine: {openai: {url: 'http://there:8000/v1', model: m}}"
FOLLOWED = FAR + ", follow: {folder: adapters}}"
HEAD = "model: tiny\ndata: q.jsonl\noutput: runs/rl\n"


def resolved(text: str, *overrides: str) -> Recipe:
    return resolve(loads(HEAD + textwrap.dedent(text), overrides, REGISTRIES), REGISTRIES).recipe


def test_a_recipe_of_two_keys_is_whole() -> None:
    recipe = resolved("objective: grpo\nreward: json_match")
    rollout = recipe.rollout
    assert rollout is not None and (rollout.n, rollout.prompts, rollout.dynamic, rollout.updates) == (8, 16, False, 1)
    assert rollout.temperature == 1.0 and rollout.engine.name == "local" and rollout.engine.args["rows"] == 64
    assert recipe.reward[0].scorer.name == "json_match" and recipe.reward[0].counts == 1.0


def test_short_and_long_forms_of_a_reward_are_one() -> None:
    short = resolved(
        """
        objective: grpo
        reward:
          - json_match
          - {contains: {whole_words: true, weight: 0.1}}
          - {exact_match: {gate: true}}
          - {f1: {}, weight: 0.2}
        """
    )
    long = resolved(
        """
        objective: grpo
        reward:
          - {scorer: json_match}
          - {scorer: {contains: {whole_words: true}}, weight: 0.1}
          - {scorer: exact_match, gate: true}
          - {scorer: {f1: {}}, weight: 0.2}
        """
    )
    assert short == long
    assert [(r.scorer.name, r.counts, r.gate) for r in short.reward] == [
        ("json_match", 1.0, False), ("contains", 0.1, False), ("exact_match", 0.0, True), ("f1", 0.2, False),
    ]  # fmt: skip
    assert short.reward[1].scorer.args["whole_words"] is True
    python = Recipe(
        model=Model(name="tiny"),
        data=(Source(path="q.jsonl"),),
        output="runs/rl",
        objective=Plugin(name="grpo"),
        reward=["json_match", {"contains": {"weight": 0.1}}, Reward(scorer=Plugin(name="f1"))],  # type: ignore[arg-type]
    )
    assert [(r.scorer.name, r.counts) for r in python.reward] == [("json_match", 1), ("contains", 0.1), ("f1", 1)]


def test_the_lock_reads_as_the_recipe_it_was_written_of() -> None:
    recipe = resolved("objective: dapo\nreward: [json_match, {contains: {weight: 0.1}}]\nrollout: {n: 4, prompts: 32}")
    again = resolve(loads(lock(recipe)), REGISTRIES).recipe
    assert differences(recipe, again) == {} and digest(recipe) == digest(again)
    assert yaml.safe_load(lock(recipe))["rollout"]["dynamic"] is True, "DAPO draws on"


def test_overrides_reach_every_key() -> None:
    recipe = resolved(
        "objective: grpo\nreward: [json_match, {contains: {weight: 0.1}}]",
        "reward.1.weight=0.5", "reward.1.scorer.contains.whole_words=true", "rollout.n=3", "rollout.engine.rows=8",
    )  # fmt: skip
    assert recipe.reward[1].weight == 0.5 and recipe.reward[1].scorer.args["whole_words"] is True
    assert recipe.rollout is not None and recipe.rollout.n == 3 and recipe.rollout.engine.args["rows"] == 8
    assert resolved("objective: grpo\nreward: json_match", "reward=contains").reward[0].scorer.name == "contains"


def test_what_is_derived_says_from_what() -> None:
    found = {
        line.key: line
        for line in lines(
            loads(HEAD + "objective: dapo\nreward: f1\nrollout: {prompts: 4}", (), REGISTRIES), REGISTRIES
        )
    }
    assert found["rollout.dynamic"].why == "from objective: dapo" and found["rollout.dynamic"].value is True
    assert found["train.batch"].value == 4 and "rollout.prompts" in found["train.batch"].why
    assert found["rollout.n"].why and str(found["rollout.prompts"].origin).endswith("recipe:6")


def test_the_digest_of_other_runs_is_what_it_was() -> None:
    assert "reward" not in str(resolve(loads(HEAD + "objective: sft")).reasons)
    assert digest(resolved("objective: sft")) == digest(resolved("objective: sft\nreward: []"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("objective: sft\nrollout: {n: 4}", r"recipe:5: `rollout:` is for grpo .* 'sft' learns from the rows"),
        ("objective: dpo\nreward: f1", r"recipe:5: `reward:` is for grpo"),
        ("objective: grpo", r"recipe:4: the objective 'grpo' learns from what answers are worth"),
        ("objective: grpo\nreward: [{f1: {gate: true}}]", r"every entry of `reward:` is a gate"),
        ("objective: grpo\nreward: [{f1: {weight: 0}}]", r"reward.0.weight is 0, and it is no gate"),
        ("objective: grpo\nreward: f1\nrollout: {top_p: 0.9}", r"recipe:6: rollout.top_p cuts tokens off"),
        ("objective: grpo\nreward: f1\nrollout: {top_k: 5}", r"recipe:6: rollout.top_k cuts tokens off"),
        ("objective: online_dpo\nreward: f1\nrollout: {n: 1}", r"compares 2 answers to a prompt, and rollout.n is 1"),
        ("objective: grpo\nreward: f1\ntrain: {neftune: 5}", r"recipe:6: NEFTune adds noise"),
        ("objective: grpo\nreward: f1\nadapt: {lora: {dropout: 0.1}}", r"recipe:6: `lora` has a dropout of 0.1"),
        ("objective: grpo\nreward: f1\ntrain: {parts: 2}", r"rollouts are drawn by one"),
        ("objective: grpo\nreward: f1\nrollout: {temperature: 0}", r"rollout.temperature must be greater than 0"),
        ("objective: grpo\nreward: [f2]", r"unknown scorer 'f2'"),
        ("objective: grpo\nreward: [{weight: 1}]", r"'reward.0.scorer' is missing"),
        (
            "objective: grpo\nreward: {f1: {}, contains: {}}",
            r"recipe:5: reward.0 names 2 scorers \(f1, contains\).*\s+→ write a list: reward: \[{f1: …}, {con",
        ),
        ("objective: GRPO\nreward: f1", r"unknown objective 'GRPO'\s+→ did you mean 'grpo'"),
        ("objective: Online-DPO\nreward: f1", r"did you mean 'online_dpo'"),
        ("objective: raft\nreward: f1", r"unknown objective 'raft'\s+→ it is several stages: .*/raft.yaml"),
        ("objective: best_of_n\nreward: f1", r"it is several stages"),
        ("objective: online_ipo\nreward: f1", r"write `objective: {online: ipo}`"),
        ("objective: grpo\nreward: f1\nrollout: {num_generations: 4}", r"here it is called rollout.n$"),
        ("objective: grpo\nreward_funcs: f1", r"here it is called reward "),
        ("objective: grpo\nreward: f1\nrollout: {samples: 3}", r"unknown key 'rollout.samples'"),
        (
            "objective: grpo\nreward: [{f1: {wieght: 1}}]",
            r"recipe:5: scorer 'f1' has no key 'wieght'\s+→ did you mean 'weight'",
        ),
        (
            "objective: grpo\nreward: [{f1: {}, wieght: 1}]",
            r"recipe:5: unknown key 'reward.0.wieght'\s+→ did you mean 'weight'",
        ),
        ("objective: grpo\nreward: [{f1: {}, gates: true}]", r"'reward.0.gates'\s+→ did you mean 'gate'"),
        ("objective: grpo\nreward: [{contains: {whole_word: true}}]", r"did you mean 'whole_words'"),
        ("objective: nash_md\nreward: f1\nrollout: {n: 3}", r"half of the answers drawn by the rival"),
        ("objective: grpo\nreward: f1\nrollout: {follow: {every: 2}}", r"recipe:6: .*'local' answers with the very"),
        ("objective: grpo\nreward: f1\nrollout: {ahead: 1}", r"recipe:6: .* cannot while they change"),
        (f"objective: online_dpo\nreward: f1\n{FOLLOWED[:-1]}, ahead: 1}}", r"no rollout.ahead"),
        (f"objective: grpo\nreward: f1\nadapt: full\n{FOLLOWED}", r"the base's own weights train, and only an adapter"),
        (
            f"objective: grpo\nreward: f1\n{FAR}, temperature: 0.7}}",
            r"at temperature 1, not at the one it was",
        ),
        (f"objective: online_dpo\nreward: f1\n{FAR}}}", r"'online_dpo' has no way to correct it"),
        (f"objective: {{grpo: {{correction: none}}}}\nreward: f1\n{FAR}}}", r"recipe:4: .* nothing corrects it"),
        (f"objective: {{sum: {{grpo: 1, sft: 0.1}}}}\nreward: f1\n{FAR}}}", r"nothing corrects it"),
        (
            "objective: grpo\nreward: f1\nrollout: {engine: {openai: {url: 'http://x/v1', model: m, ask: chat}}}",
            r"asked by `ask: chat` an endpoint does not tell which tokens it drew",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(LuthierError, match=words):
        resolved(text)


def test_an_engine_elsewhere_is_asked_by_tokens_and_corrected_for() -> None:
    loaded = loads(f"{HEAD}objective: grpo\nreward: f1\n{FAR}}}", (), REGISTRIES)
    found = resolve(loaded, REGISTRIES)
    assert found.recipe.objective.args["correction"] == "truncate" and found.recipe.rollout is not None
    assert found.recipe.rollout.engine.args["ask"] == "tokens"
    assert "another than what learns" in found.reasons["objective", "grpo", "correction"]
    again = resolve(loads(lock(found.recipe)), REGISTRIES).recipe
    assert differences(found.recipe, again) == {}
    moved = resolved(f"objective: grpo\nreward: f1\n{FAR}}}", "rollout.engine.openai.url=http://x/v1")
    assert digest(moved) == digest(found.recipe), "a server may move while a run lasts"
    followed = resolved(f"objective: {{grpo: {{correction: none}}}}\nreward: f1\n{FOLLOWED}")
    assert followed.objective.args["correction"] == "none", "what is said stands: these are the weights that train"
    assert resolved(f"objective: online_dpo\nreward: f1\n{FOLLOWED}").rollout is not None
    here = resolved("objective: grpo\nreward: f1\nrollout: {engine: vllm}").rollout
    assert here is not None and here.follow is not None and here.follow.every == 1


def test_pairs_may_be_drawn_among_the_likeliest() -> None:
    recipe = resolved("objective: online_dpo\nreward: f1\nrollout: {top_p: 0.9, temperature: 0.9}")
    assert recipe.rollout is not None and recipe.rollout.top_p == 0.9


def test_editors_know_the_short_forms() -> None:
    schema = json_schema(REGISTRIES)
    assert {"type": "string"} in schema["$defs"]["Reward"]["anyOf"]
    assert "temperature" in schema["$defs"]["Rollout"]["properties"]


@pytest.mark.parametrize(
    ("gpu", "longest", "micro"), [(False, 1024, 1024), (False, 512, 1024), (False, 1500, 1500), (True, 512, 2048)]
)
def test_micro_batches_of_what_was_said_are_smaller_on_a_processor(
    gpu: bool, longest: int, micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.machine.uses_gpu", lambda: gpu)
    monkeypatch.setattr("luthier.machine.best_dtype", lambda: "fp32")
    recipe = resolved("objective: grpo\nreward: json_match", f"train.max_tokens={longest}")
    assert recipe.train.micro_tokens == micro
    assert resolved("objective: sft", "train.max_tokens=512").train.micro_tokens == 2048
