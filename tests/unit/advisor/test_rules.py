"""The rules of thumb, row by row: where each holds and where not."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.advisor.rules import FACTS, lines, read, rules
from luthier.errors import LuthierError

Facts = dict[str, Any]
HOLDS: dict[str, tuple[list[Facts], list[Facts]]] = {
    "volume-large": ([{"rows": 100_001}], [{"rows": 100_000}, {}]),
    "volume-medium": ([{"rows": 10_000}, {"rows": 100_000}], [{"rows": 9_999}, {"rows": 100_001}]),
    "volume-small": ([{"rows": 9_999}], [{"rows": 10_000}]),
    "volume-least": ([{"rows": 999, "kind": "pairs"}], [{"rows": 1000, "kind": "pairs"}, {"rows": 9, "kind": "texts"}]),
    "start-small": ([{"rows": 5001}], [{"rows": 5000}]),
    "rows-classify": ([{"goal": "classify", "rows": 499}], [{"goal": "classify", "rows": 500}, {"rows": 499}]),
    "rows-classify-good": ([{"goal": "classify", "rows": 500}], [{"goal": "classify", "rows": 2000}]),
    "rows-answers": ([{"goal": "chat", "rows": 999}], [{"goal": "chat", "rows": 1000}, {"goal": "style", "rows": 9}]),
    "rows-answers-good": ([{"goal": "reason", "rows": 1000}], [{"goal": "reason", "rows": 5000}]),
    "rows-code": ([{"code": True, "rows": 1999}], [{"code": False, "rows": 1999}, {"code": True, "rows": 2000}]),
    "rows-code-good": ([{"code": True, "rows": 2000}], [{"code": True, "rows": 10_000}]),
    "hardware-8": (
        [{"device": "cuda", "memory": 7.8}],
        [{"device": "cuda", "memory": 8}, {"device": "cpu", "memory": 4}],
    ),
    "hardware-16": ([{"device": "cuda", "memory": 8}], [{"device": "cuda", "memory": 16}]),
    "hardware-80": ([{"device": "cuda", "memory": 16}], [{"device": "cuda", "memory": 80}]),
    "hardware-large": ([{"device": "cuda", "memory": 80}], [{"device": "cuda", "memory": 79}, {"memory": 99}]),
    "hardware-least": (
        [{"device": "cuda", "memory": 11, "numbers": 7}],
        [{"device": "cuda", "memory": 12, "numbers": 7}, {"device": "cuda", "memory": 8, "numbers": 0.1}],
    ),
    "eight-and-seven": (
        [{"device": "cuda", "memory": 8, "numbers": 7}],
        [{"device": "cuda", "memory": 8, "numbers": 1}],
    ),
    "precision": ([{"device": "cuda"}], [{"device": "cpu"}]),
    "qlora-large": ([{"numbers": 30}], [{"numbers": 29}]),
    "shard-large": ([{"numbers": 70, "cards": 8}], [{"numbers": 70, "cards": 1}, {"numbers": 7, "cards": 8}]),
    "time-7b": (
        [{"device": "cuda", "numbers": 7}],
        [{"device": "cuda", "numbers": 13}, {"device": "cpu", "numbers": 7}],
    ),
    "time-13b": ([{"device": "cuda", "numbers": 13}], [{"device": "cuda", "numbers": 7}]),
    "time-70b": ([{"device": "cuda", "numbers": 70}], [{"device": "cuda", "numbers": 13}]),
    "not-first": ([{"numbers": 70, "rows": 500}], [{"numbers": 70, "rows": 10_000}, {"numbers": 7, "rows": 500}]),
    "paged-optimizer": ([{"device": "cuda", "fits": False}], [{"device": "cuda", "fits": True}, {"fits": False}]),
    "checkpointing": ([{"device": "cuda"}], [{"device": "cpu"}]),
    "out-of-memory": ([{"fits": False}, {"fits": "maybe"}], [{"fits": True}]),
    "align-much": ([{"goal": "align", "rows": 100_001}], [{"goal": "align", "rows": 100}]),
    "align-medium": ([{"goal": "align", "kind": "pairs"}], [{"goal": "align", "kind": "labels"}]),
    "align-imbalanced": ([{"kind": "labels"}], [{"kind": "pairs"}]),
    "labels-imbalanced": ([{"kind": "labels", "imbalance": 1.5}], [{"kind": "labels", "imbalance": 1.3}]),
    "texts-pretrain": ([{"kind": "texts"}], [{"kind": "answers"}]),
    "reason-prompts": ([{"kind": "prompts"}], [{"kind": "answers"}]),
    "many-tasks": ([{"goal": "style", "rows": 10_000}], [{"goal": "style", "rows": 9_999}]),
    "little-memory": ([{"fits": "maybe"}], [{"fits": True}]),
    "align-which": ([{"goal": "align"}], [{"goal": "chat"}]),
    "not-new-knowledge": ([{"goal": "domain", "rows": 50}], [{"goal": "style", "rows": 50}]),
    "lora-ceiling": ([{"goal": "reason", "rows": 200_000}], [{"goal": "reason", "rows": 2_000}]),
    "dpo-diversity": ([{"goal": "align", "kind": "pairs"}], [{"goal": "align", "kind": "labels"}]),
    "freeze-lower": ([{"goal": "style", "rows": 99}], [{"goal": "chat", "rows": 99}]),
    "freeze-half": ([{"fits": False}], [{"fits": True}]),
    "freeze-embeddings": ([{"rows": 100_001}], [{"rows": 5}]),
    "freeze-dynamic": ([{"goal": "domain"}], [{"goal": "chat"}]),
    "forget-adapter": ([{"goal": "style"}], [{"goal": "chat"}]),
    "forget-rehearse": ([{"goal": "domain"}], [{"goal": "chat"}]),
    "forget-mix": ([{"goal": "domain"}], [{"goal": "style"}]),
    "low-perplexity": ([{"goal": "chat"}], [{"goal": "align"}]),
    "full-forgets": ([{"rows": 100_001}], [{"rows": 9}]),
    "rate-small": ([{"rows": 999, "kind": "answers"}], [{"rows": 1000, "kind": "answers"}]),
    "warmup": ([{"rows": 1000}], [{"rows": 999}]),
    "warmup-small": ([{"rows": 999}], [{"rows": 1000}]),
    "long-mix": ([{"long": 0.01}], [{"long": 0.0}]),
    "long-alone": ([{"long": 0.95}], [{"long": 0.6}]),
    "long-scored": ([{"long": 0.2}], [{"long": 0.0}]),
    "overfit": ([{"rows": 999}], [{"rows": 1000}]),
    "not-tuning-early": ([{"rows": 999}], [{"rows": 1000}]),
    "duplicates": ([{"duplicates": 0.02}], [{"duplicates": 0.01}]),
    "languages": ([{"languages": 2}], [{"languages": 1}]),
    "classes": ([{"goal": "classify", "imbalance": 4.0}], [{"goal": "classify", "imbalance": 3.0}]),
}
"""Rule → facts of which it holds, and of which it does not."""


def test_every_rule_with_a_condition_stands_in_the_table() -> None:
    assert {rule.id for rule in rules() if rule.when} == HOLDS.keys()


@pytest.mark.parametrize("name", HOLDS)
def test_a_rule_holds_where_it_should_and_nowhere_else(name: str) -> None:
    rule = next(rule for rule in rules() if rule.id == name)
    yes, no = HOLDS[name]
    assert all(rule.holds(facts) for facts in yes)
    assert not any(rule.holds(facts) for facts in no)
    assert not rule.holds({})


def test_each_rule_names_a_guide_and_what_it_sets_is_a_recipes() -> None:
    from luthier.advisor.plan import WAYS
    from luthier.recipe import Recipe, Train
    from luthier.recipe.shape import slots

    ways = {way.name for way in WAYS}
    for rule in rules():
        assert rule.source in {"house", *(f"guide {number}" for number in ("000", "001", "003", "004"))}
        assert set(rule.prefers) <= ways
        assert set(rule.when) <= set(FACTS)
        assert all(one.says and one.source for one in rule.newer)
        for key in rule.sets:
            first, _, rest = key.partition(".")
            assert first in slots(Recipe) and (not rest or rest in slots(Train))


def test_every_rule_answers_to_a_line_of_a_guide_and_every_line_to_a_command() -> None:
    named = {name for line in lines() for name in line.rules}
    assert named == {rule.id for rule in rules()}
    assert all(line.command.startswith("luthier ") for line in lines())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[{id: a, kind: advice, source: guide 001}]", "says"),
        ("[{id: a, kind: advise, source: guide 001, says: x}]", "advise"),
        ("[{id: a, kind: advice, source: guide 001, says: x, when: {row: 1}}]", "row"),
        ("[{id: a, kind: advice, source: x, says: x}, {id: a, kind: advice, source: x, says: y}]", "'a' is none: a"),
        ("[{id: a, kind: advice, source: guide 001, says: x, set: {}}]", "set"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, told: str) -> None:
    with pytest.raises(LuthierError, match=told):
        read(text)
