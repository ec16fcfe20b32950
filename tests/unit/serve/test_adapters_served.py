"""Runs and adapters: what is opened together, how adapters come and go, and which names open nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reward_runs
import torch
from safetensors.torch import load_file, save_file
from serving import HERMES, Served, byte_model, lora, serving

from luthier.errors import LuthierError
from luthier.models import Policy, load
from luthier.recipe import Model, Plugin, loads, lock
from luthier.run import Run
from luthier.serve.opening import open_all

ASKED: Any = [{"role": "user", "content": "hello"}]
KEYS = ("admin the-admin-key", "another-key-1")
ADMIN = {"authorization": "Bearer the-admin-key"}


def ask(served: Served, name: str, **body: Any) -> Any:
    asked = {"model": name, "messages": ASKED, "max_tokens": 12, "temperature": 0, **body}
    return served.post("/v1/chat/completions", asked, ADMIN)


def text(served: Served, name: str) -> str:
    answer = ask(served, name)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def trained(base: Path, seed: int, adapt: str = "lora") -> Policy:
    made = load(Model(name=str(base), dtype="fp32"), [Plugin(name=adapt)], device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.trainable():
            if "lora_B" in name or adapt != "lora":
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return made


def run(folder: Path, base: Path, seed: int, adapt: str = "lora") -> Path:
    """A run as training leaves it."""
    reward_runs.write_run(folder, trained(base, seed, adapt), base, objective="sft")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, another one, and runs on them."""
    folder = tmp_path_factory.mktemp("runs")
    byte_model(folder / "base", endless=True, context=4096)
    byte_model(folder / "other", seed=5)
    for name, seed in (("first", 1), ("second", 2)):
        run(folder / name, folder / "base", seed)
    run(folder / "elsewhere", folder / "other", 3)
    run(folder / "houlsby", folder / "base", 4, "houlsby")
    return folder


def test_runs_of_one_base_share_it(places: Path) -> None:
    from luthier.data import Template
    from luthier.engines import LocalEngine
    from luthier.models import open_run
    from luthier.run import Run
    from luthier.types import Sampling, Turn

    with serving([str(places / "first"), str(places / "second")]) as served:
        names = [one["id"] for one in served.get("/v1/models").json()["data"]]
        assert names == ["base", "first", "second"]
        heard = {name: text(served, name) for name in names}
        assert len(set(heard.values())) == 3
        for name in ("first", "second"):
            policy = open_run(Run.open(places / name), device="cpu")
            template = Template(policy.tokenizer)
            engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
            (own,) = engine.generate([template.prompt_ids([Turn("user", "hello")])], Sampling(max_new_tokens=12))
            assert heard[name] == own.text
        both = [served.house.worker.engine.load.running, served.idle()["luthier_adapters_loaded"]]
        assert both == [0, 2]


def test_one_run_is_who_answers_where_nobody_is_named(places: Path) -> None:
    with serving([str(places / "first")]) as served:
        body = {"messages": ASKED, "max_tokens": 3}
        assert served.post("/v1/chat/completions", body).json()["model"] == "first"
    with serving([str(places / "base"), str(places / "first")]) as served:
        assert served.house.names()[0][0] == "base" and text(served, "first") != text(served, "base")


@pytest.mark.parametrize(
    "given,message",
    [
        (["first", "elsewhere"], "trained on another base"),
        (["base", "other"], "two models with weights of their own"),
        (["first", "houlsby"], "cannot be served beside others"),
        (["other", "first"], "trained on another base"),
        (["first", "first"], "two runs are called 'first'"),
    ],
)
def test_what_does_not_go_together(places: Path, given: list[str], message: str) -> None:
    with pytest.raises(LuthierError, match=message) as error:
        open_all([str(places / name) for name in given])
    assert error.value.fix


def test_an_adapter_of_our_own_kind_is_served_by_itself(places: Path) -> None:
    with serving([str(places / "houlsby")]) as served:
        assert [one["id"] for one in served.get("/v1/models").json()["data"]] == ["houlsby"]
        assert text(served, "houlsby")


def test_a_model_that_was_trained_whole(places: Path, tmp_path: Path) -> None:
    made = load(Model(name=str(places / "base"), dtype="fp32"), [Plugin(name="full")], device="cpu")
    reward_runs.write_run(tmp_path / "whole", made, places / "base", objective="sft")
    with serving([str(tmp_path / "whole")]) as served:
        assert [one["id"] for one in served.get("/v1/models").json()["data"]] == ["whole"]
        assert text(served, "whole")


