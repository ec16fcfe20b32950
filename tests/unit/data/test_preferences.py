"""Judged responses through template and store: scores, margins, the places of steps, content hashes, truncation."""

from __future__ import annotations

import io
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import chat_templates as ct
import numpy as np
import pytest
from pydantic import TypeAdapter
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.data import FORMATS, Ledger, Prepared, Template, prepare, show
from luthier.data.reading.feeds import as_text, read
from luthier.data.reading.formats.preferences import Stepwise
from luthier.data.statistics import PreferenceStatistics
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.recipe import Source as Entry
from luthier.types import Encoded, Example

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def prepared(tmp_path: Path, rows: list[dict[str, Any]], template: str = ct.CHATML, **more: Any) -> Prepared:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": str(path), "output": "o", **more})
    return prepare(recipe, Template(ct.tokenizer(template)))


PAIR = {"prompt": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5, I think."}
THUMB = {"prompt": "What is 2+2?", "completion": "It is 4.", "label": True}
STEPS = {"prompt": "What is 2+2?", "completions": ["Two and two.", "It is 4.", "So 4"], "labels": [True, True, False]}


def test_judgements_survive_the_store(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "margin": 1.5}, {**PAIR, "chosen": "4"}]
    given = prepared(tmp_path, rows).train
    template = Template(ct.tokenizer())
    for i, row in enumerate(rows):
        direct = template.encode(FORMATS.build("preference").read(row))
        stored = given[i]
        assert [ids.tolist() for ids in stored.ids] == [ids.tolist() for ids in direct.ids]
        assert stored.columns == direct.columns == {"reward": (1.0, 0.0), **({"margin": 1.5} if i == 1 else {})}
        assert stored.shared == direct.shared > 5
    assert given.rewards.tolist() == [1.0, 0.0] * 3 and given.responses.tolist() == [2, 2, 2]
    assert len(set(given.hashes.tolist())) == 3  # a margin tells the first two apart
    assert prepared(tmp_path, rows[::-1]).train.hashes.tolist() == given.hashes.tolist()[::-1]


def test_labels_tell_equal_tokens_apart(tmp_path: Path) -> None:
    given = prepared(tmp_path, [THUMB, {**THUMB, "label": False}, {"prompt": "a", "completion": "b", "label": 0}])
    assert given.train.rewards.tolist() == [1.0, 0.0, 0.0] and given.train[1].columns["reward"] == (0.0,)
    assert given.ledger.duplicates == 0
    assert len(set(given.train.hashes.tolist())) == 3


def said(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> list[str]:
    """The response cut behind each step's place."""
    ids, places = encoded.ids[0], encoded.columns["step_end"][0]
    first = int(np.flatnonzero(encoded.weights[0])[0])
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in pairwise([first, *(places + 1).tolist()])]


def steps(texts: list[str], labels: list[Any]) -> Example:
    return FORMATS.build("stepwise").read({"prompt": "What is 2+2?", "completions": texts, "labels": labels})


def test_steps_survive_the_store(tmp_path: Path) -> None:
    given = prepared(tmp_path, [{**STEPS, "labels": [0.5, 1, -1]}, {**STEPS, "completions": ["a", "b", "c"]}]).train
    places, labels = (given[0].columns[name][0] for name in ("step_end", "step_reward"))
    assert labels.tolist() == [0.5, 1.0, -1.0] and places.dtype == np.int32
    assert [text.strip() for text in said(ct.tokenizer(), given[0])] == STEPS["completions"]
    assert given[1].columns["step_reward"][0].tolist() == [1.0, 1.0, -1.0]
    assert given.steps.tolist() == [3, 3] and "reward" not in given[0].columns


