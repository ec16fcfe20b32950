"""A run scored, and talked to, by an engine with weights of its own."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import tiny
from endpoints import Answer, Endpoint, endpoint, said
from rich.console import Console
from tiny_tokenizers import CHATML, letters

from luthier import models, verbs
from luthier.data import Template
from luthier.engines import ENGINES
from luthier.errors import LuthierError
from luthier.models.loading import on_disk
from luthier.recipe import Model, Plugin, loads, lock, resolve
from luthier.run import Run
from luthier.serve import Chat, Elsewhere
from luthier.types import Sampling
from luthier.workflow import scoring
from luthier.workflow.job import Job
from luthier.workflow.registries import REGISTRIES

ANSWERS = {"1+1?": "2", "2+2?": "4", "3+3?": "6"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has trained an adapter; the tasks of its recipe have known answers."""
    folder = tmp_path_factory.mktemp("run")
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    tiny.model(vocab_size=len(tokenizer), num_hidden_layers=1).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": question, "completion": answer} for question, answer in ANSWERS.items()]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = loads(
        f"model: {{name: {folder}/model, dtype: fp32}}\ndata: {folder}/held.jsonl\noutput: {folder}/run\n"
        f"evaluate: {{data: {folder}/held.jsonl, scorers: [exact_match]}}"
    )
    found = Run(folder / "run")
    policy = models.load(Model(name=str(folder / "model"), dtype="fp32"), [Plugin(name="lora", args={"r": 2})])
    found.folder.mkdir()
    found.recipe_path.write_text(lock(resolve(recipe, REGISTRIES).recipe))
    models.save(policy, found)
    return found


def answer(_: str, body: dict[str, Any]) -> Answer:
    right = ANSWERS[body["messages"][-1]["content"]]
    drawn = body.get("seed", 0) % 2 == 0
    return said(right if body["model"] == "ours" and drawn else "no idea")


def keys(found: Endpoint, **more: str) -> list[str]:
    given = {"url": found.url, "model": "ours", **more}
    return [f"engine.openai.{key}={value}" for key, value in given.items()]


def test_the_tasks_of_a_run_are_answered_by_an_endpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("luthier.models.open_run", lambda *_, **__: pytest.fail("weights were loaded"))
    with endpoint(answer) as found:
        (comparison,) = verbs.evaluate(run, keys(found, base="theirs"))
    systems = comparison.headline.systems
    assert (systems["base"].value, systems["tuned"].value) == (0.0, 1.0)
    assert {body["model"] for _, body in found.asked} == {"ours", "theirs"} and len(found.asked) == 6
    assert f"url: {found.url}" in run.recipe_path.read_text(), "the scores say who gave the answers"
    said = " ".join(capsys.readouterr().err.split())
    assert "engine: the run keeps what was given here" in said and "evaluate: the run keeps" not in said


def test_the_best_of_several_answers_of_an_endpoint(run: Run) -> None:
    more = ["evaluate.0.best_of=8", "evaluate.0.temperature=1", "evaluate.0.by=exact_match", "evaluate.0.base=false"]
    with endpoint(answer) as found:
        (comparison,) = verbs.evaluate(run, [*keys(found), *more])
    assert comparison.headline.systems["tuned"].value == 1.0 and len(found.asked) == 24
    assert len({body["seed"] for _, body in found.asked}) == 24


def test_what_an_endpoint_cannot_score_is_refused_before_any_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*overrides: str) -> None:
        url = ["engine.openai.url=http://127.0.0.1:1/v1", "engine.openai.model=ours"]
        recipe = resolve(
            loads(run.recipe_path.read_text(), ["engine=local", "evaluate.0.base=true", *url, *overrides]), REGISTRIES
        ).recipe
        scoring.check(Job(recipe), recipe.evaluate)

    check("evaluate.0.base=false")
    with pytest.raises(LuthierError, match="nothing says what the endpoint calls it"):
        check()
    with pytest.raises(LuthierError, match="reads how likely a given text is, and `engine: openai` does not tell it"):
        check("evaluate.0.base=false", "evaluate.0.scorers=[exact_match, perplexity]")
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(LuthierError, match="A_KEY, which holds the key"):
        check("evaluate.0.base=false", "engine.openai.key_env=A_KEY")


def test_scores_of_another_engine_are_made_anew(run: Run) -> None:
    from luthier.workflow import resume_check

    run.summary_path.write_text(json.dumps({"scores": {"held-out": {}}}))
    local = resolve(loads(run.recipe_path.read_text(), ["engine=local"]), REGISTRIES).recipe
    run.recipe_path.write_text(lock(local))
    assert not resume_check.held(run, local).unscored
    other = ["engine.openai.url=http://127.0.0.1:1/v1", "engine.openai.model=m"]
    assert resume_check.held(run, resolve(loads(lock(local), other), REGISTRIES).recipe).unscored


def test_a_run_as_its_files(run: Run) -> None:
    tuned = on_disk.of_run(run)
    base = on_disk.of_base(run)
    assert tuned.adapter == run.adapter.resolve() and tuned.folder == base.folder == (run.folder.parent / "model")
    assert base.is_base and not tuned.is_base and tuned.digest.startswith(base.digest) and tuned.digest != base.digest
    with pytest.raises(LuthierError, match="no trained model yet"):
        on_disk.of_run(Run(run.folder / "none"))


def test_a_conversation_with_an_endpoint(run: Run) -> None:
    def stream(_: str, body: dict[str, Any]) -> Answer:
        words = f"you said {body['messages'][-1]['content']}".split()
        parts = [{"choices": [{"delta": {"content": f"{word} "}}]} for word in words]
        return 200, {}, b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts)

    disk, out = on_disk.of_run(run), io.StringIO()
    template = Template(disk.tokenizer)
    with endpoint(stream) as found:
        engine = ENGINES.build("openai", {"url": found.url, "model": "ours"}).open(disk, template.stop_ids)
        talk = Chat(
            Elsewhere(engine, "ours"), template, Console(file=out, width=80), sampling=Sampling(), system="brief"
        )
        talk.hear("hello")
        talk.hear("again")
        talk.hear("/base")
    assert (
        out.getvalue().startswith("you said hello \nyou said again \n") and "no adapter to switch off" in out.getvalue()
    )
    last = [(m["role"], m["content"]) for m in found.asked[-1][1]["messages"]]
    assert last == [("system", "brief"), ("user", "hello"), ("assistant", "you said hello "), ("user", "again")]
