"""What an Example says, as the parts that are compared: what is asked, and each answer, the best first.

The system message, what may be called, pictures and labels are not compared word by word; where they differ, two rows
are two rows.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from luthier.data.duplicates.contamination import Item
from luthier.data.duplicates.shingles import Text
from luthier.types import Example, Response, Turn

GOOD = 0.5
"""Of a single response: a reward above it is a good label."""


def text_of(example: Example) -> Text:
    """The row as it is compared."""
    asked = "\n".join(_said(turn) for turn in example.prompt if turn.role != "system")
    responses = sorted(example.responses, key=_worth) if len(example.responses) > 1 else example.responses
    answers = tuple("\n".join(map(_said, response.turns)) for response in responses)
    if not answers and example.answer is not None:
        answers = (example.answer,)
    return Text(asked, answers, _apart(example))


def item_of(example: Example) -> Item:
    """The row as a test item: its known answer is the given one, or the best response. A plain text is all question."""
    text = text_of(example)
    name = str(example.source) if example.source is not None else "a test item"
    if not text.prompt.strip():
        return Item(name, "\n".join(text.answers))
    return Item(name, text.prompt, example.answer if example.answer is not None else next(iter(text.answers), ""))


def _said(turn: Turn) -> str:
    if not turn.calls:
        return turn.text
    return "\n".join([turn.text, *(_written(call.get("function", call)) for call in turn.calls)])


def _worth(response: Response) -> float:
    return 0.0 if response.reward is None else -response.reward


def _apart(example: Example) -> str:
    """What must be equal in two rows for them to be duplicates; "" for most."""
    apart: list[Any] = [turn.text.strip() for turn in example.prompt if turn.role == "system"]
    turns = [*example.prompt, *(turn for response in example.responses for turn in response.turns)]
    apart += [list(turn.media) for turn in turns if turn.media]
    if example.tools:
        apart.append(list(example.tools))
    if example.responses and example.answer is not None:
        apart.append(example.answer)
    if len(example.responses) == 1 and example.responses[0].reward is not None:
        apart.append(example.responses[0].reward > GOOD)
    apart += [list(one.step_rewards) for one in example.responses if one.step_rewards is not None]
    return _written(apart) if apart else ""


def _written(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)


def digest(items: list[Item]) -> str:
    """A name for test items: the same for the same."""
    made = hashlib.blake2b(digest_size=16)
    for item in items:
        made.update(_written(list(item)).encode("utf-8", "surrogatepass"))
    return made.hexdigest()


__all__ = ["digest", "item_of", "text_of"]
