"""A key that does not go with those beside it is named itself, with its line or its override, and with what to do."""

import pytest

from luthier.errors import LuthierError
from luthier.recipe import loads

TEXT = """model: m
data: d
output: o
evaluate:
- data: h
- name: second
  data: h
  scorers: [f1]
{}"""


def fault(lines: str, *overrides: str) -> LuthierError:
    with pytest.raises(LuthierError) as error:
        loads(TEXT.format(lines), overrides, name="r.yaml")
    return error.value


def test_several_answers_without_a_temperature():
    error = fault("  by: f1\n  best_of: 4\n")
    assert error.where == "r.yaml:10" and "temperature: 0.8" in (error.fix or "")
    assert error.what.startswith("evaluate.1.best_of is 4, which needs a temperature above 0")


def test_several_answers_that_nothing_picks_from():
    error = fault("  best_of: 4\n  temperature: 1\n")
    assert error.where == "r.yaml:9" and "by: {reward_model: runs/rm}" in (error.fix or "")
    assert error.what.startswith("evaluate.1.best_of is 4, and nothing picks among so many answers")


def test_an_override_is_named_as_one():
    error = fault("", "evaluate.1.best_of=3", "evaluate.1.by=f1")
    assert error.where == "override evaluate.1.best_of=3"


def test_an_entry_without_its_name():
    with pytest.raises(LuthierError) as error:
        loads("model: m\noutput: o\ndata:\n- a\n- weight: 2\n  llamafactory: info\n", name="r.yaml")
    assert error.value.where == "r.yaml:6" and error.value.what.startswith("data.1.llamafactory needs a `name`")


def test_an_unknown_key_of_the_references_model_is_named_with_those_known():
    error = fault("reference: {model: {name: x, revison: y}}\n")
    assert error.where == "r.yaml:9" and error.what == "unknown key 'reference.model.revison'"
    assert error.fix == "did you mean 'revision'?"
    assert loads(TEXT.format("reference: {model: null}\n"), name="r.yaml").recipe.reference.model is None
    other = loads(
        TEXT.format("reference: {model: x}\n"), ["reference.model.revision=y"], name="r.yaml"
    ).recipe.reference.model
    assert other is not None and (other.name, other.revision) == ("x", "y")


def test_a_seed_fits_in_32_bits():
    assert fault("seed: 4294967296\n").what == "seed must be less than 4294967296, got 4294967296"
