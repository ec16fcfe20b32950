"""Every benchmark says what it is, takes its keys from a recipe, and is told of what it is asked over."""

import dataclasses
import re

import pytest
import yaml

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks import BENCHMARKS
from luthier.evaluate.benchmarks.benchmark import Benchmark
from luthier.recipe import loads, resolve
from luthier.recipe.describe import docs, plugin_fields
from luthier.scorers.metric import Metric
from luthier.workflow.registries import REGISTRIES

NEEDS = {"lm_eval": {"tasks": ["hellaswag"]}}
"""What must be given."""
NAMES = BENCHMARKS.names()


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name):
    cls = BENCHMARKS.get(name)
    assert issubclass(cls, Benchmark) and cls.title and cls.version >= 1
    assert cls.paper == "" or re.fullmatch(r"https://(arxiv\.org/abs/\d{4}\.\d{5}|aclanthology\.org/\S+)", cls.paper)
    assert all(docs(cls).get(field.name) for field in plugin_fields(cls)), "a key without a word about it"
    assert cls.__dataclass_params__.frozen


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_it_and_the_lock_has_all_its_keys(name):
    text = yaml.safe_dump({"model": "m", "data": "d.jsonl", "output": "o", "evaluate": [{name: NEEDS.get(name, {})}]})
    (task,) = resolve(loads(text), REGISTRIES).recipe.evaluate
    made = BENCHMARKS.build(name, task.benchmark.args)
    assert task.name == name and set(task.benchmark.args) >= {"seed"}
    assert dataclasses.replace(made) == made and made.protocol.startswith(made.title[:4])
    if made.usual:
        metrics = made.metrics()
        assert metrics and all(isinstance(metric, Metric) for metric in metrics.values())


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_not_there_are_told(name, tmp_path):
    cls = BENCHMARKS.get(name)
    made = BENCHMARKS.build(name, {**NEEDS.get(name, {}), "path": str(tmp_path / "nowhere")})
    if not made.usual or name == "recall":
        pytest.skip("reads no files of its own")
    with pytest.raises(LuthierError) as raised:
        made.rows(lambda _: None)
    assert "nowhere" in str(raised.value) and cls.title
