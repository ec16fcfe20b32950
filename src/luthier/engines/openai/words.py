"""A request in an endpoint's words, and its answer as a completion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.engines.openai.settings import OpenAI
from luthier.errors import LuthierError
from luthier.types import RAW, Completion, Request, Sampling, Turn

CHAT, TEXT = "/chat/completions", "/completions"
FINISHES = {"stop": "stop", "length": "length", "content_filter": "filtered", "max_tokens": "length", "eos": "stop"}
PLAIN = Sampling()


@dataclass(frozen=True)
class Words:
    """How one endpoint is spoken to. `name` is what it calls the model."""

    settings: OpenAI
    name: str
    tokenizer: Any
    stop_ids: Collection[int]

    def way(self, request: Request) -> str:
        """chat, text or tokens."""
        if self.settings.ask != "auto":
            return self.settings.ask
        return "chat" if request.turns and any(turn.role != RAW for turn in request.turns) else "text"

    def check(self, request: Request, where: str) -> None:
        """Raise LuthierError for what this endpoint cannot be asked."""
        way, sampling = self.way(request), request.sampling
        if request.n < 1:
            raise LuthierError(f"a request asks for {request.n} answers", where=where, fix="set n to 1 or more")
        if way == "chat" and not request.turns:
            raise LuthierError(
                "an endpoint that is asked by messages needs a conversation, and here there is only a rendered prompt",
                where=where,
                fix="set `ask: text` (or tokens), or take rows that are conversations",
            )
        if way != "chat" and not request.prompt:
            raise LuthierError("an empty prompt has nothing to go on from", where=where, fix="give it a token at least")
        if way == "chat" and any(turn.media for turn in request.turns):
            raise LuthierError(
                "a message holds pictures or sound, which are not sent", where=where, fix="take them out"
            )
        context = self.settings.context
        if context is not None and len(request.prompt) >= context:
            raise LuthierError(
                f"the prompt has {len(request.prompt)} tokens, but the model's context ends at {context}",
                where=where,
                fix="shorten it",
            )
        if way != "tokens" and (sampling.logit_bias or sampling.stop_ids):
            raise LuthierError(
                "logit_bias and stop_ids speak of our tokens, and an endpoint that is given text may have others",
                where=where,
                fix="leave them out, or set `ask: tokens` where it serves the same model",
            )
        if sampling.grammar is not None and sampling.grammar.kind != "json_schema":
            raise LuthierError(
                f"OpenAI's protocol has no place for a grammar of the kind {sampling.grammar.kind!r}",
                where=where,
                fix="take a JSON schema, or engine: local",
            )

    def body(self, request: Request, index: int) -> tuple[str, dict[str, Any]]:
        """Where to ask for one answer, and with what. Only what differs from the usual is sent: endpoints differ in
        what they know."""
        way, sampling = self.way(request), request.sampling
        body: dict[str, Any] = {
            "model": request.adapter or self.name,
            self.settings.limit_key: sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature > 0:
            body["seed"] = _seed(sampling.seed, index)
        for ours in ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            if getattr(sampling, ours) != getattr(PLAIN, ours):
                body[ours] = getattr(sampling, ours)
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.grammar is not None:
            schema = {"name": "answer", "schema": json.loads(sampling.grammar.text), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if way == "chat":
            body["messages"] = [_message(turn) for turn in request.turns]
            if sampling.top_logprobs:
                body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
            if request.tools:
                body["tools"] = [dict(tool) for tool in request.tools]
            return CHAT, body
        if way == "text":
            body["prompt"] = self.tokenizer.decode(
                list(request.prompt), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            if sampling.top_logprobs:
                body["logprobs"] = sampling.top_logprobs
            return TEXT, body
        body |= {"prompt": list(request.prompt), "return_token_ids": True, "logprobs": sampling.top_logprobs}
        if stop := sorted({*self.stop_ids, *sampling.stop_ids}):
            body["stop_token_ids"] = stop
        if sampling.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
        return TEXT, body

    def expected(self, request: Request) -> tuple[int, int]:
        """The most tokens that one answer may take, in and out; of messages that nobody tokenised, a guess that is
        rather too high."""
        read = len(request.prompt)
        if not read:
            read = sum(len(turn.text.encode()) // 2 + 8 for turn in request.turns)
        return read, request.sampling.max_new_tokens

    def completion(self, request: Request, index: int, answer: Mapping[str, Any], where: str) -> Completion:
        """The answer. Raises LuthierError where it has not the form of one."""
        try:
            choice = answer["choices"][0]
            message = choice.get("message")
            text = choice["text"] if message is None else message.get("content")
            calls = None if message is None else message.get("tool_calls")
            finish, usage = choice.get("finish_reason"), answer.get("usage") or {}
            length, read = usage.get("completion_tokens"), usage.get("prompt_tokens")
            ids, logprobs = choice.get("token_ids"), choice.get("logprobs") or {}
            sampled = tuple(int(token) for token in ids or ())
            likely = tuple(float(each) for each in logprobs.get("token_logprobs") or ()) if sampled else ()
            likeliest = _likeliest(logprobs) if request.sampling.top_logprobs else ()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise LuthierError(
                f"the endpoint's answer is no completion: {json.dumps(answer)[:300]}",
                where=where,
                fix="check `url` and `ask`: this endpoint seems to speak another protocol",
            ) from None
        if calls and not text:
            raise LuthierError(
                "the model answered by calling a tool, and a completion is text",
                where=where,
                fix="leave the tools out of the rows, or set `ask: text`, which takes a call as the model writes it",
            )
        if len(likely) != len(sampled):
            likely = ()
        ends = {*self.stop_ids, *request.sampling.stop_ids}
        return Completion(
            ids=sampled[:-1] if sampled and finish == "stop" and sampled[-1] in ends else sampled,
            text=str(text or ""),
            finish=FINISHES.get(str(finish), "stop"),  # type: ignore[arg-type]
            sampled=sampled,
            logprobs=likely,
            top_texts=likeliest,
            length=length if isinstance(length, int) else None,
            read=read if isinstance(read, int) else None,
            request=request.id,
            index=index,
            adapter=request.adapter,
        )


def _likeliest(logprobs: Mapping[str, Any]) -> tuple[tuple[tuple[str, float], ...], ...]:
    """The likeliest tokens at each place, as a chat tells them or as a completion does."""
    if logprobs.get("content"):
        return tuple(
            tuple((str(one["token"]), float(one["logprob"])) for one in place.get("top_logprobs") or ())
            for place in logprobs["content"]
        )
    places = logprobs.get("top_logprobs") or ()
    return tuple(tuple((str(token), float(logp)) for token, logp in (place or {}).items()) for place in places)


def _seed(seed: int, index: int) -> int:
    """One number for each answer that is drawn: endpoints take 31 bits, our seeds have more."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=4).digest()) >> 1


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as OpenAI's protocol has it."""
    made: dict[str, Any] = {"role": turn.role, "content": turn.text, **turn.extra}
    if turn.calls:
        made["tool_calls"] = [_call(call, place) for place, call in enumerate(turn.calls)]
    return made


def _call(call: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A tool call; the protocol wants its arguments as JSON text, and a name for it."""
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments or {}, ensure_ascii=False)
    return {"type": "function", "id": f"call_{place}", **call, "function": function}