@pytest.mark.parametrize(
    ("files", "scores", "shape"),
    [
        ([[[1, 0]], [[0, 1]]], [1, -1, -1, 1], "stepwise (label 0: wrong)"),
        ([[[1.0, 0.0], [True, False]]], [1, -1, 1, -1], "stepwise (label 0: wrong)"),
        ([[[1, 0]], [[1, -1]]], [1, 0, 1, -1], "stepwise"),  # the second file decides for the first one's rows
        ([[[1, 0], [1, 0.5]]], [1, 0, 1, 0.5], "stepwise"),
        ([[[1, 1], [True, False]]], [1, 1, 1, -1], "stepwise"),
        (
            [[[1, 0], [float("nan"), -1]]],
            [1, -1],
            "stepwise (label 0: wrong)",
        ),  # a row that cannot be read says nothing
    ],
)
def test_the_whole_source_says_whether_a_label_of_0_is_wrong(
    files: list[list[list[Any]]], scores: list[float], shape: str, tmp_path: Path
) -> None:
    for number, labels in enumerate(files):
        rows = [
            {"prompt": f"{number} {i}?", "completions": ["a", "b"], "labels": each} for i, each in enumerate(labels)
        ]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger()
    examples = list(read([str(tmp_path / "*.jsonl")], ledger))
    assert [score for example in examples for score in example.responses[0].step_rewards or ()] == scores
    assert [tally.shape for tally in ledger.sources.values()] == [shape]


def test_each_source_decides_for_itself_and_a_limit_hides_nothing(tmp_path: Path) -> None:
    row = {"prompt": "?", "completions": ["a", "b"], "labels": [1, 0]}
    (tmp_path / "two.jsonl").write_text(json.dumps(row))
    (tmp_path / "three.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'labels': [1, -1]})}")
    entries = [Entry(path=str(tmp_path / name), limit=1) for name in ("two.jsonl", "three.jsonl")]
    assert [example.responses[0].step_rewards for example in read(entries)] == [(1, -1), (1, 0)]


@pytest.mark.parametrize(
    ("rows", "separator", "line"),
    [
        ([["a", "b"], ["c", "d", "e"]], "\n", r"steps are divided by '\n'"),
        ([["a\n\n", "b\n\n", "c"], ["d", "e"]], "\n\n", r"steps are divided by '\n\n' (67% of them)"),
        ([["a", " b"]], " ", "steps are divided by ' ': only a newline would show where the steps of an answer end"),
        ([["a"]], None, None),
    ],
)
def test_the_ledger_knows_what_divides_steps(
    rows: list[list[str]], separator: str | None, line: str | None, tmp_path: Path
) -> None:
    given = [{"prompt": "?", "completions": texts, "labels": [True] * len(texts)} for texts in rows]
    ledger = prepared(tmp_path, given).ledger
    assert ledger.separator == separator
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(ledger.table())
    text = console.export_text()
    assert line in text if line else "divided" not in text


def tokenizers() -> list[Any]:
    """Byte-level BPE of two cuts, and where they are there a SentencePiece one and the default model's."""
    made = [
        pytest.param(lambda: ct.tokenizer(ct.CHATML), id="newlines-kept"),
        pytest.param(lambda: ct.tokenizer(ct.LLAMA3, gpt2=True, eos_token="<|eot_id|>"), id="gpt2"),
    ]
    if (SHARED / "models/stories260k").is_dir():
        made.append(pytest.param(_stories, id="stories260k"))
    cached = Path.home() / ".cache/luthier/models/smollm2-135m-instruct"
    if cached.is_dir():
        made.append(pytest.param(lambda: AutoTokenizer.from_pretrained(cached), id="smollm2"))
    return made


def _stories() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models/stories260k")
    tokenizer.chat_template = ct.MISTRAL
    return tokenizer


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("make", tokenizers())
@pytest.mark.parametrize(
    "texts",
    [
        ["Two and two.", "It is 4!", "So 4"],
        ["Two and two.\n\n", "It is 4!\n\n", "So 4"],
        ["x = 1.", "y = é 🙂", "中文🙂", "end"],
        ["4"],
        ["4", "4", "4"],
    ],
    ids=["newline", "blank-line", "bytes", "one", "repeated"],
)
def test_a_step_ends_at_the_token_of_its_last_character(texts: list[str], make: Any, chat: bool) -> None:
    tokenizer = make()
    example = steps(texts, [1] * len(texts))
    encoded = Template(tokenizer).encode(example if chat else as_text(example))
    (places,) = encoded.columns["step_end"]
    assert [text.strip() for text in said(tokenizer, encoded)] == [text.strip() for text in texts]
    assert len(set(places.tolist())) == len(texts)
    assert (encoded.weights[0][places] == 1).all()
    assert places[-1] == len(encoded.ids[0]) - 2  # only the end token follows


