"""Model folders and files that are damaged, incomplete or of two minds: a sentence says so; never another model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_gguf import tiny_llama, write_gguf

from luthier.errors import LuthierError
from luthier.models import fetch, load
from luthier.recipe.schema import Model, Plugin

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    tiny.folder(folder / "model")
    write_gguf(tiny_llama(), folder / "whole.gguf")
    return folder


def cut(name: str, share: float, least: int = 0) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: max(least, int(share * len(whole)))])

    return edit


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def configured(**keys: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return edit


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def but(*kept: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for path in folder.iterdir() if path.name not in kept] and None


def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "an empty folder": (but(), "not a model folder"),
    "a configuration only": (but("config.json"), "lacks weights"),
    "no weights": (without(WEIGHTS), "lacks weights"),
    "weights without a byte": (cut(WEIGHTS, 0), "damaged or cut short"),
    "four bytes of weights": (cut(WEIGHTS, 0, 4), "damaged or cut short"),
    "weights cut in their header": (cut(WEIGHTS, 0, 100), "damaged or cut short"),
    "half of the weights": (cut(WEIGHTS, 0.5), "damaged or cut short"),
    "all but the last weights": (cut(WEIGHTS, 0.9999), "damaged or cut short"),
    "a pointer of Git LFS": (text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), "damaged or cut short"),
    "an index of nothing": (text(f"{WEIGHTS}.index.json", "{}"), "lacks weights"),
    "an index that is broken": (text(f"{WEIGHTS}.index.json", "{"), "lacks weights"),
    "a tensor missing": (
        tensors(lambda w: {k: t for k, t in w.items() if "up_proj" not in k}),
        "lack 2 of its weights",
    ),
    "other tensors": (tensors(lambda _: {"x": torch.zeros(2)}), "lack 21 of its weights"),
    "more layers than weights": (configured(num_hidden_layers=3), "lack 9 of its weights"),
    "other sizes": (configured(vocab_size=10), "of other sizes than its configuration says"),
    "another kind": (configured(model_type="bert"), "lack .* of its weights"),
    "an unknown kind": (configured(model_type="nope"), "does not recognize"),
    "no language model": (configured(model_type="t5"), "cannot load the model"),
    "sizes that are no numbers": (configured(hidden_size="big"), "configuration makes no sense: .*hidden_size"),
    "heads that do not divide": (configured(num_attention_heads=0), "configuration makes no sense"),
    "a broken configuration": (text("config.json", "{"), r"cannot read the model's config\.json"),
    "a list for a configuration": (
        text("config.json", "[1]"),
        r"cannot read the model's config\.json: it is no object",
    ),
    "broken settings": (text("generation_config.json", "{"), r"cannot read the model's generation_config\.json"),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer"),
    "half of the tokenizer": (cut("tokenizer.json", 0.5), "cannot load the tokenizer"),
    "an empty tokenizer": (text("tokenizer.json", "{}"), "cannot load the tokenizer"),
    "a list for the tokenizer's settings": (text("tokenizer_config.json", "[]"), "cannot load the tokenizer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_told_in_a_sentence(good: Path, tmp_path: Path, name: str) -> None:
    edit, says = HOSTILE[name]
    shutil.copytree(good / "model", tmp_path / "model")
    edit(tmp_path / "model")
    with pytest.raises(LuthierError, match=says):
        load(Model(name=str(tmp_path / "model")), train=False, device="cpu")


@pytest.mark.parametrize("share", [0, 0.002, 0.01, 0.3, 0.9, 0.9999])
def test_so_is_a_gguf_file_that_was_cut_short(good: Path, tmp_path: Path, share: float) -> None:
    whole = (good / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(LuthierError, match=r"not a GGUF file|GGUF file cannot be read: .{5,}"):
        fetch(Model(name=str(tmp_path / "cut.gguf")))


def test_weights_that_belong_to_no_part_are_told(good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(good / "model", tmp_path / "model")
    configured(num_hidden_layers=1)(tmp_path / "model")
    load(Model(name=str(tmp_path / "model")), train=False, device="cpu")
    assert "9 tensors of its files are no part of this model, for instance model.layers.1." in capfd.readouterr().err


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_folder_of_any_family_lacks_nothing(tmp_path: Path, family: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(tiny.config(family, tie_word_embeddings=tied))
    policy = load(tiny.folder(tmp_path / "model", module), train=False, device="cpu")
    head = policy.module.get_output_embeddings().weight
    assert (head is policy.module.get_input_embeddings().weight) is tied


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_so_does_one_that_is_read_in_few_bits(tmp_path: Path, quantize: str) -> None:
    pytest.importorskip("bitsandbytes")
    base = tiny.folder(tmp_path / "model", **tiny.WHOLE_BLOCKS)
    assert load(base, [Plugin(name="lora")], device="cpu", quantize=Plugin(name=quantize)).quantized == quantize