def test_the_system_message_of_a_runs_data(places: Path, tmp_path: Path) -> None:
    said: Any = {"role": "system", "content": "Say it in verse."}
    for name in ("first", "second", "houlsby"):
        shutil.copytree(places / name, tmp_path / name)
        path = Run(tmp_path / name).recipe_path
        recipe = loads(path.read_text(), name=str(path)).recipe
        path.write_text(lock(replace(recipe, data=(replace(recipe.data[0], system=said["content"]),))))

    def heard(served: Served, name: str, *before: Any) -> tuple[int, str]:
        answer = ask(served, name, messages=[*before, *ASKED]).json()
        return answer["usage"]["prompt_tokens"], answer["choices"][0]["message"]["content"]

    (tmp_path / "adapters").mkdir()
    (tmp_path / "second").rename(tmp_path / "adapters" / "second")
    for given, names in (([tmp_path / "first"], ("first", "second")), ([tmp_path / "houlsby"], ("houlsby",))):
        with serving([str(one) for one in given], tmp_path / "adapters") as served:
            for name in names:
                other = {**said, "content": "Be brief."}
                bare = heard(served, name, {**said, "content": ""})[0]
                assert heard(served, name) == heard(served, name, said)
                assert heard(served, name)[0] == bare + len(said["content"])
                for role in ("system", "developer"):  # the conversation's own stands
                    more = heard(served, name, {**other, "role": role})[0] - bare
                    assert more == len("Be brief.") + len(role) - len("system")
                for path, key in (("completions", "prompt"), ("embeddings", "input")):
                    answer = served.post(f"/v1/{path}", {"model": name, key: "abc"})
                    assert answer.json()["usage"]["prompt_tokens"] == len("abc")
            if "first" in names:
                assert heard(served, "base")[0] < bare, "the base has no data of its own"


def test_rewards(places: Path, tmp_path: Path) -> None:
    from luthier.scorers.reward_model import RewardModel

    made = reward_runs.policy(places / "base")
    reward_runs.write_run(tmp_path / "judge", made, places / "base")
    example = reward_runs.row("hello")
    wanted = RewardModel(str(tmp_path / "judge")).many([(example, reward_runs.said(one)) for one in ("yes", "no no")])
    with serving([str(tmp_path / "judge"), str(places / "first")]) as served:
        body = {"model": "judge", "messages": ASKED, "responses": ["yes", "no no"]}
        answer = served.post("/v1/score", body).json()
        assert [one["score"] for one in answer["data"]] == pytest.approx(wanted)
        last = {"messages": [*ASKED, {"role": "assistant", "content": "yes"}]}
        assert served.post("/v1/score", last).json()["data"][0]["score"] == pytest.approx(wanted[0])
        assert served.post("/v1/score", {"messages": ASKED}).status_code == 400
        assert served.post("/v1/score", {**body, "model": "first"}).status_code == 404
        assert served.post("/v1/score", {**body, "responses": ["x" * 5000]}).status_code == 400
        assert text(served, "first")
    with serving([str(tmp_path / "judge")]) as served:
        answer = ask(served, "judge")
        assert answer.status_code == 404 and "it scores answers" in answer.json()["error"]["message"]
        assert served.get("/health").status_code == 200 and served.get("/metrics").status_code == 200


# a folder of adapters
@pytest.fixture
def folder(places: Path, tmp_path: Path) -> Path:
    """A folder with two adapters in PEFT's format and a run."""
    module = load(Model(name=str(places / "base"), dtype="fp32"), train=False, device="cpu").module
    for name, seed in (("a", 1), ("b.2", 2)):
        lora(tmp_path / "adapters" / name, module, seed)
    shutil.copytree(places / "first", tmp_path / "adapters" / "first")
    return tmp_path / "adapters"


@pytest.fixture
def served(places: Path, folder: Path) -> Iterator[Served]:
    with serving([str(places / "base")], folder, KEYS, loaded=2) as made:
        made.http.headers.update(ADMIN)
        yield made


def test_they_come_when_asked_for_and_the_longest_unused_makes_room(served: Served, places: Path, folder: Path) -> None:
    assert [one["name"] for one in served.get("/v1/adapters").json()["data"]] == ["a", "b.2", "first"]
    module = load(Model(name=str(places / "base"), dtype="fp32"), train=False, device="cpu").module
    for seed in (1, 2, 3):
        lora(folder / f"alone-{seed}", module, seed, alone=True)
        assert served.post("/v1/adapters", {"name": f"alone-{seed}"}).status_code == 200
    names = ["base", *(one["name"] for one in served.get("/v1/adapters").json()["data"])]
    heard = {name: text(served, name) for name in names}
    assert len(set(heard.values())) == 7
    gauges = served.idle()
    assert gauges["luthier_adapters_loaded"] == 3 + 2, "those in the engine's own pool make no room"
    assert gauges["luthier_adapter_evictions_total"] > 0
    assert {name: text(served, name) for name in heard} == heard, "one that comes back is the same"


