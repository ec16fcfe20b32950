"""Well-known data sets with the right reader: trees, preferences of readers, rated completions, two roles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from luthier.data import FORMATS, Ledger, read
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.trees import Oasst
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import Example, Source

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))
SAMPLE = SHARED / "data/oasst-sample"


def node(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"message_id": text, "role": role, "text": text, "lang": "en", "replies": list(replies)} | more


TREE = node(
    "prompter", "q",
    node("assistant", "second", node("prompter", "why?", node("assistant", "so", rank=0), rank=None), rank=1),
    node("assistant", "first",
         node("prompter", "and?", node("assistant", "then", rank=0)), node("prompter", "ok"), rank=0),
    node("assistant", "third", rank=2),
    node("assistant", "spam", node("prompter", "below spam"), deleted=True),
)  # fmt: skip


def flat(tree: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    bare = {key: value for key, value in tree.items() if key != "replies"} | {"parent_id": parent}
    below = [row for reply in tree["replies"] for row in flat(reply, tree["message_id"])]
    return [*below, bare]  # children before their parent


def texts(example: Example) -> list[tuple[str, float | None]]:
    return [(turn.text, turn.weight) for turn in (*example.prompt, *example.responses[0].turns)]


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "rows", [[{"message_tree_id": "q", "prompt": TREE}], [TREE], flat(TREE)], ids=["tree", "bare", "flat"]
)
def test_a_tree_gives_its_best_path_all_paths_or_ranked_answers(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path, ledger = written(tmp_path, rows), Ledger()
    (best,) = read([Entry(path=path, format="oasst")], ledger)
    assert texts(best) == [("q", None), ("first", None), ("and?", None), ("then", None)]
    assert sum(reason.count for what, reason in ledger.notes.items() if "deleted or refused" in what) == 1
    every = list(read([Entry(path=path, format={"oasst": {"paths": "all"}})]))
    assert sorted(texts(one)[-1][0] for one in every) == ["so", "then", "third"]
    assert [weight for one in every for _, weight in texts(one)] == [None] * 10
    (ranked,) = read([Entry(path=path, format={"oasst": "ranked"})])
    assert {r.turns[0].text: r.reward for r in ranked.responses} == {"first": 1.0, "second": 0.5, "third": 0.0}


def test_an_answer_on_two_paths_trains_on_the_first_alone(tmp_path: Path) -> None:
    asked = [node("prompter", f"q{i}", node("assistant", f"a{i}")) for i in range(2)]
    path = written(tmp_path, [node("prompter", "q", node("assistant", "a", *asked))])
    one, other = read([Entry(path=path, format={"oasst": "all"})])
    assert texts(one)[1] == ("a", None) and texts(other)[1] == ("a", 0.0)


def test_trees_of_other_languages_and_without_answers_are_counted(tmp_path: Path) -> None:
    rows = [TREE, node("prompter", "f", node("assistant", "g"), lang="de"), node("prompter", "alone", lang="de")]
    ledger = Ledger()
    path = written(tmp_path, [*rows, {"role": "system", "text": "x"}])
    (one,) = read([Entry(path=path, format={"oasst": {"language": "de"}})], ledger)
    assert texts(one)[0][0] == "f"
    assert [(what[:20], reason.rows) for what, reason in ledger.notes.items() if "tree" in what] == [
        ("trees of other langu", [f"{path}:1"]), ("the tree has no answ", [f"{path}:3"]),
    ]  # fmt: skip
    assert list(ledger.reasons) == ["a message's role is neither prompter nor assistant"]


def test_a_language_that_no_tree_is_in_is_an_error_and_one_of_another_file_is_not(tmp_path: Path) -> None:
    german = node("prompter", "f", node("assistant", "g"), lang="de")
    path = written(tmp_path, [TREE, german, german])
    with pytest.raises(LuthierError, match="no tree is in the language 'xx'") as caught:
        list(read([Entry(path=path, format={"oasst": {"language": "xx"}})]))
    assert caught.value.where == path and "de (2), en (1)" in str(caught.value.fix)
    apart = tmp_path / "apart"
    for name, tree in (("a", TREE), ("b", german)):
        (apart / name).mkdir(parents=True)
        written(apart / name, [tree])
    (one,) = read([Entry(path=str(apart), format={"oasst": {"language": "de"}})])
    assert texts(one)[0][0] == "f" and one.source is not None and "/b/" in one.source.path


def test_rows_of_the_hub_are_trees_too() -> None:
    numbered = ((Source("hub", i), row) for i, row in enumerate(flat(TREE), 1))
    ((place, row),) = Oasst().over(numbered, lambda what, source: None)
    assert place == Source("hub", len(flat(TREE))) and len(row["messages"]) == 4


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no shared data")
def test_real_trees_are_read_whole() -> None:
    folder = SAMPLE / "model/model_eval/manual/data"
    for name, rows in (("en_100_tree.jsonl", 100), ("en_100_message.jsonl", 100)):
        ledger = Ledger()
        best = list(read([Entry(path=str(folder / name), format="oasst")], ledger))
        assert len(best) == rows and not ledger.rows_dropped
        ranked = list(read([Entry(path=str(folder / name), format={"oasst": "ranked"})]))
        assert all(len(one.responses) > 1 for one in ranked)
    seed = SAMPLE / "backend/test_data/realistic/realistic_seed_data.json"
    every = list(read([Entry(path=str(seed), format={"oasst": "all"})]))
    assert len(every) > 50 and all(one.responses[0].turns[0].role == "assistant" for one in every)


def test_shp_drops_pairs_that_readers_hardly_told_apart() -> None:
    row = {"history": "h", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_ratio": 1.5}
    assert [r.turns[0].text for r in FORMATS.build("shp").read(row).responses] == ["b", "a"]
    with pytest.raises(BadRow, match="below 2"):
        FORMATS.build("shp", {"least": 2}).read(row)


def test_ultrafeedback_scores_by_the_aspects_or_overall() -> None:
    def one(said: str, overall: float, *ratings: str) -> dict[str, Any]:
        aspects = {name: {"Rating": each} for name, each in zip("abcd", ratings, strict=False)}
        return {"response": said, "overall_score": overall, "annotations": aspects}

    rated = [one("good", 1, "5", "4"), one("bad", 10, "2", "N/A"), one("", 3, "5"), one("good", 1, "4", "3")]
    row = {"instruction": "q", "models": ["m"], "completions": rated}
    assert {r.turns[0].text: r.reward for r in FORMATS.build("ultrafeedback").read(row).responses} == {
        "good": 4.0, "bad": 2.0,
    }  # fmt: skip
    overall = FORMATS.build("ultrafeedback", {"by": "overall"}).read(row)
    assert {r.turns[0].text: r.reward for r in overall.responses} == {"good": 1.0, "bad": 10.0}


def test_camels_assistant_may_speak_first_and_is_not_learnt_before_it_is_asked() -> None:
    said = [("ASSISTANT", "Ready."), ("USER", "Do."), ("ASSISTANT", "Done."), ("USER", "CAMEL_TASK_DONE")]
    row: dict[str, Any] = {"role_1": "a_RoleType.ASSISTANT", "role_2": "b_RoleType.USER"}
    row |= {f"message_{i}": {"role_type": role, "content": text} for i, (role, text) in enumerate(said, 1)}
    assert texts(FORMATS.build("camel").read(row)) == [("Do.", None), ("Done.", None)]


def test_wikihow_is_read_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "wikihowSep.csv"
    path.write_text('title,headline,text,sectionLabel\nHow to Glue2,"Sand.\n,Glue.","Sand it.\n ;Glue it.",Steps\n')
    (plain,) = read(str(path))
    assert not plain.prompt  # three such columns may be anything: news, say
    (one,) = read([Entry(path=str(path), format="wikihow")])
    assert texts(one) == [("How to Glue: Steps", None), ("Sand it.\nGlue it.", None)]
    (short,) = read([Entry(path=str(path), format={"wikihow": {"short": True}})])
    assert texts(short)[1][0] == "Sand.\nGlue."


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("Context,Response", "{prompt: Context, completion: Response}"),
        ("Questions,Answers", "{prompt: Questions, completion: Answers}"),
        ("Human,Assistant", "{prompt: Human, completion: Assistant}"),
        ("id,User Query,Bot Reply", "YOUR_COLUMN"),
        ("review,sentiment", "YOUR_COLUMN"),
    ],
)
def test_a_table_from_elsewhere_is_told_which_columns_to_map(header: str, advice: str, tmp_path: Path) -> None:
    path = tmp_path / "kaggle.csv"
    path.write_text(f"{header}\n{','.join('x' * len(header.split(',')))}\n")
    with pytest.raises(LuthierError) as fault:
        list(read(str(path)))
    assert fault.value.fix is not None and "columns: " in fault.value.fix and advice in fault.value.fix
