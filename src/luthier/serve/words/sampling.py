"""How a request wants its answers drawn, in the engine's words."""

from __future__ import annotations

import json
import secrets
from typing import Any

from luthier.serve.faults import ApiFault
from luthier.serve.settings import Settings
from luthier.serve.words.bodies import Chat, Completions, Generating
from luthier.types import Grammar, Sampling


def sampling(body: Chat | Completions, settings: Settings, stop_ids: frozenset[int], room: int | None) -> Sampling:
    """The request's settings; `room` tokens fit behind its longest prompt. `stop_ids` end an answer, too.

    Raises ApiFault for what goes beyond the server's limits or means nothing.
    """
    if isinstance(body, Chat):
        asked, least, longest = body.max_completion_tokens or body.max_tokens, 1, settings.answer
        top = (body.top_logprobs or 0) if body.logprobs else 0
        if body.max_tokens == 0:
            raise ApiFault(400, "max_tokens: an answer has at least one token", param="max_tokens")
    else:
        asked, least, longest = body.max_tokens, 0 if body.echo else 1, 16  # as OpenAI has it
        top = body.logprobs or 0
    if asked is not None and asked < least:
        raise ApiFault(400, "max_tokens: 0 goes with echo only", param="max_tokens")
    most = longest if asked is None else asked
    if room is not None:
        most = min(most, max(room, 1))
    return Sampling(
        max_new_tokens=most,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_bias(body),
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**64,
        stop=_stops(body, settings),
        stop_ids=tuple(sorted(stop_ids | set(body.stop_token_ids or ()))),
        top_logprobs=top,
        grammar=grammar(body),
    )


def _stops(body: Generating, settings: Settings) -> tuple[str, ...]:
    given = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(given) > settings.stops:
        raise ApiFault(400, f"stop: {len(given)} strings, and this server takes {settings.stops}", param="stop")
    if any(len(each) > 1000 for each in given):
        raise ApiFault(400, "stop: a string of more than 1000 characters", param="stop")
    return tuple(dict.fromkeys(each for each in given if each))


def _bias(body: Generating) -> tuple[tuple[int, float], ...]:
    found = []
    for token, bias in (body.logit_bias or {}).items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ApiFault(400, f"logit_bias: {token[:40]!r} is no token id", param="logit_bias")
        found.append((int(token), bias))
    return tuple(found)


def grammar(body: Generating) -> Grammar | None:
    """What the answers must be a sentence of. Raises ApiFault where the request says it twice, or in no known form."""
    found = {
        "response_format": _format(body.response_format),
        "guided_json": _schema(body.guided_json, "guided_json"),
        "guided_regex": None if body.guided_regex is None else Grammar("regex", body.guided_regex),
        "grammar": None if body.grammar is None else Grammar("lark", body.grammar),
    }
    given = [name for name, one in found.items() if one is not None]
    if len(given) > 1:
        raise ApiFault(400, f"{' and '.join(given)} both say what form the answer has", param=given[1])
    return found[given[0]] if given else None


def _format(given: dict[str, Any] | None) -> Grammar | None:
    kind = (given or {}).get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return _schema({"type": "object"}, "response_format")
    if kind == "json_schema":
        named = given.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        if not isinstance(schema, dict):
            raise ApiFault(400, "response_format.json_schema.schema must be an object", param="response_format")
        return _schema(schema, "response_format")
    raise ApiFault(
        400,
        f"response_format.type must be text, json_object or json_schema, got {repr(kind)[:40]}",
        param="response_format",
    )


def _schema(given: dict[str, Any] | str | None, param: str) -> Grammar | None:
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise ApiFault(400, f"{param} is no JSON", param=param) from None
    if not isinstance(given, dict):
        raise ApiFault(400, f"{param} must be a JSON schema, an object", param=param)
    return Grammar("json_schema", json.dumps(given))
