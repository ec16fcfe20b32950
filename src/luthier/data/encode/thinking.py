"""Generation prompts that open a thinking block: what is asked of the model is then what follows the opening.

Reasoning models (R1 distills, QwQ, Qwen 3 thinking) are asked with "<think>\n", and many of their templates render an
answer without its thinking. The opening stands in the prompt, once; what trains is the rest of it, the end of the block
and the answer. An answer without reasoning closes the block at once, as Qwen's templates write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAMES = "think|thought|reason|reflect|scratchpad|analysis"
TAG = re.compile(rf"<\|?[^<>/|\s]*(?:{NAMES})[^<>/|\s]*\|?>|\[(?:{NAMES})\w*\]", re.IGNORECASE)
"""The beginning of a thinking block."""


@dataclass(frozen=True)
class Opening:
    """How a generation prompt ends that opens a thinking block: its tag, and white space."""

    tag: str
    space: str

    @property
    def text(self) -> str:
        """The whole opening."""
        return self.tag + self.space

    @property
    def close(self) -> str:
        """What ends the block."""
        for begin, end in (("begin", "end"), ("start", "end"), ("BEGIN", "END"), ("START", "END")):
            if begin in self.tag:
                return self.tag.replace(begin, end)
        return f"{self.tag[0]}/{self.tag[1:]}"

    def behind(self, text: str) -> str:
        """The text without the opening that it may begin with; white space of the row's own stays."""
        bare = text.lstrip()
        if not bare.startswith(self.tag):
            return text
        rest = bare[len(self.tag) :]
        same = next((i for i, (a, b) in enumerate(zip(rest, self.space, strict=False)) if a != b), len(self.space))
        return rest[same:]

    def continued(self, text: str, reasoning: str | None, rendered: str) -> str:
        """What the model has to say behind the opening.

        `text` and `reasoning` are the turn's, `rendered` is what the template makes of them where it does not render
        the opening: often the answer alone.
        """
        close = self.close
        if rendered.lstrip().startswith(self.tag):
            return self.behind(rendered)
        if close in rendered:
            return rendered
        if close in text:
            end = text.rindex(close) + len(close)
            answer = text[end:]
            lead = self.behind(text[:end]) + answer[: len(answer) - len(answer.lstrip())]
        elif reasoning:
            lead = ("" if self.space else "\n") + reasoning.strip("\n") + f"\n{close}\n\n"
        else:
            lead = "\n" * max(0, 2 - self.space.count("\n")) + f"{close}\n\n"
        return lead + (rendered.lstrip() if lead[-1].isspace() else rendered)


def opening(asked: str) -> Opening | None:
    """The opening of a thinking block with which this generation prompt ends."""
    bare = asked.rstrip()
    found = [tag for tag in TAG.finditer(bare, max(0, len(bare) - 60)) if tag.end() == len(bare)]
    return Opening(found[-1].group(), asked[len(bare) :]) if found else None