def test_loading_and_unloading_while_it_runs(served: Served, folder: Path, places: Path) -> None:
    module = load(Model(name=str(places / "base"), dtype="fp32"), train=False, device="cpu").module
    lora(folder / "new", module, 9)
    assert ask(served, "new").status_code == 404
    assert served.post("/v1/adapters", {"name": "new"}).json() == {"name": "new", "loaded": True}
    first = text(served, "new")
    assert served.post("/v1/adapters", {"name": "new"}).status_code == 409
    running = threading.Thread(target=lambda: done.append(ask(served, "new", max_tokens=300).json()))
    done: list[Any] = []
    running.start()
    served.until(lambda now: now["luthier_running"] == 1)
    assert served.http.delete(f"{served.url}/v1/adapters/new").status_code == 200
    assert ask(served, "new").status_code == 404
    shutil.rmtree(folder / "new")
    lora(folder / "new", module, 10)
    assert served.post("/v1/adapters", {"name": "new"}).status_code == 200, "the name is free at once"
    second = text(served, "new")
    running.join()
    assert done[0]["usage"]["completion_tokens"] == 300, "what it had begun ended as the former one"
    assert done[0]["choices"][0]["message"]["content"].startswith(first.rstrip("�")) and second != first
    served.idle()
    assert served.http.delete(f"{served.url}/v1/adapters/none").status_code == 404


def test_names_open_nothing_but_what_lies_in_the_folder(served: Served, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    shutil.copytree(folder / "a", secret)
    (folder / "out").symlink_to(secret)
    shutil.copytree(folder / "a", folder / "part")
    (folder / "part" / "adapter_model.safetensors").unlink()
    (folder / "part" / "adapter_model.safetensors").symlink_to(secret / "adapter_model.safetensors")
    for name in ("../secret", str(secret), "/etc", "..", ".", "", "a\0", "a/../../secret", "x" * 10_000, "out", "part"):
        answer = served.post("/v1/adapters", {"name": name})
        assert answer.status_code in (400, 404), (name[:40], answer.text)
        assert ask(served, name).status_code == 404 or not name
    assert served.post("/v1/adapters", {"name": "a", "path": "/etc"}).status_code == 400
    assert len(served.get("/v1/adapters").json()["data"]) == 3


def test_adapters_that_are_not_sound(served: Served, folder: Path, places: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(folder / "a", folder / name))

    pickled = copied("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    (copied("cut") / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    tensors = load_file(folder / "a" / "adapter_model.safetensors")
    save_file({k: v * float("nan") for k, v in tensors.items()}, copied("nan") / "adapter_model.safetensors")
    wide = {k: (v[:1].repeat(10_000, 1) if "lora_A" in k else v[:, :1].repeat(1, 10_000)) for k, v in tensors.items()}
    save_file(wide, copied("wide") / "adapter_model.safetensors")
    config = folder / "wide" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 10_000}))
    (copied("garbled") / "adapter_config.json").write_text("{")
    module = load(Model(name=str(places / "other"), dtype="fp32"), train=False, device="cpu").module
    wrong = lora(folder / "wrong", module, 1)
    tensors = load_file(wrong / "adapter_model.safetensors")
    save_file({k: v.repeat(1, 2) for k, v in tensors.items()}, wrong / "adapter_model.safetensors")
    shutil.copytree(places / "elsewhere", folder / "elsewhere")
    made = reward_runs.policy(places / "base")
    reward_runs.write_run(folder / "judge", made, places / "base")
    before = text(served, "base")
    for name, message in (
        ("elsewhere", "trained on another base"),
        ("judge", "scores answers"),
        ("pickled", "pickle"),
        ("cut", "damaged"),
        ("nan", "no finite number"),
        ("wide", "10000"),
        ("garbled", "no JSON"),
        ("wrong", "says rank 4"),
    ):
        answer = served.post("/v1/adapters", {"name": name})
        assert answer.status_code == 400 and message in answer.json()["error"]["message"], (name, answer.text)
        assert ask(served, name).status_code == 404, "it is not there"
    assert text(served, "base") == before and text(served, "a") != before


def test_the_template_is_that_of_training(served: Served, folder: Path) -> None:
    other = HERMES.replace("<|im_start|>assistant", "<|im_start|>poet")
    (folder / "a" / "chat_template.jinja").write_text(other)
    body = {"messages": ASKED, "max_tokens": 1}
    tokens = {name: ask(served, name, **body).json()["usage"]["prompt_tokens"] for name in ("base", "a")}
    assert tokens["base"] - tokens["a"] == len("assistant") - len("poet")


def test_a_folder_that_is_not_there(places: Path, tmp_path: Path) -> None:
    from luthier.serve.listening import house_of
    from luthier.serve.settings import Settings

    with pytest.raises(LuthierError, match="no such folder"):
        house_of([str(places / "base")], Settings(), tmp_path / "none")
