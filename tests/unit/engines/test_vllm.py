"""What of the vLLM engine needs no vLLM: how a request is put to it, and what is made of its answers. That vLLM does
what is asked of it is not shown here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.engines import ENGINES
from luthier.engines.vllm import VLLMEngine, completion, keys
from luthier.errors import LuthierError
from luthier.models import OnDisk
from luthier.types import Engine, Request, Sampling


def engine() -> VLLMEngine:
    config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64))
    return VLLMEngine(SimpleNamespace(llm_engine=config), None, lambda *args: args, {5})


def test_sampling_in_its_words() -> None:
    sampling = Sampling(30, 0.7, 0.9, 40, 1.1, seed=2**70 + 3, stop=("END",), min_p=0.1, logit_bias=((3, -1.0),))
    found = keys(sampling, 4, {5, 2})
    assert found == {
        "n": 4,
        "max_tokens": 30,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 3,
        "stop": ["END"],
        "stop_token_ids": [2, 5],
        "logprobs": 0,
        "logit_bias": {3: -1.0},
    }


def test_an_answer_in_ours() -> None:
    def at(token: int, logp: float, other: int) -> dict[int, Any]:
        return {token: SimpleNamespace(logprob=logp), other: SimpleNamespace(logprob=-0.5)}

    output = SimpleNamespace(
        token_ids=[7, 8, 5],
        text="w7 w8",
        finish_reason="stop",
        index=2,
        logprobs=[at(7, -1.0, 9), at(8, -0.25, 9), at(5, -2.0, 9)],
    )
    made = completion(Request((1,), Sampling(top_logprobs=1), 3, "poet", "x"), output, {5})
    assert (made.ids, made.sampled, made.finish, made.index) == ((7, 8), (7, 8, 5), "stop", 2)
    assert made.logprobs == (-1.0, -0.25, -2.0) and made.adapter == "poet" and made.request == "x"
    assert made.top == (((9, -0.5),), ((8, -0.25),), ((9, -0.5),))


def test_what_it_refuses_by_itself(tmp_path: Path) -> None:
    made = engine()
    assert isinstance(made, Engine)
    for message, request in {
        "an empty prompt": Request(()),
        "context ends at 64": Request((7,) * 64),
        "asks for 0 answers": Request((7,), n=0),
        r"'b' is loaded \(loaded: none\)": Request((7,), adapter="b"),
    }.items():
        with pytest.raises(LuthierError, match=message):
            next(made.run([request]))
    with pytest.raises(LuthierError, match="one of PEFT's"):
        made.load_adapter("a", str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    made.load_adapter("a", str(tmp_path))
    first = made._lora("a")
    with pytest.raises(LuthierError, match="loaded already"):
        made.load_adapter("a", str(tmp_path))
    made.drop_adapter("a")
    made.load_adapter("a", str(tmp_path))
    assert made._lora("a")[1] != first[1], "another adapter of the same name has another number"
    with pytest.raises(LuthierError, match="do not follow"):
        made.sync(1)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_says_so(tmp_path: Path) -> None:
    opening = ENGINES.build("vllm", {"memory": 0.5, "swap_space": 2})
    assert opening.args == {"swap_space": 2}
    with pytest.raises(LuthierError, match=r"'vllm', which is not installed[\s\S]*luthier\[vllm\]"):
        opening.open(OnDisk(None, tmp_path), {5})
