"""A mixture of a model with its adapter and without: each token is drawn from what the two make of it together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tiny_tokenizers import words

from luthier.engines import LocalEngine
from luthier.engines.local.mixed import MixedEngine
from luthier.engines.switched import AdapterOff
from luthier.errors import LuthierError
from luthier.models.decode.compiled import CompiledReader
from luthier.types import Completion, Request, Sampling

STOP = 5
WARM = Sampling(max_new_tokens=12, temperature=1.3, seed=3)
TOKENIZER = words(tiny.VOCABULARY + 1)


def apart(family: str = "llama") -> Any:
    """A model whose adapter changes what it says."""
    torch.manual_seed(0)
    base = tiny.model() if family == "llama" else tiny_of(family)
    for parameter in base.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(base, config).eval()


def tiny_of(family: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(tiny.config(family))


def asked() -> list[Request]:
    return [Request((7, 8, 9, *range(20, 20 + n)), WARM, n=2, id=n) for n in (1, 17, 40)]


def answers(engine: Any) -> dict[Any, Completion]:
    return {(one.request, one.index): one for one in engine.run(asked())}


def mixed(policy: tiny.Policy, share: float) -> MixedEngine:
    return MixedEngine(policy.module, TOKENIZER, {STOP}, policy.adapter_off, share)


@torch.no_grad()
def expected(policy: tiny.Policy, request: Request, completion: Completion, share: float) -> np.ndarray:
    """log of the mixture's probability of each drawn token at the temperature, by plain passes over the whole."""
    ids = torch.tensor([[*request.prompt, *completion.sampled]])
    own = policy.module(ids).logits[0].double()
    with policy.adapter_off():
        base = policy.module(ids).logits[0].double()
    logp = (((1 - share) * own.log_softmax(-1) + share * base.log_softmax(-1)) / WARM.temperature).log_softmax(-1)
    places = torch.arange(len(request.prompt) - 1, ids.shape[1] - 1)
    return logp[places, ids[0, len(request.prompt) :]].numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_each_token_is_drawn_from_the_mixture(family: str, share: float) -> None:
    policy = tiny.Policy(apart(family))
    engine = mixed(policy, share)
    found = answers(engine)
    assert isinstance(engine._lane(None).scheduler.reader._own, CompiledReader) <= (family == "llama")  # type: ignore[attr-defined]
    for request in asked():
        for index in range(request.n):
            completion = found[request.id, index]
            assert np.allclose(completion.drawn, expected(policy, request, completion, share), atol=2e-4)
    own = answers(LocalEngine(policy.module, TOKENIZER, {STOP}))
    base = answers(AdapterOff(LocalEngine(policy.module, TOKENIZER, {STOP}), policy.adapter_off))
    assert found != own and found != base and own != base


def test_without_a_share_it_is_the_model_and_with_all_of_it_the_reference() -> None:
    policy = tiny.Policy(apart())
    assert answers(mixed(policy, 0.0)) == answers(LocalEngine(policy.module, TOKENIZER, {STOP}))
    base = AdapterOff(LocalEngine(policy.module, TOKENIZER, {STOP}), policy.adapter_off)
    assert answers(mixed(policy, 1.0)) == answers(base)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_that_have_moved_on_are_those_that_draw_next(family: str) -> None:
    policy = tiny.Policy(apart(family))
    engine = mixed(policy, 0.5)
    before = answers(engine)
    engine.rest()
    assert answers(engine) == before
    with torch.no_grad():
        for name, weight in policy.module.named_parameters():
            if "lora_B" in name:
                weight.mul_(-1.5)
    engine.sync(1)
    after = answers(engine)
    assert after != before and {one.version for one in after.values()} == {1}
    for request in asked():
        completion = after[request.id, 0]
        assert np.allclose(completion.drawn, expected(policy, request, completion, 0.5), atol=2e-4)
    assert all(weight.requires_grad == ("lora" in name) for name, weight in policy.module.named_parameters())


def test_what_has_no_mixture_says_so(tmp_path: Any) -> None:
    module = get_peft_model(tiny.model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    policy = tiny.Policy(module)
    with pytest.raises(LuthierError, match="puts virtual tokens before each prompt"):
        answers(mixed(policy, 0.5))
    with pytest.raises(LuthierError, match="takes no third"):
        mixed(tiny.Policy(apart()), 0.5).load_adapter("more", str(tmp_path))
