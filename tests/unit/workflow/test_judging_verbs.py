"""Answers judged by the verbs: entries of `evaluate:`, an arena, people; models and judge are endpoints with answers of
the test's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from endpoints import Answer, Endpoint, apart, endpoint, said
from tiny_tokenizers import CHATML, letters

from luthier import models, verbs
from luthier.errors import LuthierError
from luthier.evaluate.blind import Blind
from luthier.evaluate.judging.answers import written
from luthier.evaluate.judging.contestants import contestants
from luthier.recipe import Model, Plugin, loads, lock, resolve
from luthier.run import Run
from luthier.scorers.judges import asking
from luthier.workflow.registries import REGISTRIES

assert apart

PROMPTS = [f"question {number}" for number in range(12)]
SHOWN = re.compile(r"<answer ?([AB]?) (\w+)>\n(.*?)\n</answer ?\1 \2>", re.S)


def speak(path: str, body: dict[str, Any]) -> Answer:
    """`ours` gives good answers, `theirs` bad ones to all but three; the judge knows."""
    asked = body["messages"][-1]["content"]
    if body["model"] == "judge":
        shown = {letter: text for letter, _, text in SHOWN.findall(asked)}
        if "" in shown:
            return said("It has 5 merits. [[9]]" if "good" in shown[""] else "[[3]]")
        good = {letter: "good" in text for letter, text in shown.items()}
        return said("[[C]]" if good["A"] == good["B"] else "[[A]]" if good["A"] else "[[B]]")
    number = int(asked.split()[-1])
    good = body["model"] == "ours" or number in (1, 2, 3)
    return said(f"a {'good' if good else 'bad'} answer to {number}")


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with endpoint(speak) as found:
        yield found


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    asking.forget()
    yield
    asking.forget()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, server: Endpoint) -> Run:
    """A run with an adapter, and tasks that a judge decides."""
    folder = tmp_path_factory.mktemp("judged")
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    tiny.model(vocab_size=len(tokenizer), num_hidden_layers=1).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"instruction": prompt, "output": "a good answer of the file"} for prompt in PROMPTS]
    (folder / "rows.json").write_text(json.dumps(rows))
    turns = [{"question_id": n, "category": "abc"[n % 3], "turns": [f"first {n}", f"second {n}"]} for n in range(6)]
    (folder / "mt").mkdir()
    (folder / "mt/question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    known = {"question_id": 0, "choices": [{"turns": ["it is zero", "it is nought"]}]}
    (folder / "mt/reference_answer").mkdir()
    (folder / "mt/reference_answer/known.jsonl").write_text(json.dumps(known))
    by = f"by: {{judge: {{engine: {{openai: {{url: '{server.url}', model: judge}}}}}}}}"
    recipe = loads(
        f"model: {{name: {folder}/model, dtype: fp32}}\ndata: {folder}/rows.json\noutput: {folder}/run\n"
        f"engine: {{openai: {{url: '{server.url}', model: ours, base: theirs}}}}\n"
        f"evaluate:\n- win_rate: {{path: {folder}/rows.json, {by}}}\n"
        f"- alpaca_eval: {{path: {folder}/rows.json, {by}}}\n"
        f"- mt_bench: {{path: {folder}/mt, {by}}}\n"
    )
    found = Run(folder / "run")
    policy = models.load(Model(name=str(folder / "model"), dtype="fp32"), [Plugin(name="lora", args={"r": 2})])
    found.folder.mkdir()
    found.recipe_path.write_text(lock(resolve(recipe, REGISTRIES).recipe))
    models.save(policy, found)
    return found


def judge(server: Endpoint) -> str:
    return json.dumps({"judge": {"engine": {"openai": {"url": server.url, "model": "judge", "cache": True}}}})


def engine(server: Endpoint) -> Plugin:
    return Plugin(name="openai", args={"url": server.url, "model": "ours", "base": "theirs", "cache": True})


def test_win_rates_and_two_turns_are_tasks_like_others(run: Run, server: Endpoint, capsys: pytest.CaptureFixture[str]):
    won, alpaca, turns = verbs.evaluate(run)
    rate = won.headline
    assert rate.scorer == "win rate against base"
    assert rate.systems["base"].value == 0.5 and rate.systems["tuned"].value == pytest.approx(10.5 / 12)
    assert rate.difference["tuned"].value == pytest.approx(0.375) and rate.difference["tuned"].p is not None
    assert any("tuned is better (9 to 0, p 0.004)" in line for line in won.remarks)
    assert alpaca.headline.scorer == "win rate against answers at equal lengths"
    raw = alpaca.scores[1]
    assert raw.systems["tuned"].value == 0.5 and raw.systems["base"].value == pytest.approx(1.5 / 12)
    assert turns.headline.systems["tuned"].value == pytest.approx(9)
    assert turns.headline.systems["base"].value == pytest.approx((3 * 9 + 3 * 3) / 6)
    assert [score.scorer for score in turns.scores] == ["points of 10", "first turn", "second turn"]
    kinds = {part.name: part.values for part in turns.parts}
    assert set(kinds) == set("abc") and kinds["a"] == pytest.approx({"base": 6, "tuned": 9})
    asked = [body["messages"][-1]["content"] for _, body in server.asked if body["model"] == "judge"]
    assert sum("it is zero" in one for one in asked) == 2 and sum("it is nought" in one for one in asked) == 2
    later = [
        body for _, body in server.asked if body["model"] == "ours" and "second 4" in body["messages"][-1]["content"]
    ]
    assert [turn["content"] for turn in later[0]["messages"][:2]] == ["first 4", "a good answer to 4"]
    assert run.read_json(run.summary_path)["scores"]["win_rate"]["remarks"]
    assert "tuned is better" in " ".join(capsys.readouterr().out.split())


def test_an_arena_asks_once_and_rates_all(run: Run, server: Endpoint, tmp_path: Path):
    rows = run.folder.parent / "rows.json"
    names = [str(run.folder), "base", str(rows)]
    board = verbs.arena(names, str(rows), judge(server), tmp_path / "arena", engine=engine(server))
    assert board.anchor == "base" and list(board.ratings)[-1] == "base"
    assert board.ratings["base"].elo.value == 0 and board.ratings["base"].share == pytest.approx(1.5 / 12)
    ours, file = board.ratings[str(run.folder)], board.ratings[str(rows)]
    assert ours.elo.value == pytest.approx(file.elo.value) and ours.elo.value > 200
    assert board.pairs[str(run.folder), "base"].winner == str(run.folder)
    assert board.pairs[str(run.folder), str(rows)].rate.value == 0.5 and board.bias.unusable is None
    table = json.loads((tmp_path / "arena/arena.json").read_text())
    assert table["prompts"] == 12 and len(table["pairs"]) == 3 and "questions" in table["cost"]
    assert len((tmp_path / "arena/bouts.jsonl").read_text().splitlines()) == 36
    asked = len(server.asked)
    asking.forget()
    again = verbs.arena(names, str(rows), judge(server), tmp_path / "again", engine=engine(server))
    assert len(server.asked) == asked and again.as_json()["ratings"] == board.as_json()["ratings"]
    answers = next((tmp_path / "arena/answers").glob("*run.jsonl"))
    assert [text for _, text in written(str(answers))] == [f"a good answer to {n}" for n in range(12)]
    swiss = verbs.arena(names, str(rows), judge(server), tmp_path / "s", rounds=2, engine=engine(server))
    assert len(swiss.pairs) == 2 and len(server.asked) == asked
    with pytest.raises(LuthierError, match="takes two models"):
        verbs.arena([names[0]], str(rows), judge(server), tmp_path / "x", engine=engine(server))


def test_two_models_are_judged_in_one_line(run: Run, server: Endpoint, tmp_path: Path, capsys: Any):
    rows = str(run.folder.parent / "rows.json")
    verbs.judge([rows, rows.replace("rows.json", "./rows.json")], rows, judge(server), tmp_path / "j")
    told = " ".join(capsys.readouterr().out.split())
    assert "wins 50.0%" in told and "no difference is shown (0 to 0" in told
    with pytest.raises(LuthierError, match="1 models are named"):
        verbs.judge([rows], rows, judge(server), tmp_path / "j")


def test_people_judge_what_was_dealt(run: Run, server: Endpoint, tmp_path: Path, capsys: Any):
    rows = str(run.folder.parent / "rows.json")
    folder = verbs.blind([str(run.folder), "base"], rows, tmp_path / "b", rows=8, sheets=1, engine=engine(server))
    blind = Blind(folder)
    assert len(blind.items) == 8 and (folder / "sheets/rater-1.csv").is_file()
    for name, item in blind.items.items():
        blind.say("ann", name, "x" if "good" in item.x and "bad" in item.y else "y" if "bad" in item.x else "tie")
    found = verbs.unseal(folder)
    (pair,) = found.pairs
    winner = pair.one if pair.wins else pair.other
    assert winner == str(run.folder) and pair.wins + pair.losses >= 5
    assert json.loads((folder / "opened.json").read_text())["raters"] == {"ann": 8}
    assert verbs.blind([], None, folder) == folder
    with pytest.raises(LuthierError, match="one model cannot be compared"):
        verbs.blind(["base"], rows, tmp_path / "c")
    assert "194" in capsys.readouterr().out


def test_a_judge_is_held_against_people(server: Endpoint, tmp_path: Path):
    rows = [
        {
            "prompt": f"p{n}",
            "chosen": f"{'good' if n % 4 else 'bad'} {n}",
            "rejected": f"{'bad' if n % 4 else 'good'} -{n}",
        }
        for n in range(20)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = verbs.agrees(str(tmp_path / "pairs.jsonl"), judge(server))
    assert found.rows == 20 and found.right is not None and found.right.value == 0.75
    assert found.agreement is not None and found.agreement.kappa is not None
    assert 0.2 < found.agreement.kappa.value < 0.8 and found.bias.unusable is None
    (tmp_path / "plain.jsonl").write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    with pytest.raises(LuthierError, match="liked better"):
        verbs.agrees(str(tmp_path / "plain.jsonl"), judge(server))


def test_who_is_not_there_is_named(run: Run, tmp_path: Path):
    with pytest.raises(LuthierError, match="no run is named"):
        contestants(["base"])
    with pytest.raises(LuthierError, match="named twice"):
        contestants(["a", "a"])
    (few := tmp_path / "few.json").write_text(json.dumps([{"instruction": PROMPTS[0], "output": "yes"}]))
    rows = str(run.folder.parent / "rows.json")
    with pytest.raises(LuthierError, match="11 of 12 prompts have no answer in this file"):
        verbs.arena([str(few), rows], rows, "{contains: {}}", tmp_path / "x")
    with pytest.raises(LuthierError, match="names no judge"):
        verbs.arena([rows, str(few)], rows, "[1, 2]", tmp_path / "x")
