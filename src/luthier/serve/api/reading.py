"""POST /v1/embeddings and /v1/score: what a model makes of a text, without writing any."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from luthier.errors import LuthierError
from luthier.serve import faults
from luthier.serve.adapters import unknown
from luthier.serve.api.exchange import Exchange, beside
from luthier.serve.faults import ApiFault
from luthier.serve.house import House
from luthier.serve.words import prompts
from luthier.serve.words.bodies import Embeddings, Score, parse
from luthier.types import Encoded, Example, Response, Turn


async def embeddings(house: House, exchange: Exchange) -> None:
    """The mean over a text's tokens of the last hidden states: said so in `how`."""
    raw = await exchange.body()
    body = await beside(len(raw), parse, raw, Embeddings)
    served = await house.served(body.model)
    asked = await beside(len(raw), prompts.of_texts, served.template, body.input, "input")
    if len(asked) > house.settings.answers:
        raise ApiFault(400, f"{len(asked)} texts, and one request may have {house.settings.answers}", param="input")
    for place, prompt in enumerate(asked):
        house.check_prompt(prompt.ids, f"input {place + 1}", room=0)
    rows = [Encoded((np.array(one.ids, np.int32),), (np.zeros(len(one.ids), np.float32),)) for one in asked]
    tokens = sum(len(one.ids) for one in asked)
    found = await exchange.while_there(house.means(rows, served.adapter))
    data = [
        {"object": "embedding", "index": index, "embedding": _written(mean_D, body.encoding_format)}
        for index, mean_D in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    how = "mean of the last hidden states over all tokens, not normalised"
    await exchange.json({"object": "list", "model": served.name, "data": data, "usage": usage, "how": how})


def _written(mean_D: Any, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(np.asarray(mean_D, "<f4").tobytes()).decode()
    return np.asarray(mean_D, np.float64).tolist()


async def score(house: House, exchange: Exchange) -> None:
    """The rewards of `responses` to a conversation, or of its last turn where there are none."""
    raw = await exchange.body()
    body = await beside(len(raw), parse, raw, Score)
    run = house.opened.reward
    if run is None:
        raise ApiFault(404, "no reward model is served here: name the run of one (luthier serve RUN)", param="model")
    name = run.folder.resolve().name
    if body.model not in (None, name):
        raise unknown(str(body.model), [name])
    turns = prompts.turns_of(body.messages)
    if body.responses is None and turns[-1].role == "assistant":
        answers, turns = [turns[-1]], turns[:-1]
    elif body.responses:
        answers = [Turn("assistant", text) for text in body.responses]
    else:
        what = "there is nothing to score: give `responses`, or messages that end with the assistant's"
        raise ApiFault(400, what, param="responses")
    if len(answers) > house.settings.answers:
        raise ApiFault(
            400, f"{len(answers)} answers, and one request may have {house.settings.answers}", param="responses"
        )
    example = Example(tuple(turns), tools=prompts.tools_of(body.tools))
    pairs = [(example, Response((answer,))) for answer in answers]
    try:
        found = await exchange.while_there(house.rewards(pairs))
    except LuthierError as error:
        raise faults.of(error, "messages") from None
    data = [{"object": "score", "index": index, "score": reward} for index, reward in enumerate(found)]
    await exchange.json({"object": "list", "model": name, "data": data})
