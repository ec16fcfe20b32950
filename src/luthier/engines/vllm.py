"""vLLM inside this process, on the model's files. Not verified: no machine was at hand that runs it (see
docs/generation.md). What needs no vLLM, how a request is put to it, is tested."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from luthier.engines.asking import in_order
from luthier.engines.opening import Opening
from luthier.errors import LuthierError, missing_extra
from luthier.types import Completion, Encoded, Engine, Grammar, Request, Sampling, Turn

if TYPE_CHECKING:
    from luthier.models import OnDisk

BATCH = 1024
"""Requests handed over at once: vLLM gives its answers when all of them have ended."""
CONFIG, OWN_KIND = "adapter_config.json", "luthier.safetensors"
"""What PEFT's adapters have, and what adapters of ours have beside it."""
RUN = "run"
"""What the adapter of the run is called."""


@dataclass(frozen=True)
class VLLM(Opening):
    """vLLM in this process, on the model's files: for GPUs. The adapter of a run is applied by request. Unverified."""

    elsewhere: ClassVar[bool] = True
    rest: ClassVar[str] = "args"
    """The field that takes the keys this class does not know."""

    memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The share of the GPU's memory that it takes."""
    context: Annotated[int, Field(gt=0)] | None = None
    """The longest sequence, in tokens. Default: the model's."""
    max_rank: Annotated[int, Field(gt=0)] = 64
    """The largest rank of an adapter."""
    args: dict[str, Any] = field(default_factory=dict)
    """Any other key goes to vLLM's `LLM` as it stands."""

    def identity(self) -> dict[str, Any]:
        """What is handed on may be anything."""
        return dict(self.args)

    def ready(self, *, base: bool) -> None:
        """Raises LuthierError where vLLM is absent."""
        if importlib.util.find_spec("vllm") is None:
            raise missing_extra("vllm", "vllm", "`engine: vllm`")

    def open(self, model: OnDisk, stop_ids: Collection[int]) -> Engine:
        """An engine with the model loaded into vLLM. Raises LuthierError where vLLM is absent or refuses."""
        self.ready(base=model.is_base)
        import vllm
        import vllm.lora.request as lora

        key = (model.folder, self)
        if _memory.get("key") != key:  # a run and its base are the same weights, loaded once
            _memory.clear()
            _memory.update(key=key, llm=self._loaded(vllm.LLM, model.folder))
        engine = VLLMEngine(_memory["llm"], vllm.SamplingParams, lora.LoRARequest, stop_ids)
        if model.adapter is not None:
            engine.load_adapter(RUN, str(model.adapter))
            engine.own = RUN
        return engine

    def _loaded(self, llm: Any, folder: Path) -> Any:
        keys = {
            "gpu_memory_utilization": self.memory,
            "max_model_len": self.context,
            "enable_lora": True,
            "max_lora_rank": self.max_rank,
        }
        try:
            return llm(model=str(folder), **{**keys, **self.args})
        except (ValueError, RuntimeError, TypeError, OSError) as error:
            raise LuthierError(
                f"vLLM does not load this model: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
                where=str(folder),
                fix="see what it says above; engine: local takes every model that trains here",
            ) from error


_memory: dict[str, Any] = {}
"""The model that was loaded last, and as what."""
_numbers = itertools.count(1)


