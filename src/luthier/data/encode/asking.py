"""Templates without a generation prompt: they ignore `add_generation_prompt`, so that a prompt ends before the header
of the assistant's turn. The header is then taken from how they render an answer, and asked with, as rows have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from luthier.data.encode.messages import SENTINEL, Job, Message
from luthier.data.encode.thinking import TAG
from luthier.errors import LuthierError


def lacking(render: Callable[[Sequence[Job]], list[str | LuthierError]]) -> str:
    """What the template puts before an answer's words and does not ask with; "" where it asks with all of it.

    White space alone is no header: the model says it (Mistral). Raises LuthierError where it cannot be told.
    """
    user: Message = {"role": "user", "content": "a"}
    reply: Message = {"role": "assistant", "content": SENTINEL}
    asked, plain, answered = render([([user], (), True), ([user], (), False), ([user, reply], (), False)])
    if isinstance(asked, LuthierError) or asked != plain:
        return ""
    if isinstance(answered, LuthierError) or answered.count(SENTINEL) != 1:
        return ""  # no place for an answer: then rows of answers are faults, and prompts are what the template says
    before = answered.partition(SENTINEL)[0]
    if not before.startswith(asked):
        raise LuthierError(
            "the chat template has no generation prompt (it ignores add_generation_prompt), and where an answer begins "
            f"cannot be told from how it renders one (it asks with {asked[-20:]!r} and renders {before[-20:]!r})",
            fix="end the model's chat template with {% if add_generation_prompt %}, what it puts before the "
            "assistant's words, and {% endif %}",
        )
    header = before[len(asked) :]
    block = TAG.search(header)
    header = header[: block.start()] if block else header
    return header if header.strip() else ""


def with_prompt(template: str, header: str) -> str:
    """The template with this generation prompt at its end."""
    written = json.dumps(header, ensure_ascii=False)
    return template.removesuffix("\n") + "{{ " + written + " if add_generation_prompt else '' }}"
