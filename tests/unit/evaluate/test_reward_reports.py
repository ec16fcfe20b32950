"""A model's own rewards on judged rows: implicit ones by hand, a reward model's by its head, and who has none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from reward_runs import row
from test_compare import ByHeart, Letters

from luthier.errors import LuthierError
from luthier.evaluate import ScoredTask, compare
from luthier.evaluate.rewards import CachedLikelihoods, ImplicitRewards, Untrained, gives_rewards, laid_out
from luthier.objectives import OBJECTIVES
from luthier.recipe.schema import Task
from luthier.scorers import SCORERS
from luthier.types import Encoded, Example, Turn


class Likes:
    """Log-probabilities by letter: every scored token has the value its id is given."""

    context = None

    def __init__(self, **letters: float) -> None:
        self.letters = {ord(letter): value for letter, value in letters.items()}
        self.scored = 0

    def logprobs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
        self.scored += len(rows)
        return [
            np.array(
                [
                    self.letters.get(int(token), -2.0)
                    for ids, weights in zip(each.ids, each.weights, strict=True)
                    for token in ids[weights > 0]
                ],
                np.float32,
            )
            for each in rows
        ]


class Pairs(Letters):
    """Letters for rows of several responses."""

    def encode(self, example: Example, loss_on: str = "assistant") -> Encoded:
        each = [Letters.encode(self, Example(example.prompt, (one,)), loss_on) for one in example.responses]
        scores = tuple(math.nan if one.reward is None else one.reward for one in example.responses)
        return Encoded(tuple(e.ids[0] for e in each), tuple(e.weights[0] for e in each), columns={"reward": scores})


ROWS = [
    row("q", "aa", "b", scores=(1.0, 0.0)),
    row("r", "b", "aaa", scores=(0.0, 1.0)),
    row("s", "b", "a", "c", scores=(1.0, 0.5, 0.5)),
]


def accuracy(judges: dict, rows: list[Example] = ROWS):
    task = Task(name="pairs", data=["x"], scorers=["preference_accuracy"])
    engines = dict.fromkeys(judges or {"base": 0}, ByHeart({}))
    return compare(ScoredTask(task), rows, Pairs(), engines, judges=judges)


def test_implicit_rewards_by_hand():
    encoded = [Pairs().encode(each, "last") for each in ROWS]
    policy, reference = Likes(a=-1.0, b=-4.0), Likes(a=-1.5)
    found = ImplicitRewards("dpo", OBJECTIVES.build("dpo", {"beta": 0.1}), policy, reference)(encoded)
    # beta x (log pi - log pi_ref), summed: 0.5 more for each a, 2 less for each b; the end token is alike for both
    assert [each.tolist() for each in found] == [
        pytest.approx([0.1, -0.2]),
        pytest.approx([-0.2, 0.15]),
        pytest.approx([-0.2, 0.05, 0.0]),
    ]
    mean = ImplicitRewards("simpo", OBJECTIVES.build("simpo", {"beta": 1.0}), policy)(encoded[:1])[0]
    assert mean.tolist() == pytest.approx([(-1 - 1 - 2) / 3, (-4 - 2) / 2])


def test_accuracy_before_and_after_with_its_interval():
    reference = CachedLikelihoods(Likes(a=-1.5))
    policy = Likes(a=-1.0, b=-4.0)
    dpo = OBJECTIVES.build("dpo")
    judges = {
        "base": ImplicitRewards("dpo", dpo, reference, reference),
        "tuned": ImplicitRewards("dpo", dpo, policy, reference),
    }
    comparison = accuracy(judges)
    loss_on = comparison.headline
    assert loss_on.systems["base"].value == 0.5, "the model as it was cannot tell"
    # rows 1 and 2 are ranked right; of row 3's two pairs, b over a and b over c, none
    assert loss_on.systems["tuned"].value == pytest.approx(2 / 4) and loss_on.range == (0.0, 1.0)
    assert (
        loss_on.systems["tuned"].low is not None and loss_on.systems["tuned"].low < 0.5 < loss_on.systems["tuned"].high
    )
    assert comparison.samples[0].answers["tuned"].text == "rewards 0.100, −0.200"
    assert comparison.samples[0].expected == "(1) aa\n\n(0) b", "what was judged, in the rewards' order"
    assert [sample.answers["tuned"].scores["preference_accuracy"] for sample in comparison.samples] == [1, 1, 0]
    known = reference._engine.scored
    accuracy(judges)
    assert policy.scored == 6 and known == 3, "the reference is asked once for both systems"


def test_an_untrained_head_has_one_half():
    encoded = [Pairs().encode(each, "last") for each in ROWS]
    assert [each.tolist() for each in Untrained("row")(encoded)] == [[0, 0], [0, 0], [0, 0, 0]]
    known = {"step_end": (np.array([3, 5], np.int32),), "step_reward": (np.array([1, -1], np.float32),)}
    stepwise = Encoded(encoded[0].ids[:1], encoded[0].weights[:1], columns=known)
    assert Untrained("step")([stepwise])[0].tolist() == [0, 0]
    assert accuracy({"base": Untrained("row")}).headline.systems["base"].value == 0.5


def test_rows_are_laid_out_in_order():
    encoded = [Pairs().encode(each, "last") for each in ROWS]
    rows = laid_out(encoded, np.arange(17, dtype=np.float32))
    assert rows.num_rows == 7 and rows.row_S.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6]
    assert rows.group_N.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert rows.reward_N.tolist() == [1.0, 0.0, 0.0, 1.0, 1.0, 0.5, 0.5]


def test_which_objectives_give_rewards():
    keys = {"sum": {"of": {"dpo": {}, "sft": 0.1}}, "online": {"of": "dpo"}}
    given = {name: gives_rewards(OBJECTIVES.build(name, keys.get(name))) for name in OBJECTIVES.names()}
    nothing = {"sft", "pretrain", "reinforce", "rloo", "grpo", "dr_grpo", "gspo", "reinforce_pp", "dapo", "ppo", "vapo"}
    for name in (*nothing, "nash_md", "gkd", "reverse_kd"):
        assert not given.pop(name), name
    assert {"dpo", "simpo", "kto", "reward", "process_reward"} < set(given) and all(given.values())


def test_accuracy_wants_models_that_reward_and_rows_that_differ():
    with pytest.raises(LuthierError, match="gives no rewards"):
        ImplicitRewards("sft", OBJECTIVES.build("sft"), Likes())([Pairs().encode(ROWS[0], "last")])
    with pytest.raises(LuthierError, match="needs a model that rewards responses, and 'base' does not"):
        accuracy({})
    alone = [row("q", "a"), row("q", "a", "b", scores=(1.0, 1.0)), Example((Turn("user", "q"),), answer="a")]
    with pytest.raises(LuthierError, match=r"can judge none of the 3 rows .* no two responses with different scores"):
        accuracy({"base": Untrained("row")}, alone)


def test_labels_are_told_by_the_sign_of_the_reward() -> None:
    """Good ones told 2 of 3 (a 0 is half), bad ones 1 of 1: their mean, not 3.5 of 4."""
    scorer = SCORERS.build("label_accuracy")
    each = [row("q", "a", scores=(1.0,)), row("r", "b", "c", scores=(1.0, 0.0)), row("s", "d", scores=(0.9,))]
    found = [scorer.of_rewards(*pair) for pair in zip(each, ([2.0], [0.0, -1.0], [-0.5]), strict=True)]
    assert found == [(1, 1, 0, 0), (0.5, 1, 1, 1), (0, 1, 0, 0)]
    assert scorer.pooled(np.sum(found, axis=0)[None])[0] == pytest.approx((1.5 / 3 + 1.0) / 2)
    assert scorer.pooled(np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]])).tolist() == [0.5, 0.75]
    assert scorer.of_rewards(row("q", "a"), [1.0]) is None and not scorer.judges(row("q", "a"))
    task = Task(name="labels", data=["x"], scorers=["label_accuracy"])
    compared = compare(ScoredTask(task), each, Pairs(), {"base": ByHeart({})}, judges={"base": Untrained("row")})
    assert compared.scores[0].systems["base"].value == 0.5, "a head that has learnt nothing"