def test_a_token_never_holds_two_steps() -> None:
    """With nothing between the steps "capi" and "tal", a token would lie over the edge."""
    tokenizer = ct.tokenizer()
    whole = tokenizer.encode("Paris is the capital.", add_special_tokens=False)
    row = {"prompt": "Where?", "completions": ["Paris is the cap", "ital."], "labels": [1, 0]}
    encoded = Template(tokenizer).encode(Stepwise(separator="").read(row))
    assert said(tokenizer, encoded) == ["Paris is the cap", "ital."]
    ids = encoded.ids[0][encoded.weights[0] > 0].tolist()
    assert ids[:-1] != whole and tokenizer.decode(ids[:-1]) == tokenizer.decode(whole)


def cut(tmp_path: Path, row: dict[str, Any], limit: int) -> Prepared:
    return prepared(tmp_path, [row] * 2, train={"max_tokens": limit, "long_rows": "truncate"})


def test_a_long_response_is_cut_inside(tmp_path: Path) -> None:
    whole = prepared(tmp_path, [PAIR]).train[0]
    better, worse = (len(ids) for ids in whole.ids)
    assert better < worse
    given = cut(tmp_path, PAIR, better)
    encoded = given.train[0]
    assert [len(ids) for ids in encoded.ids] == [better, better] and encoded.columns["reward"] == (1.0, 0.0)
    assert encoded.ids[1].tolist() == whole.ids[1][:better].tolist()
    assert encoded.shared == whole.shared
    end = ct.tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert encoded.ids[0][-1] == end != encoded.ids[1][-1]  # what is cut is not taught to stop
    assert given.ledger.cut == 2 and given.ledger.truncated == 0 and given.ledger.rows_dropped == 0
    with pytest.raises(LuthierError, match=r"rows.jsonl:1: 2 of 2 rows are longer.*\n.*truncate \(cuts responses"):
        prepared(tmp_path, [PAIR] * 2, train={"max_tokens": better})


def test_what_is_left_of_a_pair_must_differ(tmp_path: Path) -> None:
    whole = prepared(tmp_path, [PAIR]).train[0]
    differ = int(np.flatnonzero(whole.ids[0][:20] != whole.ids[1][: len(whole.ids[0])][:20])[0])
    assert len(cut(tmp_path, PAIR, differ + 1).train) == 2
    with pytest.raises(LuthierError, match=r"differ only behind train\.max_tokens"):
        cut(tmp_path, PAIR, differ)
    with pytest.raises(
        LuthierError, match=r"(?s)its prompt alone is as long as train\.max_tokens.*raise train\.max_tokens"
    ):
        cut(tmp_path, PAIR, whole.shared)


def test_only_whole_steps_are_kept(tmp_path: Path) -> None:
    whole = prepared(tmp_path, [STEPS]).train[0]
    places = whole.columns["step_end"][0]
    given = cut(tmp_path, STEPS, int(places[2]))  # the last token of the third step does not fit
    encoded = given.train[0]
    assert encoded.columns["step_end"][0].tolist() == places[:2].tolist() and encoded.columns["step_reward"][
        0
    ].tolist() == [1.0, 1.0]
    assert len(encoded.ids[0]) == places[1] + 1
    assert given.ledger.cut == 2 and given.ledger.steps_lost == 2 and given.train.steps.tolist() == [2, 2]
    with pytest.raises(LuthierError, match="not one whole step is left"):
        cut(tmp_path, STEPS, int(places[0]))


def test_responses_that_a_template_makes_equal_are_no_pair(tmp_path: Path) -> None:
    row = {**PAIR, "rejected": PAIR["chosen"] + "  "}
    assert len(prepared(tmp_path, [row]).train) == 1  # to ChatML the spaces are words
    with pytest.raises(LuthierError, match="its responses are the same tokens"):
        prepared(tmp_path, [row], ct.LLAMA3)


RANKED = {"prompt": "What is 2+2?", "responses": ["It is 4.", "It is 5.", "It is 6."], "scores": [0.9, 0.4, 0.4]}


def test_ranked_responses_lie_in_one_example(tmp_path: Path) -> None:
    given = prepared(tmp_path, [RANKED, {**RANKED, "responses": ["It is 4.", "5"], "scores": [1, 0]}])
    encoded = given.train[0]
    assert len(encoded.ids) == 3 and encoded.shared > 5
    assert encoded.columns["reward"] == pytest.approx((0.9, 0.4, 0.4))
    assert given.train.responses.tolist() == [3, 2]
    assert (
        given.ledger.preferences is not None and given.ledger.preferences.pairs == 3
    )  # two of the three, the tie is none


