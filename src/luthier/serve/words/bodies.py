"""What clients may send: the bodies of requests, by OpenAI's names, with extensions that peers have, too."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.registry import suggest
from luthier.serve.faults import ApiFault

DEEPEST = 100
"""Levels of a body's JSON."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
LACKING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "dimensions": (),
}
"""OpenAI's fields that there is nothing for here, and the values that ask for nothing."""
SILENT = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""OpenAI's fields that change no answer: whom it is for, and what caches go by (ours by what a prompt says)."""
Token = Annotated[int, Field(ge=0, lt=2**31)]


class Body(BaseModel):
    """Any body."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Generating(Body):
    """What chat and completions have in common."""

    model: str | None = None
    n: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    response_format: dict[str, Any] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    stop_token_ids: list[Token] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    grammar: str | None = None
    return_token_ids: bool = False
    """The tokens that were drawn, the stop token too, and log-probabilities (if asked for) of just these."""


class Chat(Generating):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True


class Completions(Generating):
    """POST /v1/completions."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class Embeddings(Body):
    """POST /v1/embeddings."""

    model: str | None = None
    input: str | list[str] | list[Token] | list[list[Token]]
    encoding_format: Literal["float", "base64"] = "float"


class Score(Body):
    """POST /v1/score: the rewards of answers to one conversation."""

    model: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    responses: list[str] | None = None
    tools: list[dict[str, Any]] | None = None


class AdapterName(Body):
    """POST /v1/adapters."""

    name: str


Kind = TypeVar("Kind", bound=Body)


def parse(raw: bytes, kind: type[Kind]) -> Kind:
    """The body as `kind`. Raises ApiFault (400), which names the field that is wrong."""
    content = _json(raw)
    for name in [name for name in LACKING if name in content and name not in kind.model_fields]:
        if content[name] is not None and content[name] not in LACKING[name]:
            raise ApiFault(400, f"{name!r} is not supported by this server", param=name, code="unsupported_parameter")
        del content[name]
    for name in SILENT:
        content.pop(name, None)
    content = {name: value for name, value in content.items() if value is not None}  # null is what is not said
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _told(error, kind) from None


def _json(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw, parse_constant=_no_number)
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        _shallow(content)
        if SURROGATE.search(raw):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ApiFault(400, f"the body is JSON nested more than {DEEPEST} levels deep") from None
    except UnicodeEncodeError:
        raise ApiFault(
            400, "the body has half a character in it (a lone surrogate), which no tokenizer takes"
        ) from None
    except ValueError as error:
        raise ApiFault(400, f"the body is no JSON that is understood: {error}"[:300]) from None
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _shallow(content: Any) -> None:
    """Raises RecursionError for what is nested too deeply for those who walk over it later."""
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError
        below = [value for value in level if isinstance(value, dict | list)]
        level = [child for value in below for child in (value.values() if isinstance(value, dict) else value)]


def _told(error: ValidationError, kind: type[Body]) -> ApiFault:
    first = error.errors()[0]
    place = [step for step in first["loc"] if isinstance(step, int) or step in kind.model_fields or step in _NESTED]
    name = ".".join(map(str, place)) or str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        name = ".".join(map(str, first["loc"]))
        near = suggest(name, list(kind.model_fields))
        message = f"there is no field {name[:100]!r} here: {near}"
        return ApiFault(400, message, param=name[:100], code="unknown_parameter")
    if first["type"] == "missing":
        return ApiFault(400, f"the field {first['loc'][-1]!r} is missing", param=str(first["loc"][-1]))
    said = first["msg"].replace("Input should be", "must be")
    return ApiFault(400, f"{name}: {said}, got {repr(first['input'])[:60]}", param=name)


_NESTED = tuple(StreamOptions.model_fields)
