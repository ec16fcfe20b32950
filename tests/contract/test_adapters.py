"""Every adapter goes through the same checks; its declared abilities decide what must hold, never its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from luthier.errors import LuthierError
from luthier.models import ADAPTERS, EXPORTERS, Policy, load, merge, open_run, save
from luthier.models.adapters import Adapter, build
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run

VOCABULARY, WIDTH, DEPTH = 96, 32, 2


def plugin(name: str, **args: Any) -> Plugin:
    return Plugin(name=name, args=args)


RECIPES: dict[str, list[Plugin]] = {
    "full": [plugin("full")],
    "freeze": [plugin("freeze", bottom=1)],
    "lora": [plugin("lora", r=4)],
    "freeze + lora": [plugin("freeze", bottom=1), plugin("lora", r=4, alpha=5.5)],
}
BASES = [("llama", True), ("llama", False), ("qwen2", True), ("gpt2", True), ("gpt2", False)]


def tiny(family: str, tied: bool) -> Any:
    torch.manual_seed(3)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        config: Any = GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=DEPTH, n_head=4, n_positions=64, tie_word_embeddings=tied,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    return LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = ["<|endoftext|>", "<s>", "</s>", *[chr(code) for code in range(33, 33 + VOCABULARY - 3)]]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, [], unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    template = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<|endoftext|>", bos_token="<s>", eos_token="</s>", chat_template=template
    )


@pytest.fixture(scope="module", params=BASES, ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, tied = request.param
    path = tmp_path_factory.mktemp(f"{family}-{tied}")
    module = tiny(family, tied)
    with torch.no_grad():  # biases begin at zero; a test that leaves them there would not see one lost
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    module.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(params=RECIPES, ids=str)
def adapt(request: pytest.FixtureRequest) -> list[Plugin]:
    return RECIPES[request.param]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))


IDS = torch.arange(3, 3 + 20).view(2, 10)


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(input_ids=IDS).logits.clone()


def opened(folder: Path, adapt: list[Plugin] | tuple[Plugin, ...] = (), **options: Any) -> Policy:
    return load(Model(name=str(folder), dtype="fp32"), adapt, device="cpu", **options)


def train_a_little(policy: Policy) -> None:
    optimizer = torch.optim.SGD([parameter for _, parameter in policy.trainable()], lr=0.5)
    for _ in range(3):
        policy.module(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def adapters_of(adapt: list[Plugin]) -> list[Adapter]:
    return build(adapt)


def test_every_registered_adapter_is_covered_and_keeps_the_contract() -> None:
    assert {p.name for plugins in RECIPES.values() for p in plugins} == set(ADAPTERS.names())
    for plugins in RECIPES.values():
        for adapter in adapters_of(plugins):
            assert isinstance(adapter, Adapter)
            assert 0 < adapter.default_lr < 1


def test_starts_as_the_base(folder: Path, adapt: list[Plugin]) -> None:
    assert all(adapter.exact_start for adapter in adapters_of(adapt))
    base = logits(opened(folder, train=False).module)
    assert torch.equal(logits(opened(folder, adapt).module.eval()), base)


def test_gradients_reach_all_that_trains_and_nothing_else_moves(folder: Path, adapt: list[Plugin]) -> None:
    policy = opened(folder, adapt)
    names = {name for name, _ in policy.trainable()}
    before = {name: parameter.detach().clone() for name, parameter in policy.module.named_parameters()}
    train_a_little(policy)
    moved = {name for name, parameter in policy.module.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == names
    trainable, total = policy.parameter_counts()
    assert trainable == sum(before[name].numel() for name in names)
    assert total == sum(parameter.numel() for parameter in before.values())


def test_added_weights_are_fp32_on_a_bf16_base(folder: Path, adapt: list[Plugin]) -> None:
    policy = load(Model(name=str(folder)), adapt, device="cpu")
    adds = any(adapter.kind != "base" for adapter in adapters_of(adapt))
    assert policy.dtype == torch.bfloat16
    assert {parameter.dtype for _, parameter in policy.trainable()} == {torch.float32 if adds else torch.bfloat16}


def test_saved_and_opened_gives_the_same_logits(folder: Path, adapt: list[Plugin], tmp_path: Path) -> None:
    policy, run = opened(folder, adapt), Run(tmp_path / "run")
    train_a_little(policy)
    written = save(policy, run)
    again = open_run(run, device="cpu")
    assert again.has_adapter == policy.has_adapter == (written == run.adapter)
    assert torch.equal(logits(again.module), logits(policy.module.eval()))
    assert not again.trainable()
    assert again.tokenizer.encode("abc") == policy.tokenizer.encode("abc")
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template


def test_switched_off_it_is_the_base(folder: Path, adapt: list[Plugin]) -> None:
    policy = opened(folder, adapt)
    base = logits(policy.module.eval())
    train_a_little(policy)
    policy.module.eval()
    tuned, names = logits(policy.module), [name for name, _ in policy.trainable()]
    assert not torch.allclose(tuned, base, atol=1e-3)
    if not any(adapter.kind != "base" for adapter in adapters_of(adapt)):
        with pytest.raises(LuthierError, match="no adapter to switch off"), policy.adapter_off():
            pass
        return
    with policy.adapter_off():
        assert torch.equal(logits(policy.module), base)
    assert torch.equal(logits(policy.module), tuned)
    assert [name for name, _ in policy.trainable()] == names


def test_merged_is_the_adapters_forward_in_plain_transformers(
    folder: Path, adapt: list[Plugin], tmp_path: Path
) -> None:
    assert all(adapter.mergeable for adapter in adapters_of(adapt))
    policy = opened(folder, adapt)
    train_a_little(policy)
    tuned = logits(policy.module.eval())
    files = EXPORTERS.build("merged")(policy, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(logits(plain), tuned, atol=1e-5)
    assert plain.config.tie_word_embeddings == policy.module.config.tie_word_embeddings
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {f.name for f in files}
    assert torch.equal(logits(policy.module), tuned), "merging changed the policy itself"


def test_merging_into_bf16_is_the_fp32_sum_rounded_once(folder: Path, tmp_path: Path) -> None:
    policy = opened(folder, RECIPES["lora"])
    train_a_little(policy)
    merge(policy, tmp_path / "wide")
    merge(policy, tmp_path / "narrow", torch.bfloat16)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype="auto").state_dict()
    narrow = AutoModelForCausalLM.from_pretrained(tmp_path / "narrow", dtype="auto").state_dict()
    assert {tensor.dtype for tensor in narrow.values()} == {torch.bfloat16}
    assert all(torch.equal(narrow[name], tensor.to(torch.bfloat16)) for name, tensor in wide.items())


def test_plain_peft_loads_the_adapter_folder(folder: Path, tmp_path: Path) -> None:
    policy, run = opened(folder, RECIPES["lora"]), Run(tmp_path / "run")
    train_a_little(policy)
    save(policy, run)
    from peft import AutoPeftModelForCausalLM

    by_name = AutoPeftModelForCausalLM.from_pretrained(run.adapter, dtype=torch.float32)
    by_hand = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), run.adapter)
    tuned = logits(policy.module.eval())
    assert torch.equal(logits(by_name.eval()), tuned)
    assert torch.equal(logits(by_hand.eval()), tuned)


def test_lora_parameters_are_r_times_in_plus_out_of_every_linear_layer(folder: Path) -> None:
    policy = opened(folder, [plugin("lora", r=4)])
    llama = sum(4 * (32 + out) for out in (32, 16, 16, 32)) + 3 * 4 * (32 + 48)
    gpt2 = 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))
    expected = DEPTH * (gpt2 if policy.module.config.model_type == "gpt2" else llama)
    assert policy.parameter_counts()[0] == expected
    assert opened(folder, RECIPES["freeze + lora"]).parameter_counts()[0] == expected // DEPTH


def test_the_same_seed_draws_the_same_weights_and_leaves_torchs_own_alone(folder: Path) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, again = (opened(folder, RECIPES["lora"], seed=5) for _ in range(2))
    other = opened(folder, RECIPES["lora"], seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.trainable(), again.trainable(), other.trainable(), strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b, _ in pairs)
    assert any(not torch.equal(a[1], c[1]) for a, _, c in pairs)