class VLLMEngine:
    """Implements `types.Engine` over vLLM's `LLM`; its classes are handed in."""

    def __init__(self, llm: Any, params: Any, adapter: Any, stop_ids: Collection[int]) -> None:
        self._llm, self._params, self._adapter = llm, params, adapter
        self._stop = frozenset(stop_ids)
        self._loaded: dict[str, Any] = {}
        self.own: str | None = None
        """The adapter that answers where none is named."""
        self.context: int | None = llm.llm_engine.model_config.max_model_len

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """As `Engine.run`; the completions of a batch come when all of it has ended."""
        for place, request in enumerate(requests):
            where = f"prompt {place + 1}"
            self._lora(request.adapter)
            if request.n < 1:
                raise LuthierError(f"a request asks for {request.n} answers", where=where, fix="set n to 1 or more")
            if not request.prompt:
                raise LuthierError("an empty prompt has nothing to go on from", where=where, fix="give it a token")
            if self.context is not None and len(request.prompt) >= self.context:
                raise LuthierError(
                    f"the prompt has {len(request.prompt)} tokens, but the model's context ends at {self.context}",
                    where=where,
                    fix="shorten it",
                )
        return self._run(requests)

    def _run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            answers = self._llm.generate(
                [{"prompt_token_ids": list(request.prompt)} for request in batch],
                [self._params(**keys(request.sampling, request.n, self._stop)) for request in batch],
                lora_request=[self._lora(request.adapter) for request in batch],
                use_tqdm=False,
            )
            for request, answer in zip(batch, answers, strict=True):
                for output in answer.outputs:
                    yield completion(request, output, self._stop)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """As `Engine.generate`."""
        return in_order(self.run, prompts, sampling)

    def stream(self, prompt: Sequence[int], sampling: Sampling, turns: Sequence[Turn] = ()) -> Iterator[str]:
        """The text of one completion, in one piece: vLLM's `LLM` gives no other."""
        yield self.generate([prompt], sampling)[0].text

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """As `Engine.logprobs`."""
        sequences = [(ids, weights) for row in rows for ids, weights in zip(row.ids, row.weights, strict=True)]
        params = self._params(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        answers = self._llm.generate(
            [{"prompt_token_ids": ids.tolist()} for ids, _ in sequences],
            params,
            lora_request=self._lora(adapter),
            use_tqdm=False,
        )
        found = iter(
            [
                [float(answer.prompt_logprobs[place][int(ids[place])].logprob) for place in weights.nonzero()[0]]
                for (ids, weights), answer in zip(sequences, answers, strict=True)
            ]
        )
        return [np.array([logp for _ in row.ids for logp in next(found)], np.float32) for row in rows]

    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`. vLLM reads the files when the adapter is first asked."""
        if name in self._loaded:
            raise LuthierError(
                f"an adapter {name!r} is loaded already", where=folder, fix="drop it first, or give another name"
            )
        if not (Path(folder) / CONFIG).is_file() or (Path(folder) / OWN_KIND).is_file():
            raise LuthierError(
                "this adapter is not, or not all of it, one of PEFT's, and vLLM knows no others",
                where=folder,
                fix="take a run of LoRA, or engine: local, which applies every kind of adapter",
            )
        number = next(_numbers)  # vLLM knows adapters by it, and would answer with what it kept of an earlier one
        self._loaded[name] = self._adapter(f"{name}-{number}", number, folder)

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`."""
        if self._loaded.pop(name, None) is None:
            known = ", ".join(self._loaded) or "none"
            raise LuthierError(
                f"no adapter {name!r} was loaded (loaded: {known})", where="adapter", fix="name one of these"
            )

    def sync(self, version: int) -> None:
        """Raises LuthierError: vLLM holds weights of its own."""
        raise LuthierError(
            "vLLM's weights do not follow the model that trains here",
            where="engine: vllm",
            fix="take engine: local for answers of the model under training",
        )

    def _lora(self, name: str | None) -> Any:
        name = name or self.own
        if name is not None and name not in self._loaded:
            known = ", ".join(self._loaded) or "none"
            raise LuthierError(
                f"no adapter {name!r} is loaded (loaded: {known})",
                where="adapter",
                fix="load it first, or name another",
            )
        return None if name is None else self._loaded[name]


def keys(sampling: Sampling, n: int, stop_ids: Collection[int]) -> dict[str, Any]:
    """The keys of vLLM's SamplingParams that say the same."""
    found: dict[str, Any] = {
        "n": n,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,  # 0: no limit, there as here
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed % 2**63,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted({*stop_ids, *sampling.stop_ids}),
        "logprobs": sampling.top_logprobs,  # 0: of the drawn token alone
    }
    if sampling.logit_bias:
        found["logit_bias"] = dict(sampling.logit_bias)
    if sampling.grammar is not None:
        found["structured_outputs"] = _structured(sampling.grammar)
    return found


def _structured(grammar: Grammar) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    name = {"json_schema": "json", "regex": "regex", "lark": "grammar"}[grammar.kind]
    return StructuredOutputsParams(**{name: grammar.text})


def completion(request: Request, output: Any, stop_ids: Collection[int]) -> Completion:
    """One of vLLM's outputs."""
    sampled = tuple(int(token) for token in output.token_ids)
    ends = {*stop_ids, *request.sampling.stop_ids}
    likely: Sequence[Mapping[int, Any]] = output.logprobs or ()
    made = Completion(
        ids=sampled[:-1] if sampled and output.finish_reason == "stop" and sampled[-1] in ends else sampled,
        text=output.text,
        finish="length" if output.finish_reason == "length" else "stop",
        sampled=sampled,
        logprobs=tuple(float(each[token].logprob) for token, each in zip(sampled, likely, strict=False)),
        request=request.id,
        index=output.index,
        adapter=request.adapter,
    )
    if not request.sampling.top_logprobs:
        return made
    top = [sorted(((t, float(p.logprob)) for t, p in each.items()), key=lambda pair: -pair[1]) for each in likely]
    return replace(made, top=tuple(tuple(each[: request.sampling.top_logprobs]) for each in top))
