"""Many adapters over one base in one step of decoding: each is PEFT's own, and to the bit what it is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paged
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from luthier.errors import LuthierError
from luthier.models.blocks.kernels import decode
from luthier.models.decode import adapters
from luthier.models.decode.compiled import PLAIN, CompiledReader
from luthier.models.decode.step import OWN, Run
from luthier.models.decode.weights import Lora

pytestmark = pytest.mark.skipif(decode.library() is None, reason="no C compiler")
IDS = paged.tokens(21)
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
PATTERNS: dict[str, Any] = {"rank_pattern": {"q_proj": 3, "1.mlp.down_proj": 19}, "alpha_pattern": {"q_proj": 5}}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all, rank 4": {},
    "some, rank 17": {"r": 17, "target_modules": ["k_proj", "o_proj", "up_proj"]},
    "head, rank 1": {"r": 1, "target_modules": ["lm_head", "v_proj"]},
    "patterns": {**PATTERNS, "r": 8},
    "rank-stabilised": {"use_rslora": True, "r": 16},
}


def saved(module: Any) -> tuple[dict[str, Tensor], dict[str, Any], Any]:
    """What PEFT would save of its adapter, and the model."""
    return get_peft_model_state_dict(module), module.peft_config["default"].to_dict(), module


def made(name: str, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    return paged.adapted(paged.model("llama", dtype, tie_word_embeddings=False), seed, **ADAPTERS[name])


def exact(module: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = module.double()(torch.tensor([IDS])).logits[0]
    return logits


# alone
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_pefts_own(name: str) -> None:
    """The model's live one, and the same loaded over the plain base."""
    module = made(name, 3)
    live = paged.read(paged.reader(module), IDS, 0, (4, 1))
    reader = paged.reader(paged.model("llama", tie_word_embeddings=False))
    number = reader.load(adapters.plain(*saved(module)))
    loaded = paged.read(reader, IDS, 0, (4, 1), number)
    assert torch.equal(live, loaded)
    ends = [end - 1 for _, end in paged.cut(len(IDS), (4, 1))]
    with torch.no_grad():
        theirs = module(torch.tensor([IDS])).logits[0, ends]
    assert (live - theirs).abs().max() < 1e-5 * theirs.abs().max()
    true = exact(module)[ends]
    assert (live - true).abs().mean() < 1.2 * (theirs - true).abs().mean()
    base = paged.read(reader, IDS, 0, (4, 1), PLAIN)
    assert (live - base).abs().max() > 0.1, "it says something else than the base"


def test_an_adapter_in_bf16_rounds_as_the_training_blocks_do() -> None:
    from test_compiled_decode import _batch

    from luthier.forward.forward import Forward

    module = made("rank-stabilised", 3, torch.bfloat16)
    mine = paged.read(paged.reader(module), IDS, 0)
    with torch.no_grad(), Forward(module).opened() as forward:
        fused = forward.head.logits(forward.hidden(_batch(IDS))).float()  # type: ignore[union-attr]
    true = exact(module)
    error, theirs = (mine - true).abs().mean(), (fused - true).abs().mean()
    assert error < 1.3 * theirs and (mine - fused).abs().mean() < 1.3 * theirs


