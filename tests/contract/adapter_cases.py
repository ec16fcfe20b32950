"""Every adapter on tiny models of every shape: attached, trained a little, and what was seen on the way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from luthier.models import Beginning, Policy, load
from luthier.models.adapters import Adapter
from luthier.recipe.schema import Model, Plugin
from luthier.types import Encoded

VOCABULARY, WIDTH, INNER, DEPTH, HEADS, KEY_HEADS = 96, 64, 128, 2, 4, 2
KEYS = WIDTH // HEADS * KEY_HEADS
IDS = torch.arange(3, 3 + 20).view(2, 10)


def plugin(name: str, **args: Any) -> Plugin:
    return Plugin(name=name, args=args)


RECIPES: dict[str, list[Plugin]] = {
    "full": [plugin("full")],
    "freeze": [plugin("freeze", bottom=1)],
    "progressive": [plugin("progressive", groups=2, every=1, warmup=0)],
    "llama_pro": [plugin("llama_pro", blocks=1)],
    "lora": [plugin("lora", r=4)],
    "rslora": [plugin("rslora", r=4)],
    "dora": [plugin("dora", r=4)],
    "pissa": [plugin("pissa", r=4, niter=0)],
    "olora": [plugin("olora", r=4)],
    "eva": [plugin("eva", r=4, rows=16)],
    "corda": [plugin("corda", r=4, rows=16)],
    "loftq": [plugin("loftq", r=4)],
    "lora_ga": [plugin("lora_ga", r=4, rows=16, niter=0)],
    "gelora": [plugin("gelora", r=4, rows=24)],
    "adalora": [plugin("adalora", r=2, before=0, after=0.3)],
    "vera": [plugin("vera", r=8)],
    "ia3": [plugin("ia3")],
    "oft": [plugin("oft", block=8)],
    "boft": [plugin("boft", block=4)],
    "prefix": [plugin("prefix", tokens=3, hidden=8)],
    "prompt": [plugin("prompt", tokens=3)],
    "p_tuning": [plugin("p_tuning", tokens=3, hidden=8)],
    "p_tuning_v2": [plugin("p_tuning_v2", tokens=3)],
    "peft": [plugin("peft", peft_type="LOHA", r=4, target_modules="all-linear")],
    "peft hra": [plugin("peft", peft_type="hra", r=4, target_modules="all-linear")],
    "houlsby": [plugin("houlsby", size=4)],
    "bitfit": [plugin("bitfit", add_biases=True)],
    "loreft": [plugin("loreft", r=4, first=2, last=2)],
    "sara": [plugin("sara", share=0.3)],
    "train": [plugin("train", weights="norms")],
    "ir_qlora": [plugin("ir_qlora", r=4)],
    "freeze + lora": [plugin("freeze", bottom=1), plugin("lora", r=4, alpha=5.5)],
    "lora of many kinds": [plugin("lora", r=4, ranks={"q_proj": 2}, plus=16, save_modules=["norm"])],
    "lora + train": [plugin("lora", r=4), plugin("train", weights="norms")],
    "houlsby + lora": [plugin("houlsby", size=4), plugin("lora", r=4)],
}
NOT_ON = {
    "gpt2": {"oft", "boft", "olora", "peft", "peft hra", "lora of many kinds"},
    "whole": {"loftq"},
    "int8": {"ir_qlora"},
}
"""What refuses a model, in words: transposed weights for some, a base that is not rounded for LoftQ, or not to nf4."""


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = ["<|endoftext|>", "<s>", "</s>", *[chr(code) for code in range(33, 33 + VOCABULARY - 3)]]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, [], unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    template = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<|endoftext|>", bos_token="<s>", eos_token="</s>", chat_template=template
    )


def write(path: Path, family: str, tied: bool) -> Path:
    """A model folder with weights far from their first, even ones: biases and norms too."""
    torch.manual_seed(3)
    module = AutoModelForCausalLM.from_config(tiny.config(family, **SIZES, tie_word_embeddings=tied))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.ndim == 2:
                parameter.mul_(3)
    module.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def rows(count: int = 16, prefix: int = 10, seed: int = 0) -> list[Encoded]:
    """Rows that begin alike; the second half of each is scored."""
    return tiny.rows(count, prefix, seed=seed, ids=(3, VOCABULARY), lengths=(2, 9))


@cache
def sample() -> list[Encoded]:
    return rows(24)


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(input_ids=IDS).logits[:, -IDS.shape[1] :].clone()  # virtual tokens have places of their own


def opened(folder: Path, adapt: list[Plugin] | tuple[Plugin, ...] = (), **options: Any) -> Policy:
    model = Model(name=str(folder), dtype=options.pop("dtype", "fp32"))
    beginning = Beginning(options.pop("seed", 0), sample=sample())
    return load(model, adapt, device="cpu", beginning=beginning, **options)


def train_a_little(policy: Policy, steps: int = 3) -> set[str]:
    """Some steps as the loop takes them; the names of all that trained."""
    trained: set[str] = set()
    for step in range(steps):
        policy.attached.before_step(step, steps)
        weights = dict(policy.trainable())
        trained |= set(weights)
        loss = policy.module(input_ids=IDS, labels=IDS).loss
        penalty = policy.attached.penalty()
        (loss if penalty is None else loss + penalty).backward()
        with torch.no_grad():  # steps of one size for every method, whatever its gradients' size
            for weight in weights.values():
                if weight.grad is not None:
                    size = weight.grad.abs().max().clamp_min(1e-12)
                    weight -= 0.05 * weight.grad / size
        policy.attached.after_step(step, steps)
        policy.module.zero_grad(set_to_none=True)
    return trained


@dataclass
class Case:
    """One adapter on one model, trained. Tests only look on."""

    folder: Path
    family: str
    adapt: list[Plugin]
    policy: Policy
    base: torch.Tensor
    """The base's logits, in few bits where the case's base is."""
    start: torch.Tensor
    tuned: torch.Tensor
    before: dict[str, torch.Tensor]
    """All weights before training."""
    trained: set[str]
    given: set[str]
    """Names of the weights that trained before any step."""

    @property
    def adapters(self) -> list[Adapter]:
        return self.policy.adapters

    def can(self, ability: str) -> bool:
        return all(getattr(adapter, ability) for adapter in self.adapters)


def case(folder: Path, family: str, adapt: list[Plugin], quantize: Plugin | None = None) -> Case:
    base = logits(opened(folder, train=False).module)
    policy = opened(folder, adapt, quantize=quantize)
    if quantize is not None and policy.has_adapter and not policy.rewrites_base:
        with policy.adapter_off():
            base = logits(policy.module.eval())
    start = logits(policy.module.eval())  # what an adapter measures at its first call, it has measured now
    before = {name: parameter.detach().clone() for name, parameter in policy.module.named_parameters()}
    given = {name for name, _ in policy.trainable()}
    policy.module.train()
    trained = train_a_little(policy)
    policy.module.eval()
    return Case(folder, family, adapt, policy, base, start, logits(policy.module), before, trained, given)