def test_rows_to_one_prompt_are_held_out_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": f"Is it {j}?"}
        for i in range(30)
        for j in range(100, 104)
    ]
    given = prepared(tmp_path, rows, validate={"share": 0.2})
    assert given.validation is not None

    def prompts(store: Any) -> set[bytes]:
        return {store[i].ids[0][: store[i].shared].tobytes() for i in range(len(store))}

    assert not prompts(given.validation) & prompts(given.train)
    assert len(given.validation) % 4 == 0 and 4 <= len(given.validation) <= 60


def counted(responses: list[int], scores: list[float], trained: list[int], steps: list[float] | None = None) -> Any:
    return PreferenceStatistics.of(
        np.array(responses, np.int32),
        np.array(scores, np.float32),
        np.array(trained, np.int32),
        np.array(steps or [], np.float32),
    )


def test_judgements_counted_by_hand() -> None:
    nan = float("nan")
    assert counted([1, 1], [nan, nan], [3, 4]) is None
    # a pair, its mirror, and three of which two tie: (10, 4), (8, 2) and twice 6 against 1 and 3
    pairs = counted([2, 2, 3], [1, 0, 0, 1, 2, 1, 1], [10, 4, 2, 8, 6, 1, 3])
    assert (pairs.pairs, pairs.good, pairs.bad) == (4, 0, 0)
    assert (pairs.better_tokens, pairs.worse_tokens) == (7.5, 2.5)
    assert ("length bias: better responses are 3.00 times longer; length alone may be learnt", True) in pairs.lines()
    labels = counted([1] * 5, [1, 0, 0, 0, nan], [5, 5, 5, 5, 9])
    assert (labels.good, labels.bad, labels.length_ratio) == (1, 3, 1.0)
    assert not any(warning for _, warning in labels.lines())
    steps = counted([1], [nan], [4], [1, 0, 1])
    assert (steps.right_steps, steps.neutral_steps, steps.wrong_steps) == (2, 1, 0)
    assert any(warning and "neutral=negative" in line for line, warning in steps.lines())
    assert not any(warning for _, warning in counted([1], [nan], [4], [1, 0, -1]).lines())


def test_the_ledger_says_what_is_judged(tmp_path: Path) -> None:
    ledger = prepared(
        tmp_path, [THUMB, THUMB, {**THUMB, "completion": "It is five, I should think.", "label": 0}]
    ).ledger
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger
    divided = prepared(tmp_path, [STEPS]).ledger
    assert divided.joints and Ledger.from_json(json.loads(json.dumps(divided.to_json()))) == divided
    console = Console(width=150, file=io.StringIO(), record=True)
    console.print(ledger.table())
    text = console.export_text()
    assert "labels: 2 good, 1 bad (67% good)" in text
    assert "length bias: better responses are" in text and "times shorter" in text
    held_out = Console(width=150, file=io.StringIO(), record=True)
    held_out.print(ledger.table("Validation data", train=False))
    text = held_out.export_text()  # what is only looked at has no place in the mix
    assert "labels: 2 good, 1 bad" in text and "used" not in text
    assert prepared(tmp_path, [{"prompt": "a", "completion": "b"}]).ledger.preferences is None


def test_show_names_scores_and_brackets_what_trains(tmp_path: Path) -> None:
    template = Template(ct.tokenizer())

    def shown(rows: list[dict[str, Any]], **style: Any) -> str:
        console = Console(width=150, file=io.StringIO(), record=True, **style)
        console.print(show(prepared(tmp_path, rows).train, template))
        return console.export_text()

    pair = shown([{**PAIR, "margin": 1.5}])
    assert "⟦It is 4.<|im_end|>⟧" in pair and "⟦It is 5, I think.<|im_end|>⟧" in pair and "margin 1.5" in pair
    assert "[response 1 of 2, score 1]" in pair and "[response 2 of 2, score 0]" in pair
    assert "⟦" not in shown([PAIR], force_terminal=True, color_system="standard")
    assert "[score 0]" in shown([{**THUMB, "label": False}])
    assert "[step 0.5]" in shown([{**STEPS, "labels": [0.5, 1, 1]}])