def test_training_an_adapter_is_seen_at_once_and_switching_it_off_on_refresh() -> None:
    module = made("all, rank 4", 1)
    reader = paged.reader(module)
    before = paged.read(reader, IDS, 0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_B" in name:
                weight.mul_(-1)
    after = paged.read(reader, IDS, 0)
    assert not torch.equal(before, after)
    plain = paged.read(reader, IDS, 0, adapter=PLAIN)
    with module.disable_adapter():
        reader.refresh()
        assert torch.equal(paged.read(reader, IDS, 0), plain)
    reader.refresh()
    assert torch.equal(paged.read(reader, IDS, 0), after)


def test_dropout_of_an_adapter_is_none_in_reading() -> None:
    module = made("all, rank 4", 1)
    kept = paged.read(paged.reader(module), IDS, 0)
    for part in module.modules():
        if "lora_dropout" in part._modules:
            part.lora_dropout["default"] = torch.nn.Dropout(0.5)
    module.train()
    assert torch.equal(paged.read(paged.reader(module), IDS, 0), kept)


# together
def crowd(reader: CompiledReader, numbers: list[int], dtype: torch.dtype) -> list[Run]:
    """Runs of unlike lengths, the adapters by turns; the first tokens of each have been read before."""
    runs = []
    for row in range(2 * len(numbers) + 1):
        ids, number = paged.tokens(5 + 3 * row, row), numbers[row % len(numbers)]
        read = row % 4
        if read:
            reader.read([Run(ids[:read], 0, [3 * row], False, number)])
        runs.append(Run(ids[read:], read, range(3 * row, 3 * row + 3), True, number))
    return runs


@both
@pytest.mark.parametrize("threads", [1, 2])
def test_adapters_of_any_rank_and_none_go_together_each_as_alone(dtype: torch.dtype, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    reader = paged.reader(made("all, rank 4", 1, dtype))
    numbers = [reader.load(adapters.plain(*saved(made(name, seed, dtype)))) for seed, name in enumerate(ADAPTERS)]
    runs = crowd(reader, [OWN, PLAIN, *numbers], dtype)
    together = reader.read(runs)
    alone = torch.cat([reader.read([run]) for run in runs])
    torch.set_num_threads(before)
    assert torch.equal(together, alone)


@both
def test_a_row_without_an_adapter_is_the_base_to_the_bit(dtype: torch.dtype) -> None:
    base = paged.reader(paged.model("qwen2", dtype))
    reader = paged.reader(paged.adapted(paged.model("qwen2", dtype), r=7))
    plain = paged.read(base, IDS, 0)
    assert torch.equal(paged.read(reader, IDS, 0, adapter=PLAIN), plain)
    runs = [Run(IDS, 0, [8, 9], True, PLAIN), Run(IDS, 0, [10, 11], True, OWN)]
    assert torch.equal(reader.read(runs)[0], plain[-1])
    assert torch.equal(paged.read(base, IDS, 0, adapter=PLAIN), paged.read(base, IDS, 0, adapter=OWN))


def test_an_adapter_whose_b_is_zero_is_the_base_to_the_bit() -> None:
    reader = paged.reader(paged.model("llama"))
    module = paged.adapted(paged.model("llama"), init_lora_weights=True)
    number = reader.load(adapters.plain(*saved(module)))
    assert torch.equal(paged.read(reader, IDS, 0, adapter=number), paged.read(reader, IDS, 0))


# coming and going
def test_adapters_come_and_go() -> None:
    reader = paged.reader(paged.model("llama"))
    weights = [adapters.plain(*saved(paged.adapted(paged.model("llama"), seed))) for seed in (1, 2)]
    first, second = map(reader.load, weights)
    kept = paged.read(reader, IDS, 0, adapter=second)
    for lora in weights[1].values():
        lora.up.zero_()  # what was loaded is a copy
    reader.unload(first)
    assert torch.equal(paged.read(reader, IDS, 0, adapter=second), kept)
    with pytest.raises(ValueError, match="names adapter 0, which is not loaded"):
        reader.read([Run(IDS, 0, [0, 1], True, first)])
    with pytest.raises(ValueError, match="there is no adapter 0"):
        reader.unload(first)
    assert reader.load(weights[0]) not in (first, second), "numbers are not given twice"


def test_a_folder_of_pefts_is_read(tmp_path: Path) -> None:
    module = made("patterns", 2)
    module.peft_config["default"].base_model_name_or_path = "tiny"
    module.save_pretrained(tmp_path)
    found = adapters.read(tmp_path, module)
    assert {path: lora.scale for path, lora in found.items() if "layers.1" in path} == {
        "model.layers.1.self_attn.q_proj": 5 / 3,
        "model.layers.1.self_attn.k_proj": 1.0,
        "model.layers.1.self_attn.v_proj": 1.0,
        "model.layers.1.self_attn.o_proj": 1.0,
        "model.layers.1.mlp.gate_proj": 1.0,
        "model.layers.1.mlp.up_proj": 1.0,
        "model.layers.1.mlp.down_proj": 8 / 19,
    }
    assert found["model.layers.1.mlp.down_proj"].down.shape == (19, 112)


# what cannot be read beside others
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"use_dora": True}, "more than plain LoRA .use_dora: True"),
        ({"bias": "lora_only"}, "trains biases .bias: lora_only"),
        ({"modules_to_save": ["lm_head"]}, "more than plain LoRA .modules_to_save"),
        ({"lora_bias": True}, "more than plain LoRA .lora_bias"),
        ({"init_lora_weights": "pissa"}, "began by changing the base .init_lora_weights: pissa"),
        ({"trainable_token_indices": [1]}, "more than plain LoRA .trainable_token_indices"),
        ({"target_modules": ["embed_tokens"]}, "lora_embedding_A.* which is no A or B of a linear map"),
    ],
)
def test_more_than_plain_lora_is_refused(keys: dict[str, Any], says: str) -> None:
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **keys})
    module = get_peft_model(paged.model("llama"), config)
    with pytest.raises(LuthierError, match=says) as caught:
        adapters.plain(*saved(module), where="there")
    assert caught.value.where == "there" and caught.value.fix


