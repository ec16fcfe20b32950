"""Answers in the shapes of OpenAI's API, whole and in chunks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.serve.words.answers import Answer, Part
from luthier.serve.words.bodies import Completions
from luthier.serve.words.jobs import Job
from luthier.serve.words.tokens import Told, for_chat, for_completions

Echoes = Sequence[Sequence[Told]] | None
"""The tokens of each prompt, where it is told again before its answers."""


def whole(job: Job, answers: Sequence[Answer], echoes: Echoes) -> dict[str, Any]:
    """The response to a request that does not stream."""
    choices = []
    for place in range(len(job.prompts)):
        drawn = sorted((one for one in answers if one.place == place), key=lambda one: one.number)
        for number, answer in enumerate(_best(drawn, job.body.n)):
            answer.number = number
            choices.append(_text(job, answer, echoes) if isinstance(job.body, Completions) else _message(job, answer))
    return {**_head(job, "text_completion", "chat.completion"), "choices": choices, "usage": usage(job, answers)}


def chunk(job: Job, answer: Answer, echoes: Echoes) -> dict[str, Any]:
    """What is new in an answer of a stream."""
    choice = _text(job, answer, echoes) if isinstance(job.body, Completions) else _delta(job, answer)
    return {**_chunk_head(job), "choices": [choice]}


def last_chunk(job: Job, answers: Sequence[Answer]) -> dict[str, Any] | None:
    """The chunk that tells the usage, if it was asked for."""
    return {**_chunk_head(job), "choices": [], "usage": usage(job, answers)} if _tells_usage(job) else None


def usage(job: Job, answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens asked and answered; of a prompt with several answers, those that the first one found read already."""
    asked = sum(len(prompt.ids) for prompt in job.prompts)
    done = [answer.completion for answer in answers if answer.completion is not None]
    said = sum(len(completion.sampled) for completion in done)
    cached = sum(completion.cached for completion in done if completion.index == 0)
    return {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _best(answers: Sequence[Answer], n: int) -> Sequence[Answer]:
    """The `n` whose tokens are the likeliest by the model itself, on average."""
    if n >= len(answers):
        return answers

    def worth(answer: Answer) -> float:
        return -np.inf if answer.completion is None else float(np.mean(answer.completion.logprobs))

    return sorted(answers, key=worth, reverse=True)[:n]


def _head(job: Job, text: str, chat: str) -> dict[str, Any]:
    return {"id": job.id, "object": chat if job.chat else text, "created": job.created, "model": job.served.name}


def _chunk_head(job: Job) -> dict[str, Any]:
    head = _head(job, "text_completion", "chat.completion.chunk")
    return {**head, "usage": None} if _tells_usage(job) else head


def _tells_usage(job: Job) -> bool:
    return job.body.stream_options is not None and job.body.stream_options.include_usage


def _text(job: Job, answer: Answer, echoes: Echoes) -> dict[str, Any]:
    """A completion, or what is new in it; it begins with the prompt if that is told again."""
    part, first, tokens, text = answer.take(), not answer.begun, [], ""
    if echoes is not None and first:
        text, tokens = job.prompts[answer.place].text, list(echoes[answer.place])
    logprobs = None
    if job.logprobs:
        told, count = [*tokens, *part.tokens], job.body.logprobs or 0
        logprobs = for_completions(job.served.template.tokenizer, told, count, answer.characters)
    answer.begun, answer.characters = True, answer.characters + len(text + part.text)
    said = {"index": _index(job, answer), "text": text + part.text, "logprobs": logprobs, "finish_reason": part.finish}
    return said | _ids(job, part)


def _message(job: Job, answer: Answer) -> dict[str, Any]:
    part = answer.take()
    message: dict[str, Any] = {"role": "assistant", "content": part.text, "refusal": None, **_beside(part)}
    if part.calls:
        message |= {"content": part.text or None, "tool_calls": _called(part)}
    return _chosen(job, answer, part, {"message": message})


def _delta(job: Job, answer: Answer) -> dict[str, Any]:
    part, first = answer.take(), not answer.begun
    answer.begun = True
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if part.text:
        delta["content"] = part.text
    if part.calls:
        begin = answer.calls - len(part.calls)
        delta["tool_calls"] = [{"index": begin + k, **call} for k, call in enumerate(_called(part))]
    return _chosen(job, answer, part, {"delta": delta | _beside(part)})


def _chosen(job: Job, answer: Answer, part: Part, said: Mapping[str, Any]) -> dict[str, Any]:
    logprobs = for_chat(job.served.template.tokenizer, part.tokens) if job.logprobs else None
    told = {"index": _index(job, answer), **said, "logprobs": logprobs, "finish_reason": part.finish}
    return told | _ids(job, part)


def _ids(job: Job, part: Part) -> dict[str, Any]:
    return {"token_ids": part.ids} if job.body.return_token_ids else {}


def _beside(part: Part) -> dict[str, Any]:
    return {"reasoning_content": part.reasoning} if part.reasoning else {}


def _index(job: Job, answer: Answer) -> int:
    return answer.place * job.body.n + answer.number


def _called(part: Part) -> list[dict[str, Any]]:
    """Calls in OpenAI's shape."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in part.calls
    ]
