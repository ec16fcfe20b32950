"""Which answers are kept, worked by hand: every one has its line, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data import Ledger
from luthier.data import read as read_rows
from luthier.errors import LuthierError
from luthier.recipe import Plugin, Source
from luthier.recipe.rollout import Reward
from luthier.workflow.pipeline.keys import Selection
from luthier.workflow.pipeline.selecting import select, words
from luthier.workflow.pipeline.stages import Choosing

SCORE = """
def number(response):
    return None if response == "?" else float((response.split() or [0])[0])
"""


def rows(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(prompts: Path, said: dict[int, list[str]], finish: str = "stop") -> list[dict[str, Any]]:
    """Answers to rows, each as `text` or `text|finish`."""
    return [
        {
            "source": f"{prompts}:{row}",
            "index": index,
            "text": text.split("|")[0],
            "finish": (text + "|" + finish).split("|")[1],
            "tokens": 3,
            "key": "k",
        }
        for row, texts in said.items()
        for index, text in enumerate(texts)
    ]


class Kept:
    """A selection made: of what was said to prompts 1, 2, …"""

    def __init__(
        self, folder: Path, said: dict[int, list[str]], prompts: list[dict[str, Any]] | None = None, **keys: Any
    ) -> None:
        self.folder = folder / "out"
        (folder / "score.py").write_text(SCORE)
        asked = rows(folder / "asked.jsonl", prompts or [{"prompt": f"row {n + 1}"} for n in range(len(said))])
        given = rows(folder / "answers.jsonl", answers(asked, said)[::-1])  # as they ended, not as they were asked
        reward = Reward(scorer=Plugin(name="python", args={"function": f"{folder}/score.py:number"}))
        made = Selection(answers=str(given), data=(Source(path=str(asked)),), reward=(reward,), **keys)
        self.told = select(Choosing(made, None), self.folder, lambda _: None)
        self.why = [
            (line["source"].rpartition(":")[2], line["index"], line["kept"], line["why"])
            for line in read(self.folder / "ledger.jsonl")
        ]
        self.rows = read(self.folder / "rows.jsonl")


def test_the_best_of_each_prompt_the_first_of_equals(tmp_path: Path) -> None:
    kept = Kept(tmp_path, {1: ["1", "3 a", "3 b"], 2: ["5|length", "2", "?"], 3: ["  ", "9|filtered", "?"]})
    assert kept.why == [
        ("1", 0, False, "beyond the best 1"),
        ("1", 1, True, "best of 3"),
        ("1", 2, False, "beyond the best 1"),
        ("2", 0, False, "cut off at its longest"),
        ("2", 1, True, "best of 3"),
        ("2", 2, False, "a scorer could not say"),
        ("3", 0, False, "empty"),
        ("3", 1, False, "held back by the endpoint's filter"),
        ("3", 2, False, "a scorer could not say"),
    ]
    assert kept.rows == [
        {"messages": [{"role": "user", "content": f"row {n}"}, {"role": "assistant", "content": text}]}
        for n, text in ((1, "3 a"), (2, "2"))
    ]
    told = kept.told
    assert (told["answers"], told["kept"], told["rows"], told["prompts_without"]) == (9, 2, 2, 1)
    assert sum(told["left_out"].values()) == 7 and told["reward_kept"] == 2.5
    assert "2 of 9 answers are kept, in 2 rows" in words(told) and "1 prompts without any" in words(told)


def test_all_above_a_threshold_no_text_twice_and_no_more_than_asked(tmp_path: Path) -> None:
    said = {1: ["2", "1", "4", "2", "3"], 2: ["1", "0.5", "1"]}
    kept = Kept(tmp_path, said, keep="above", above=1.0, most=2)
    assert [why for *_, why in kept.why] == [
        "beyond the best 2", "not above 1", "number 1 of 5", "the same text as another that counts before it",
        "number 2 of 5", "not above 1", "not above 1", "not above 1",
    ]  # fmt: skip
    assert [row["messages"][-1]["content"] for row in kept.rows] == ["4", "3"]


def test_best_and_worst_are_a_pair_and_ties_are_none(tmp_path: Path) -> None:
    said = {1: ["2", "1", "4", "0|length"], 2: ["3 a", "3 b"], 3: ["2", "1.6"], 4: ["7|length", "2", "1"]}
    kept = Kept(tmp_path, said, keep="pairs", margin=0.5)
    assert [(row, index) for row, index, good, _ in kept.why if good] == [("1", 2), ("1", 3), ("4", 1), ("4", 2)]
    assert kept.why[0][3] == kept.why[1][3] == "neither the best nor the worst"
    assert {why for row, *_, why in kept.why if row in "23"} == {"no answer is worse by more than 0.5"}
    examples = list(read_rows([Source(path=str(kept.folder / "rows.jsonl"))], Ledger()))
    assert [[response.turns[0].text for response in example.responses] for example in examples] == [
        ["4", "0"],
        ["2", "1"],
    ]
    assert [example.prompt[0].text for example in examples] == ["row 1", "row 4"]


def test_a_conversation_is_kept_whole_and_only_the_answer_trains(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "of the data"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    kept = Kept(tmp_path, {1: ["2"]}, [{"messages": talk, "tools": tools}])
    (example,) = read_rows([Source(path=str(kept.folder / "rows.jsonl"))], Ledger())
    assert [(turn.role, turn.text, turn.weight) for turn in example.prompt] == [
        ("system", "be brief", None), ("user", "one?", None), ("assistant", "1", 0), ("user", "two?", None),
    ]  # fmt: skip
    assert example.responses[0].turns[0].text == "2" and len(example.tools) == 1


def test_nothing_is_lost_on_the_way(tmp_path: Path) -> None:
    prompts = [{"prompt": "row 1"}, {"prompt": ""}, {"prompt": "row 3"}]
    kept = Kept(tmp_path, {1: ["1"]}, prompts)
    assert (kept.told["prompts"], kept.told["unread"], kept.told["unanswered"]) == (2, 1, 1)
    with pytest.raises(
        LuthierError, match=r"answers 1 prompts that are not among the data; the first is .*asked.jsonl:2"
    ):
        Kept(tmp_path, {1: ["1"], 2: ["1"]}, prompts)
    assert not (tmp_path / "out" / "rows.jsonl.part").exists() or read(tmp_path / "out" / "rows.jsonl") == kept.rows
    with pytest.raises(LuthierError, match=r"none of 3 answers is kept: 2 not above 5; 1 cut off") as error:
        Kept(tmp_path, {1: ["1", "2", "9|length"]}, keep="best", above=5.0)
    assert "ledger.jsonl" in (error.value.where or "") and "lower `above`" in (error.value.fix or "")
    assert len(read(tmp_path / "out" / "ledger.jsonl")) == 3, "to be looked at"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"source": "x", "index": 0, "text"', r"answers.jsonl:2: the line is no answer"),
        ('{"source": "x", "index": 0, "text": null, "finish": "stop"}', r"answers.jsonl:2: the line is no answer"),
        ('{"source": "SOURCE", "index": 0, "text": "2", "finish": "stop"}', "two answers of one number"),
    ],
)
def test_a_file_that_is_not_whole_is_told(line: str, match: str, tmp_path: Path) -> None:
    kept = Kept(tmp_path, {1: ["1"]})
    given = tmp_path / "answers.jsonl"
    given.write_text(given.read_text() + line.replace("SOURCE", f"{tmp_path}/asked.jsonl:1") + "\n")
    reward = Reward(scorer=Plugin(name="python", args={"function": f"{tmp_path}/score.py:number"}))
    keys = Selection(answers=str(given), data=(Source(path=str(tmp_path / "asked.jsonl")),), reward=(reward,))
    with pytest.raises(LuthierError, match=match):
        select(Choosing(keys, None), tmp_path / "other", lambda _: None)
    assert not (tmp_path / "other" / "rows.jsonl").exists() and kept.rows


def test_more_prompts_than_are_scored_at_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path, {n + 1: [str(n), str(-n - 1)] for n in range(150)})
    assert [row["messages"][-1]["content"] for row in kept.rows] == [str(n) for n in range(150)]
    assert [(row, index) for row, index, *_ in kept.why] == [(str(n + 1), i) for n in range(150) for i in (0, 1)]