def test_a_head_that_is_not_the_bases_is_refused() -> None:
    """PEFT saves the base's head with LoRA on it: an equal one says nothing, another one would be lost."""
    tensors, config, module = saved(made("head, rank 1", 1))
    name = "base_model.model.lm_head.base_layer.weight"
    assert set(adapters.plain(tensors, config, module)) >= {"lm_head"} and name in tensors
    with pytest.raises(LuthierError, match=r"lm_head\.base_layer\.weight .* no A or B"):
        adapters.plain({**tensors, name: tensors[name] + 1}, config, module)


def test_another_kind_of_adapter_is_refused() -> None:
    with pytest.raises(LuthierError, match="the adapter is PREFIX_TUNING, not LoRA"):
        adapters.plain({}, {"peft_type": "PREFIX_TUNING"}, paged.model("llama"))
    with pytest.raises(LuthierError, match="has no LoRA at all"):
        adapters.plain({}, {"peft_type": "LORA", "r": 8, "lora_alpha": 8}, paged.model("llama"))


def test_halves_and_other_ranks_are_refused() -> None:
    tensors, config, module = saved(made("all, rank 4", 1))
    with pytest.raises(LuthierError, match=r"says rank 5 of model\.layers\.0\..*, and has A \[4, "):
        adapters.plain(tensors, {**config, "r": 5}, module)
    lost = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    with pytest.raises(LuthierError, match=r"has only lora_A of model\.layers\.1\.mlp\.up_proj"):
        adapters.plain({name: tensor for name, tensor in tensors.items() if name != lost}, config, module)
    with pytest.raises(LuthierError, match="the adapter's lora_alpha is None"):
        adapters.plain(tensors, {**config, "lora_alpha": None}, module)


@pytest.mark.parametrize(
    ("path", "down", "up", "says"),
    [
        ("model.layers.9.mlp.up_proj", (2, 64), (112, 2), "model.layers.9.mlp.up_proj, which is no matrix"),
        ("model.layers.0.mlp.up_proj", (2, 112), (64, 2), r"\[2, 112\] and \[64, 2\], and the matrix is 112 x 64"),
        ("model.layers.0.mlp.up_proj", (2, 64), (112, 3), r"\[2, 64\] and \[112, 3\]"),
        ("model.layers.0.mlp.up_proj", (0, 64), (112, 0), r"\[0, 64\]"),
    ],
)
def test_an_adapter_of_another_model_is_refused(path: str, down: Any, up: Any, says: str) -> None:
    reader = paged.reader(paged.model("llama"))
    with pytest.raises(LuthierError, match=says):
        reader.load({path: Lora(torch.zeros(down), torch.zeros(up), 1.0)}, where="there")
