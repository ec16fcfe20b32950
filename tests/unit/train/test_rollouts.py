"""Learning from what the model says: what is drawn trains, token by token, and is worth what it should be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from rollout_runs import PAID, STOP, Learner, prompts

from luthier.data import Ledger, Prompts
from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.recipe import Plugin
from luthier.recipe.schema import Reward, Validate
from luthier.train.loop.losses import count
from luthier.train.rollouts import rows
from luthier.train.rollouts.drawn import Answer, Group
from luthier.train.rollouts.judging import Judging
from luthier.types import GOOD_TOKEN, PAIR, TOKEN, Encoded, Needs

PLAIN: dict[str, Any] = {"grpo": {"kl": 0.0}}


def served(learner: Learner) -> list[list[Encoded]]:
    """Fit, and what was served to each step."""
    steps: list[list[Encoded]] = []
    ask = learner.source.next

    def asked(step: int, version: int) -> Sequence[Encoded]:
        steps.append(list(ask(step, version)))
        return steps[-1]

    learner.source.next = asked  # type: ignore[method-assign]
    learner.fit()
    return steps


def said(learner: Learner, step: int) -> list[dict[str, Any]]:
    path = learner.run.rollouts / f"step-{step:06d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_drawn_trains_token_by_token_and_the_stop_token_with_it(tmp_path: Path) -> None:
    learner = Learner(tmp_path, {"max_new_tokens": 30, "n": 8}, PLAIN, steps=2, micro_tokens=2048)
    steps, ended = served(learner), 0
    for step, examples in enumerate(steps):
        assert len(examples) == 2, "a row a group"
        told = said(learner, step + 1)
        for example in examples:
            prompt = next(p for p in learner.source.stream.prompts if p.example.source == example.source)
            mine = [line for line in told if line["source"] == prompt.where]
            assert example.shared == len(prompt.ids) and len(example.ids) == 8
            for ids, weights, line, worth in zip(
                example.ids, example.weights, mine, example.column("advantage"), strict=True
            ):
                assert tuple(ids[: len(prompt.ids)]) == prompt.ids and not weights[: len(prompt.ids)].any()
                drawn = ids[len(prompt.ids) :].tolist()
                assert weights[len(prompt.ids) :].all() and len(drawn) == line["tokens"]
                assert (drawn[-1] == STOP) == (line["finish"] == "stop") and STOP not in drawn[:-1]
                ended += line["finish"] == "stop"
                assert line["text"] == " ".join(f"w{token}" for token in drawn if token > 2), "w0 to w2 are no words"
                assert not worth[: len(prompt.ids)].any() and worth[-1] == pytest.approx(line["advantage"], abs=1e-6)
    assert ended, "some answer ended by itself"


def test_it_learns_and_stops_when_there_is_nothing_left_to_learn(tmp_path: Path) -> None:
    learner = Learner(tmp_path, objective=PLAIN, steps=60).fit()
    rollouts, steps = learner.events("rollout"), learner.events("step")
    assert rollouts[0]["right"] < 0.3 and rollouts[-1]["right"] == 1.0
    assert [event["step"] for event in rollouts] == list(range(1, len(rollouts) + 1)) and len(rollouts) < 60
    assert {warning["guard"] for warning in learner.events("warning")} >= {"learnt", "cut_first"}
    assert max(step["mismatch"] for step in steps) < 1e-5, "engine and trainer agree"
    assert {step["ratio_max"] for step in steps} == {1.0} and not any(step["clipped"] for step in steps)
    assert rollouts[0]["entropy"] == pytest.approx(np.log(tiny.VOCABULARY + 1), abs=0.1)
    kinds = [json.loads(line) for line in learner.run.prompts_path.read_text().splitlines()]
    assert len(kinds) == 5 and {row["kind"] for row in kinds} == {"easy"}
    assert sum(row["answers"] for row in kinds) == 6 * 2 * len(rollouts)
    assert not list(learner.run.rollouts.glob("open-*")), "nothing is open any more"


def test_every_prompt_comes_once_an_epoch_and_every_draw_is_its_own(tmp_path: Path) -> None:
    learner = Learner(tmp_path, objective=PLAIN, epochs=2, save_every=100)
    steps = served(learner)
    assert len(steps) == learner.source.total == 5
    came = [example.source.row for examples in steps for example in examples]  # type: ignore[union-attr]
    assert Counter(came) == dict.fromkeys(range(1, 6), 2) and sorted(came[:5]) == [1, 2, 3, 4, 5]
    every = [tuple(ids.tolist()) for examples in steps[:1] for example in examples for ids in example.ids]
    assert len(set(every)) == len(every), "answers to one prompt differ"


def test_a_rollout_serves_several_updates_in_minibatches_of_whole_groups(tmp_path: Path) -> None:
    data = Prompts(prompts(8), (), Ledger())
    learner = Learner(tmp_path, {"prompts": 4, "updates": 2}, PLAIN, data=data, steps=8)
    steps = served(learner)
    assert learner.source.per_rollout == 4 and len(learner.events("rollout")) == 2
    for rollout in (steps[:4], steps[4:]):
        for once in (rollout[:2], rollout[2:]):
            came = [example.source for examples in once for example in examples]
            assert len(came) == 4 == len(set(came)), "each group once a pass"
    told = learner.events("step")
    assert told[0]["ratio_max"] == told[4]["ratio_max"] == 1.0 and told[0]["drift"] == told[4]["drift"] == 0.0
    assert told[3]["drift"] > 0 and told[7]["drift"] > 0 and told[3]["ratio_max"] > 1.0
    assert all(step["mismatch"] < 1e-5 for step in told), "the mismatch is that of who drew and who began to learn"


def test_old_log_probabilities_are_the_same_to_the_bit_whatever_the_budget(tmp_path: Path) -> None:
    found = []
    for tokens in (40, 90, 2048):
        steps = served(Learner(tmp_path / str(tokens), {"updates": 2}, PLAIN, steps=2, micro_tokens=tokens))
        rows_of = [tuple(ids.tolist()) for example in steps[0] for ids in example.ids]
        old = [one for example in steps[0] for one in example.column("old_logp")]
        found.append(dict(zip(rows_of, old, strict=True)))
    assert all(found[0].keys() == other.keys() for other in found)
    for ids, old in found[0].items():
        assert np.isnan(old[:14]).all() and not np.isnan(old[14:]).any()
        assert all(np.array_equal(other[ids][14:], old[14:]) for other in found[1:])


def test_answers_of_another_temperature_are_learnt_from_in_their_own_distribution(tmp_path: Path) -> None:
    learner = Learner(tmp_path, {"temperature": 0.7}, PLAIN, module=tiny.model(initializer_range=0.3), steps=2).fit()
    assert all(step["mismatch"] < 1e-4 and step["ratio_max"] == 1.0 for step in learner.events("step"))
    at_one = Learner(tmp_path / "one", objective=PLAIN, module=tiny.model(initializer_range=0.3), steps=1).fit()
    assert learner.events("rollout")[0]["entropy"] < 0.9 * at_one.events("rollout")[0]["entropy"]


def test_the_reference_is_the_model_as_it_was(tmp_path: Path) -> None:
    learner = Learner(tmp_path, objective={"grpo": {"kl": 0.1}}, steps=3).fit()
    kl = [step["kl"] for step in learner.events("step")]
    assert kl[0] == 0.0 and kl[2] > kl[1] > 0.0


def test_the_reward_may_pay_for_staying_near_the_reference(tmp_path: Path) -> None:
    steps = served(Learner(tmp_path, objective="reinforce_pp", steps=2))
    worth = np.concatenate([one[14:] for example in steps[1] for one in example.column("advantage")])
    assert abs(worth.mean()) < 1e-5 and worth.std() == pytest.approx(1, abs=0.05)
    assert all("old_logp" in example.columns for example in steps[0])


def test_what_the_divergence_costs_follows_a_target_and_is_kept(tmp_path: Path) -> None:
    keys = {"ppo": {"kl": 0.1, "kl_target": 1.0, "kl_horizon": 60.0}}

    def learner(steps: int) -> Learner:
        made = Learner(tmp_path, objective=keys, steps=steps, save_every=1)
        from luthier.models.heads import HeadCard, ScalarHead

        made.policy.heads = {"value": ScalarHead(32, HeadCard("token", "ppo"))}
        return made

    first = learner(3).fit()
    assert first.source.dealing.reward_kl == pytest.approx(0.1 * (1 - 0.2 * 12 / 60) ** 3, rel=0.2), "0 is too near"
    state = json.loads(json.dumps(first.source.state()))
    again = learner(3)
    again.source.load_state(state)
    assert again.source.dealing.reward_kl == first.source.dealing.reward_kl < 0.1


def test_a_critic_says_what_it_expected_before_each_token(tmp_path: Path) -> None:
    learner = Learner(tmp_path, {"updates": 2}, {"ppo": {"kl": 0.0}}, steps=8)
    from luthier.models.heads import HeadCard, ScalarHead

    learner.policy.heads = {"value": ScalarHead(32, HeadCard("token", "ppo"))}
    steps = served(learner)
    first, later = steps[0][0], steps[-1][0]
    assert not any(one.any() for one in first.column("old_value")), "a new critic expects nothing"
    assert any(one[14:].any() for one in later.column("old_value"))
    returns = first.column("return")
    assert all(one[-1] == pytest.approx(reward) for one, reward in zip(returns, first.column("reward"), strict=True))
    assert {"value", "return"} <= learner.events("step")[-1].keys()


# which groups train
def test_prompts_without_contrast_give_way_to_others(tmp_path: Path) -> None:
    learner = Learner(tmp_path, {"dynamic": True, "n": 4}, PLAIN, data=Prompts(prompts(40), (), Ledger()), steps=4)
    steps = served(learner)
    rollouts = learner.events("rollout")
    assert all(len(examples) == 2 for examples in steps) and {event["groups"] for event in rollouts} == {2}
    assert all(len(set(example.column("reward"))) > 1 for examples in steps for example in examples)
    assert sum(event["drawn"] for event in rollouts) == learner.source.cursor > 8, "what was drawn is counted"
    lines = [line for step in range(1, 5) for line in said(learner, step)]
    assert len(lines) == 4 * learner.source.cursor and sum(line["trained"] for line in lines) == 4 * 8
    assert len({line["source"] for line in lines}) == min(40, learner.source.cursor), "none is drawn twice before all"


@pytest.mark.parametrize(("wanted", "why"), [("w999", "too hard"), ("w", "too easy")])
def test_prompts_that_are_all_right_or_all_wrong_end_with_the_reason(tmp_path: Path, wanted: str, why: str) -> None:
    paid = (Reward(scorer=Plugin(name="contains")),)
    data = Prompts(prompts(7, wanted), (), Ledger())
    learner = Learner(tmp_path, {"dynamic": True}, PLAIN, rewards=paid, data=data, stop=10_000, steps=2)
    with pytest.raises(LuthierError, match=why) as found:
        learner.fit()
    assert "20 prompts were answered" in str(found.value)


def test_prompts_that_are_mastered_end_the_run_whole(tmp_path: Path) -> None:
    learner = Learner(tmp_path, {"dynamic": True}, PLAIN, steps=60, save_every=100).fit()
    assert len(learner.events("step")) < 60 and learner.events("rollout")[-1]["right"] == 1.0
    assert learner.source.learnt and learner.run.prompts_path.exists()


@pytest.mark.parametrize("objective", ["reinforce", "reinforce_pp"])
def test_one_answer_to_a_prompt_is_enough_where_prompts_are_held_against_each_other(
    objective: str, tmp_path: Path
) -> None:
    one = Learner(tmp_path, {"n": 1, "prompts": 20}, {objective: {"kl": 0.0}}, batch=20, steps=12, lr=1e-3).fit()
    assert len(one.events("rollout")) == 12 and min(event["silent"] for event in one.events("rollout")) == 0.0


def test_what_counts_for_contrast_is_the_first_scorer_alone(tmp_path: Path) -> None:
    """Answers that are all wrong differ in what shapes their reward: they give way all the same."""
    paid = (*PAID, Reward(scorer=Plugin(name="f1"), weight=0.5))
    learner = Learner(
        tmp_path, {"dynamic": True}, PLAIN, rewards=paid, data=Prompts(prompts(40), (), Ledger()), steps=2
    )
    for examples in served(learner):
        assert all(len({reward > 0.5 for reward in example.column("reward")}) == 2 for example in examples)


def test_pairs_are_made_of_what_differs_and_ties_are_none(tmp_path: Path) -> None:
    steps = served(Learner(tmp_path, objective="online_dpo", steps=6))
    assert any(len(examples) < 2 for examples in steps), "a group of ties gives no row"
    assert all(len(set(example.column("reward"))) > 1 for examples in steps for example in examples)


def test_a_step_of_ties_alone_moves_no_weight(tmp_path: Path) -> None:
    learner = Learner(tmp_path, objective="online_dpo", data=Prompts(prompts(4, "w999"), (), Ledger()), steps=2)
    before = learner.policy.snapshot()
    learner.fit()
    assert all(torch.equal(before[name], weight) for name, weight in learner.policy.snapshot().items())
    assert [warning["guard"] for warning in learner.events("warning") if warning["guard"] == "empty"] == ["empty"] * 2


# other models beside
def test_rivals_are_drawn_by_the_reference_and_each_answer_meets_its_own(tmp_path: Path) -> None:
    learner = Learner(tmp_path, {"n": 6, "max_new_tokens": 8}, "xpo", module=tiny.lora(), lr=0.1, steps=4)
    steps, seen = served(learner), 0
    for examples in steps:
        for example in examples:
            assert len(example.ids) == 2 and example.column("of_reference") == (0.0, 1.0)
            assert len(set(example.column("reward"))) == 2
            seen += 1
    assert seen
    with learner.policy.adapter_off(), Forward(learner.policy.module).opened() as forward:
        for example in steps[-1]:
            (batch,) = micro_batches([example], 2048)
            base = forward.rows(batch).logp_S.detach().numpy()
            own, rival = (int(np.count_nonzero(weights)) for weights in example.weights)
            drawn = [column[14:] for column in example.column("sampler_logp")]
            assert np.allclose(base[own : own + rival], drawn[1], atol=1e-4), "the reference drew it"
            assert not np.allclose(base[:own], drawn[0], atol=1e-4), "the policy has moved on"


def test_nash_md_learns_from_who_beats_a_mixture_that_does_not_train(tmp_path: Path) -> None:
    module = get_peft_model(tiny.model(initializer_range=0.1), LoraConfig(r=4, target_modules="all-linear"))
    objective = {"nash_md": {"kl": 0.02, "mixture": 0.25}}
    learner = Learner(tmp_path, {"n": 16}, objective, module=module, batch=5, steps=8)
    steps = served(learner)
    for step, examples in enumerate(steps):
        told = said(learner, step + 1)
        assert [line["trained"] for line in told] == ([True] * 8 + [False] * 8) * 5
        for example in examples:
            mine = [line for line in told if line["source"] == str(example.source)]
            own, rivals = mine[:8], mine[8:]
            assert len(example.ids) == 8 and "of_reference" not in example.columns
            for ids, worth, one, rival in zip(example.ids, example.column("advantage"), own, rivals, strict=True):
                better, worse = one["parts"]["contains"], rival["parts"]["contains"]
                assert one["reward"] == 0.5 + 0.5 * (better - worse) == 1 - rival["reward"]
                assert len(ids) == 14 + one["tokens"] and (worth[14:] == one["reward"] - 0.5).all()
                assert rival["advantage"] is None
    right = [event["right"] for event in learner.events("rollout")]
    assert np.mean(right[-3:]) > np.mean(right[:3]) + 0.3
    assert learner.events("step")[0]["kl"] == 0.0 < learner.events("step")[-1]["kl"]


def test_a_share_of_the_steps_learns_from_the_datas_own_answers(tmp_path: Path) -> None:
    teacher = tiny.Policy(tiny.model(seed=5))
    learner = Learner(
        tmp_path,
        {"n": 2},
        {"gkd": {"own": 0.25}},
        rewards=(),
        openers={"teacher": lambda: teacher},
        lr=1e-2,
        steps=8,
        save_every=3,
    )
    steps = served(learner)
    spoken = [event["step"] for event in learner.events("rollout")]
    assert spoken == [4, 8]
    assert all(
        len(example.ids) == (2 if step + 1 in spoken else 1) for step, rows_ in enumerate(steps) for example in rows_
    )
    assert steps[0][0].ids[0].tolist()[-1] == 5, "the data's answer"
    far = [event["teacher_divergence"] for event in learner.events("step")]
    assert far[-1] < far[0] and not {e["guard"] for e in learner.events("warning")} & {"silent", "unsaid"}


# rows
def group(rewards: Sequence[float], lengths: Sequence[int]) -> Group:
    answers = [
        Answer(tuple(range(40, 40 + n)), np.full(n, -1.0, np.float32), "said", "stop" if n < 4 else "length")
        for n in lengths
    ]
    return Group(0, 0, prompts(1)[0], answers, rewards=list(rewards))


def test_a_group_over_budget_is_split_and_gives_the_same_gradients(tmp_path: Path) -> None:
    from luthier.objectives import OBJECTIVES

    objective = OBJECTIVES.build("grpo", {"kl": 0.0})
    given = group([1.0, 0.0, 0.0, 1.0, 0.5], [4, 2, 3, 4, 1])
    (worth,) = rows.credited([given], objective.estimator, rows.Computed())
    whole = rows.row(given, 0, worth, rows.Computed())
    parts = rows.split(whole, objective.needs, budget=20)
    assert [len(part.ids) for part in parts] == [2, 1, 2] and [part.shared for part in parts] == [14, 0, 14]
    assert rows.split(whole, Needs(responses=2, unit=PAIR), budget=20) == [whole], "pairs lie beside one another"
    assert rows.split(whole, Needs(unit=TOKEN), budget=2048) == [whole]

    def gradient(examples: Sequence[Encoded]) -> torch.Tensor:
        model = tiny.model()
        with Forward(model).opened() as forward:
            losses = [objective.loss(forward.rows(batch)).sum() for batch in micro_batches(examples, 2048)]
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    one, other = gradient([whole]), gradient(parts)
    assert one.abs().max() > 1e-3 and torch.allclose(one, other, atol=1e-6)


def test_an_answer_nobody_could_judge_teaches_nothing() -> None:
    from luthier.objectives import OBJECTIVES

    given = group([1.0, float("nan"), 0.0], [2, 2, 2])
    (worth,) = rows.credited([given], OBJECTIVES.build("grpo").estimator, rows.Computed())
    made = rows.row(given, 0, worth, rows.Computed())
    advantage = [one[14:] for one in made.column("advantage")]
    assert not advantage[1].any() and advantage[0][0] == pytest.approx(-advantage[2][0]) and advantage[0][0] > 0.5
    assert np.isnan(made.column("reward")[1])


def test_what_is_imitated_is_right_by_the_first_scorer_whatever_the_sum_says() -> None:
    from luthier.objectives.policy.critic import Good

    given = group([], [2, 3, 1])
    given.parts = [{"contains": 1.0, "f1": 0.0}, {"contains": 0.0, "f1": 1.0}, {"contains": None, "f1": 1.0}]
    asked = [Reward(scorer=Plugin(name="contains"), weight=0.1), Reward(scorer=Plugin(name="f1"))]
    Judging(asked).settle(given)
    assert given.rewards[:2] == [0.1, 1.0]
    made = rows.row(given, 0, None, rows.Computed())
    assert made.column("right") == (1.0, 0.0, 0.0)
    (batch,) = micro_batches([made], 2048)
    assert count(GOOD_TOKEN, batch) == 2
    with torch.no_grad(), Forward(tiny.model()).opened() as forward:
        seen = forward.rows(batch)
        assert torch.equal(Good().loss(seen) > 0, seen.row_S == 0)


# held-out prompts
def test_held_out_prompts_are_answered_greedily_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    data = Prompts(prompts(5), prompts(3, seed=1), Ledger())
    learner = Learner(tmp_path, objective=PLAIN, data=data, steps=12, validate=Validate(share=0.1, every=6)).fit()
    evaluations = learner.events("evaluation")
    assert [event["step"] for event in evaluations] == [6, 12]
    assert all(event["loss"] == pytest.approx(1 - event["score"]) for event in evaluations)
    assert evaluations[-1]["score"] > 0.5 and evaluations[-1]["best"]


def test_memory_of_pages_is_given_back_before_training(tmp_path: Path) -> None:
    learner = Learner(tmp_path, objective=PLAIN, steps=1)
    held: list[int] = []
    learner.fit(lambda event: held.append(learner.engine.load.pages_made))
    assert held and not any(held)
