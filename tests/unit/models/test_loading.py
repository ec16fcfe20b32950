"""Loading, freezing, opening what a run trained, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import full_disk, tiny_llama, write_gguf
from transformers import AutoModelForCausalLM

from luthier import cache
from luthier.errors import LuthierError
from luthier.models import Policy, fetch, load, merge, open_run, save
from luthier.models.loading.digest import weights_digest
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    write_gguf(tiny_llama(), place / "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(place / "cache"))
        shutil.copytree(fetch(Model(name=str(place / "tiny.gguf"))).folder, place / "model")
    return place / "model"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def opened(folder: Path, *adapt: tuple[str, dict[str, Any]]) -> Policy:
    plugins = [Plugin(name=name, args=args) for name, args in adapt]
    return load(Model(name=str(folder), dtype="fp32"), plugins, device="cpu")


def trainable(policy: Policy) -> set[str]:
    return {name.removesuffix(".weight") for name, _ in policy.trainable()}


BLOCK = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
    "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
}  # fmt: skip


def block(number: int) -> set[str]:
    return {f"model.layers.{number}.{name}" for name in BLOCK}


@pytest.mark.parametrize(
    ("keys", "trains"),
    [
        ({"bottom": 1}, block(1) | {"model.norm"}),
        ({"bottom": 0.5}, block(1) | {"model.norm"}),
        ({"bottom": 1, "embeddings": False}, block(1) | {"model.norm", "model.embed_tokens"}),
        ({"embeddings": True}, block(0) | block(1) | {"model.norm"}),
        ({"last": 1}, block(1) | {"model.norm"}),
    ],
)
def test_freezing_leaves_the_rest_to_train(folder: Path, keys: dict[str, Any], trains: set[str]) -> None:
    assert trainable(opened(folder, ("freeze", keys))) == trains


def test_lora_goes_only_where_nothing_is_frozen(folder: Path) -> None:
    policy = opened(folder, ("lora", {"r": 2, "targets": ["q_proj", "v_proj"]}), ("freeze", {"bottom": 1}))
    layers = {name.split(".lora_")[0] for name, _ in policy.trainable()}
    assert layers == {f"base_model.model.model.layers.1.self_attn.{name}_proj" for name in "qv"}


def test_lora_goes_where_an_expression_matches(folder: Path) -> None:
    policy = opened(folder, ("lora", {"r": 2, "targets": r".*layers\.0\.mlp.*"}))
    assert len(policy.trainable()) == 2 * 3
    assert all(".layers.0.mlp." in name for name, _ in policy.trainable())


@pytest.mark.parametrize(
    ("adapt", "complaint"),
    [
        ([("freeze", {})], "nothing to freeze"),
        ([("freeze", {"bottom": 3})], "only 2 blocks"),
        ([("freeze", {"last": 3})], "only 2 blocks"),
        ([("freeze", {"bottom": 1, "last": 1})], "either `bottom` or `last`"),
        ([("freeze", {"bottom": 2}), ("lora", {})], "lora targets is frozen"),
        ([("full", {}), ("lora", {})], "composes with no other"),
        ([("lora", {}), ("lora", {})], "one adapter"),
        ([("lora", {"targets": ["q_prj"]})], "did you mean 'q_proj'"),
        ([("lora", {"targets": "q_proj"})], "no linear layer's name matches"),
        ([("lora", {"rank": 8})], "no key 'rank'"),
        ([("lora", {"r": 0})], "greater than 0"),
        ([("lorra", {})], "did you mean 'lora'"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, adapt: list[Any], complaint: str) -> None:
    with pytest.raises(LuthierError, match=complaint):
        opened(folder, *adapt)


def trained(folder: Path, place: Path) -> Run:
    run, policy = Run(place), opened(folder, ("lora", {"r": 2}))
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.normal_()
    save(policy, run)
    return run


def test_an_adapter_refuses_another_base(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    run = trained(base, tmp_path / "run")
    assert open_run(run).has_adapter
    other = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        other.model.norm.weight += 0.5
    other.save_pretrained(base)
    with pytest.raises(LuthierError, match="not the one that was trained on"):
        open_run(run)


def test_an_adapter_of_another_shape_is_refused_even_with_the_right_name(folder: Path, tmp_path: Path) -> None:
    run = trained(folder, tmp_path / "run")
    path = run.adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 4}))
    with pytest.raises(LuthierError, match="does not fit the base"):
        open_run(run)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 2, "target_modules": ["q_proj", "embed_tokens"]}))
    with pytest.raises(LuthierError, match=r"incomplete|does not fit"):
        open_run(run)


def test_a_run_without_a_result_says_so(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="holds no trained model yet"):
        open_run(Run(tmp_path))


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file of a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_can_be_trained_further_and_stays_as_it_was(folder: Path, tmp_path: Path) -> None:
    run = trained(folder, tmp_path / "run")
    run.recipe_path.write_text("model: x\n")
    run.merged.mkdir()
    (run.merged / "model.safetensors").write_bytes(b"an export of the user's own")
    before = everything(run.folder)
    fetched = fetch(Model(name=str(run.folder)))
    assert fetched.folder.parent == cache.root() / "merged" and Path(fetched.reference) == fetched.folder
    ids = torch.arange(3, 20)[None]
    plain = AutoModelForCausalLM.from_pretrained(fetched.folder)
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, open_run(run).module(ids).logits, atol=1e-4)
    merged = everything(fetched.folder)
    assert fetch(Model(name=str(run.folder))).folder == fetched.folder
    assert everything(fetched.folder) == merged, "merged again without need"
    assert everything(run.folder) == before, "an earlier run was written to"


def test_a_run_that_was_trained_anew_is_another_model_to_train_on(folder: Path, tmp_path: Path) -> None:
    run, ids = trained(folder, tmp_path / "run"), torch.arange(3, 20)[None]
    run.recipe_path.write_text("model: x\n")
    first = fetch(Model(name=str(run.folder))).folder
    trained(folder, tmp_path / "run")
    second = fetch(Model(name=str(run.folder))).folder
    assert first != second and first.is_dir(), "what was trained on the first one still needs it"
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(each)(ids).logits for each in (first, second)]
    assert not torch.allclose(*logits, atol=1e-2)


def test_an_adapter_that_does_not_merge_is_no_model_and_the_error_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    save(load(Model(name=str(folder)), [Plugin(name="prefix")]), run)
    run.recipe_path.write_text("model: x\n")
    with pytest.raises(LuthierError, match="cannot be a model to train on: `prefix` cannot be merged") as caught:
        fetch(Model(name=str(run.folder)))
    assert caught.value.where == "model" and str(run.folder) in caught.value.what and "adapt: lora" in str(caught.value)
    assert not list((cache.root() / "merged").glob("*"))


def test_a_base_that_moved_with_its_run_is_found_by_its_weights(folder: Path, tmp_path: Path) -> None:
    project, moved = tmp_path / "project", tmp_path / "moved"
    shutil.copytree(folder, project / "bases/tiny")
    trained(project / "bases/tiny", project / "runs/one")
    project.rename(moved)
    assert open_run(Run(moved / "runs/one")).folder == (moved / "bases/tiny").resolve()
    shutil.rmtree(moved / "bases")
    with pytest.raises(
        LuthierError, match="the base model that was trained on cannot be opened: no such model"
    ) as caught:
        open_run(Run(moved / "runs/one"))
    assert str(project / "bases/tiny") in str(caught.value.fix)
    shutil.copytree(folder, moved / "bases/tiny")
    with torch.no_grad():
        other = AutoModelForCausalLM.from_pretrained(folder)
        other.model.norm.weight += 0.5
    other.save_pretrained(moved / "bases/tiny")
    with pytest.raises(LuthierError, match="not the one that was trained on"):
        open_run(Run(moved / "runs/one"))


def test_merged_in_memory_gives_the_adapters_logits(folder: Path, tmp_path: Path) -> None:
    run, ids = trained(folder, tmp_path / "run"), torch.arange(3, 20)[None]
    merged = open_run(run, merged=True)
    assert not merged.has_adapter
    with torch.no_grad():
        assert torch.allclose(merged.module(ids).logits, open_run(run).module(ids).logits, atol=1e-4)


def test_the_digest_is_of_the_tensors_not_of_the_files(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    digest = weights_digest(tmp_path / "one")
    assert digest == weights_digest(tmp_path / "many") == weights_digest(folder)
    with torch.no_grad():
        model.model.norm.weight[3] += 0.125
    model.save_pretrained(tmp_path / "one")
    assert weights_digest(tmp_path / "one") != digest


def test_a_folder_without_a_language_model_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "no-such-thing"}))
    with pytest.raises(LuthierError, match="cannot load"):
        load(Model(name=str(tmp_path / "model")))
    shutil.copy(folder / "config.json", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{broken")
    with pytest.raises(LuthierError, match="cannot load the tokenizer"):
        load(Model(name=str(tmp_path / "model")))


def test_no_space_left_is_one_clear_error_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size > 20_000
    policy, run = opened(folder, ("lora", {"r": 16})), Run(tmp_path / "run")
    with full_disk(), pytest.raises(LuthierError, match="no space left on the disk while writing the merged model"):
        merge(policy, tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []
    with full_disk(), pytest.raises(LuthierError, match="no space left on the disk while writing the adapter"):
        save(policy, run)
    assert list(run.folder.iterdir()) == []


def test_a_failed_save_keeps_what_was_there(folder: Path, tmp_path: Path) -> None:
    run = trained(folder, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.adapter.iterdir()}
    with full_disk(), pytest.raises(LuthierError, match="no space left"):
        save(opened(folder, ("lora", {"r": 16})), run)
    assert {path.name: path.read_bytes() for path in run.adapter.iterdir()} == before
    assert [path.name for path in run.folder.iterdir()] == ["adapter"]
