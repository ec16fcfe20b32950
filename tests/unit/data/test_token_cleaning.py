"""Token cleaning: the share is exact, planted noise goes first, the right token is meant, nothing is asked twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chat_templates as ct
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from luthier.data import Prepared, Template, prepare
from luthier.data.curation.stages import Settings
from luthier.data.selecting.tokens import floor, kept
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.recipe import Recipe
from luthier.types import Encoded

NOISE = "zqj"


class Reader:
    """Finds each token as likely as the table says, the noise `odd`; knows what it was asked."""

    def __init__(self, name: str, odd: float, usual: float) -> None:
        self.identity, self.odd, self.usual, self.asked = name, odd, usual, 0
        self.template = Template(ct.tokenizer(ct.CHATML))
        self.noise = {token for sign in NOISE for token in self.template.ids_of(sign)}

    @property
    def engine(self) -> Any:
        return self

    def prompt(self, turns: Any, tools: Any = ()) -> tuple[int, ...]:
        return tuple(self.template.prompt_ids(turns))

    def logprobs(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        self.asked += len(rows)
        scored = [row.ids[0][np.flatnonzero(row.weights[0])] for row in rows]
        return [np.where(np.isin(ids, list(self.noise)), self.odd, self.usual).astype(np.float32) for ids in scored]


BASE, REFERENCE = Reader("base", -2.0, -2.0), Reader("reference", -3.0, -1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def prepared(tmp_path: Path, tokens: Any, reference: Reader = REFERENCE, **more: Any) -> Prepared:
    path = tmp_path / "rows.jsonl"
    said = [f"It is {n}{'zqjzqj' if n % 3 == 0 else ''}, so." for n in range(12)]
    rows = [{"prompt": f"What zqj is {n}?", "completion": one} for n, one in enumerate(said)]
    path.write_text("\n".join(map(json.dumps, more.pop("rows", rows))), encoding="utf-8")
    keys = {"model": "m", "data": str(path), "output": "o", "tokens": tokens, "validate": {"share": 0}, **more}
    made: Recipe = TypeAdapter(Recipe).validate_python(keys)
    tools = Tools(speakers=lambda named: {"m": BASE}.get(Path(named[0]).name, reference), model="m")
    template, needs = Template(ct.tokenizer(ct.CHATML)), OBJECTIVES.build(made.objective.name).needs
    return prepare(made, template, needs, settings=Settings(tools, 1))


def trained(found: Prepared) -> list[tuple[list[int], list[int]]]:
    """Of each row the tokens that train, and all of them."""
    rows = [found.train[i] for i in range(len(found.train))]
    return [(row.ids[0][np.flatnonzero(row.weights[0])].tolist(), row.ids[0].tolist()) for row in rows]


def test_the_share_is_exact_whatever_it_is():
    assert [floor(share, n) for share, n in ((0.6, 5), (0.7, 10), (0.1, 3), (1.0, 7), (1 / 3, 3))] == [3, 7, 0, 7, 1]
    chance = np.random.default_rng(0)
    for count in range(1, 40):
        worth = chance.integers(0, 3, count).astype(np.float32)
        keep = kept(worth, 0.6)
        assert keep.sum() == count * 6 // 10
        assert not keep.any() or worth[keep].min() >= worth[~keep].max(initial=-1)
    assert kept(np.zeros(5, np.float32), 0.6).tolist() == [True, True, True, False, False]
    rows = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    assert kept(np.array([5, 4, 3, 2, 1, 1, 2, 9], np.float32), 0.6, rows).tolist() == [True] * 3 + [False] * 3 + [
        True,
        False,
    ]


def test_planted_noise_goes_first_and_the_rest_stays(tmp_path: Path):
    whole = trained(prepared(tmp_path, None))
    total = sum(len(ids) for ids, _ in whole)
    noisy = sum(token in REFERENCE.noise for ids, _ in whole for token in ids)
    assert noisy == 4 * 6
    share = (total - noisy) / total
    found = trained(prepared(tmp_path, {"reference": "r", "keep": share}))
    for (clean, ids), (all_of_them, same) in zip(found, whole, strict=True):
        assert ids == same, "noise stays there, as context"
        assert clean == [token for token in all_of_them if token not in REFERENCE.noise]
    assert sum(len(ids) for ids, _ in found) == floor(share, total)


def test_another_share_asks_nothing_again_and_the_ledger_counts(tmp_path: Path):
    total = sum(len(ids) for ids, _ in trained(prepared(tmp_path, None)))
    first = prepared(tmp_path, {"reference": "r", "keep": 0.5})
    asked = BASE.asked, REFERENCE.asked
    other = prepared(tmp_path, {"reference": "r", "keep": 0.9})
    assert (BASE.asked, REFERENCE.asked) == asked
    assert [sum(len(ids) for ids, _ in trained(one)) for one in (first, other)] == [total // 2, floor(0.9, total)]
    assert first.train.scored.sum() == total // 2 and first.train.digest != other.train.digest
    assert f"tokens: {total // 2:,} of {total:,} scored tokens train" in first.ledger.notes


def test_all_tokens_are_the_same_as_none_cleaned(tmp_path: Path):
    assert trained(prepared(tmp_path, {"reference": "r", "keep": 1.0})) == trained(prepared(tmp_path, None))


def test_a_reference_that_learnt_nothing_decides_by_place_alone(tmp_path: Path):
    found = trained(prepared(tmp_path, {"reference": "r", "keep": 0.5}, Reader("same", -2.0, -2.0)))
    whole = [token for ids, _ in trained(prepared(tmp_path, None)) for token in ids]
    assert [token for ids, _ in found for token in ids] == whole[: len(whole) // 2]


def test_what_is_held_out_keeps_its_tokens_and_rows_without_any_go(tmp_path: Path):
    found = prepared(tmp_path, {"reference": "r", "keep": 0.05}, validate={"share": 0.3})
    assert found.validation is not None and 0 < len(found.train) < 12 - len(found.validation)
    whole = {tuple(ids): len(scored) for scored, ids in trained(prepared(tmp_path, None))}
    for i in range(len(found.validation)):
        row = found.validation[i]
        assert row.scored == whole[tuple(row.ids[0].tolist())]
    assert found.ledger.notes["tokens: no token of it trains any more"].count == 12 - len(found.validation) - len(
        found.train
    )


def test_parts_are_apart_and_together_all(tmp_path: Path):
    parts = [trained(prepared(tmp_path, {"reference": "r", "keep": 1.0, "part": n, "parts": 3})) for n in (1, 2, 3)]
    rows = [tuple(ids) for part in parts for _, ids in part]
    assert sorted(rows) == sorted(tuple(ids) for _, ids in trained(prepared(tmp_path, None))) and all(parts)


def test_what_does_not_fit_is_told(tmp_path: Path):
    judged = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(LuthierError, match="these rows are judged"):
        prepared(tmp_path, {"reference": "r"}, rows=judged, objective="dpo")
    other = Reader("other", -1.0, -1.0)
    other.template = Template(ct.tokenizer(ct.CHATML.replace("<|im_start|>", "<|im_end|>")))
    with pytest.raises(LuthierError, match="other tokens than the base"):
        prepared(tmp_path, {"reference": "r"}, other)
    with pytest.raises(Exception, match="is 3 of 2"):
        prepared(tmp_path, {"reference": "r", "part": 3, "parts": 2})
