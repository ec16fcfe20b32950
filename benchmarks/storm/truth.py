"""What the engine itself answers to the same requests, in this process: every character, token and log-probability."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.data import Template
from luthier.engines import LocalEngine
from luthier.models import embeddings, load
from luthier.recipe import Model
from luthier.serve.words.tokens import text_and_bytes
from luthier.types import RAW, Completion, Request, Sampling, Turn
from storm.clients import Heard
from storm.plans import Plan

SAME = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")


class Truth:
    """The engine with the same adapters; nothing of the server lies between."""

    def __init__(self, model: str, adapters: Mapping[str, Path]) -> None:
        policy = load(Model(name=model), train=False)
        self._template = Template(policy.tokenizer, embeddings(policy.module))
        self.engine = LocalEngine(policy.module, policy.tokenizer, self._template.stop_ids)
        for name, folder in adapters.items():
            self.engine.load_adapter(name, str(folder))

    def request(self, plan: Plan, number: int) -> Request:
        """A plan in the engine's words."""
        body = plan.body
        turn = Turn("user", body["messages"][0]["content"]) if plan.chat else Turn(RAW, body["prompt"])
        sampling = Sampling(
            max_new_tokens=body["max_tokens"],
            stop=tuple(body.get("stop", ())),
            logit_bias=tuple((int(token), bias) for token, bias in body.get("logit_bias", {}).items()),
            **{name: body[name] for name in SAME if name in body},
        )
        adapter = body["model"] if body["model"] in self.engine.adapters else None
        return Request(tuple(self._template.prompt_ids([turn])), sampling, adapter=adapter, id=number)

    def differences(self, answers: Sequence[Heard]) -> list[str]:
        """One line for each answer that is not what the engine says."""
        requests = [self.request(heard.plan, number) for number, heard in enumerate(answers)]
        done = {int(completion.request): completion for completion in self.engine.run(requests)}
        found = []
        for number, heard in enumerate(answers):
            fault = self._difference(heard, done[number])
            if fault:
                found.append(f"client {heard.plan.client}, request {heard.plan.number}: {fault}")
        return found

    def _difference(self, heard: Heard, done: Completion) -> str | None:
        body = heard.plan.body
        text = (body["prompt"] if body.get("echo") else "") + done.text
        if (heard.text, heard.finish) != (text, done.finish):
            return f"{heard.text!r} ({heard.finish}), and the engine says {text!r} ({done.finish})"
        if heard.usage["completion_tokens"] != len(done.sampled):
            return f"{heard.usage['completion_tokens']} tokens, and the engine drew {len(done.sampled)}"
        if "logprobs" not in body:
            return None
        told = heard.tokens[heard.usage["prompt_tokens"] :] if body.get("echo") else heard.tokens
        own = [(self._text(token), logp) for token, logp in zip(done.ids, done.logprobs, strict=False)]
        if told != (own[: len(told)] if "stop" in body else own):  # what a stop string was made of is not told
            return f"tokens {told}, and the engine drew {own}"
        return None

    def _text(self, token: int) -> str:
        return text_and_bytes(self._template.tokenizer, token)[0]


def sample(answers: Sequence[Heard], count: int) -> list[Heard]:
    """So many of them, half of them with their tokens told as far as there are such."""
    drawn = random.Random(0)
    told = [heard for heard in answers if "logprobs" in heard.plan.body]
    plain = [heard for heard in answers if "logprobs" not in heard.plan.body]
    half = drawn.sample(told, min(len(told), count // 2))
    return half + drawn.sample(plain, min(len(plain), count - len(half)))
