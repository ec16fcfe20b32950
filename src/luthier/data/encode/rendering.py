"""Conversations into text by the model's own chat template, with the exact place of what the assistant says.

For the assistant turn k of messages m, the open rendering is what the model is given when it serves (m[:k] and the
generation prompt), the closed one is m[:k+1]. When the closed one begins with the open one, the rest is exactly what
the model must say. An earlier turn lies in a later turn's rendering only if its own closed rendering does, up to its
end token; a template that rewrites earlier turns (Qwen 3 takes their thinking out) gives each its own sequence, just
as it is served. A generation prompt that opens a thinking block which the answer's rendering lacks is gone on from
(`thinking`), and a template without a generation prompt gets the one that its turns show (`asking`). Where the
template has {% generation %} markers, they say it instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from luthier.data.encode.asking import lacking, with_prompt
from luthier.data.encode.messages import REASONING, SENTINEL, Job, Message, Tools, Wording
from luthier.data.encode.thinking import Opening, opening
from luthier.errors import LuthierError
from luthier.registry import suggest
from luthier.types import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "developer", "user", "assistant", "tool")
MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What a template raises for messages it does not take: its own refusals and its stumbles over missing keys."""


class RowFault(LuthierError):
    """This row cannot be encoded exactly; `what` is the ledger's reason. Others may well be."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a text, and how much their tokens train."""

    start: int
    end: int
    weight: float


@dataclass(slots=True)
class Layout:
    """One sequence before it is tokenised. `base` is the weight of everything outside the spans."""

    text: str
    spans: list[Span]
    base: float = 0.0
    raw: bool = False
    """No chat template: the tokenizer's BOS before it, EOS after it."""
    steps: list[int] = field(default_factory=list)
    """Places behind the last character of each judged step, all inside the last span."""
    shortened: int = 0
    """Scored turns of which the template renders, and the mask marks, only a part."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to render; `weights` says for each turn how much it trains (None: not asked for)."""

    turns: tuple[Turn, ...]
    tools: Tools
    weights: tuple[float | None, ...]
    base: float
    where: str | None
    asked: tuple[int, ...] = field(init=False)
    """The turns whose place is wanted."""

    def __post_init__(self) -> None:
        wanted = tuple(k for k, weight in enumerate(self.weights) if weight is not None)
        object.__setattr__(self, "asked", wanted)


class Renderer:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.exists = bool(tokenizer.chat_template)
        self.source = self._source() if self.exists else ""
        self.marked = bool(MARKERS.search(self.source))
        added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")
        self._roles: dict[str, bool] = {}
        self._wording = Wording(self.source, self.render)
        self.asks = ""
        """What the template's own generation prompt lacks."""
        self._fault: LuthierError | None = None
        self._complete()
        self.after, self.end = self._closing() if self.exists else ("", "")

    def _source(self) -> str:
        template = self.tokenizer.chat_template
        return "\n".join(template.values()) if isinstance(template, dict) else template

    def _complete(self) -> None:
        """Find what the generation prompt lacks; a fault is kept until a conversation is to be rendered."""
        try:
            self.asks = lacking(self.render) if self.exists else ""
        except LuthierError as error:
            self._fault = LuthierError(error.what, where=self.tokenizer.name_or_path or None, fix=error.fix)

    def _closing(self) -> tuple[str, str]:
        """What follows the assistant's words at the end of a rendering, and its beginning up to the end token."""
        probe: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": SENTINEL}]
        text = self.render([(probe, (), False)])[0]
        if isinstance(text, LuthierError) or text.count(SENTINEL) != 1:
            return "", ""
        after = text.partition(SENTINEL)[2]
        token = self._added.search(after)
        return (after, after[: token.end()]) if token else ("", "")

    @property
    def end_token(self) -> str | None:
        """The special token that ends the assistant's turn; None when there is none."""
        found = self._added.findall(self.end)
        return found[-1] if found else None

    def message(self, turn: Turn) -> Message:
        """A turn as the chat template takes it."""
        return self._wording.message(turn)

    def asked(self, turns: Sequence[Turn], tools: Tools) -> str:
        """What the model is given to answer these turns, as text. Raises LuthierError."""
        if self._fault:
            raise self._fault
        text = self.render([([self.message(turn) for turn in turns], tools, True)])[0]
        if isinstance(text, LuthierError):
            raise text
        return text

    def render(self, jobs: Sequence[Job]) -> list[str | LuthierError]:
        """Each job's text, or why the template refuses it. Jobs with the same tools are rendered in one call."""
        results: list[str | LuthierError] = [""] * len(jobs)
        groups: dict[tuple[str, bool], list[int]] = {}
        for i, (_, tools, opened) in enumerate(jobs):
            groups.setdefault((json.dumps(tools) if tools else "", opened), []).append(i)
        for (_, opened), members in groups.items():
            tools = jobs[members[0]][1]
            try:
                texts: Sequence[str | LuthierError] = self._apply([jobs[i][0] for i in members], tools, opened)
            except REFUSALS:
                texts = [self._one(jobs[i][0], tools, opened) for i in members]
            for i, text in zip(members, texts, strict=True):
                results[i] = text
        return results

    def _apply(self, conversations: list[list[Message]], tools: Tools, opened: bool) -> list[str]:
        given: Any = [dict(tool) for tool in tools] or None
        source = with_prompt(self.tokenizer.get_chat_template(tools=given), self.asks) if self.asks else None
        rendered = self.tokenizer.apply_chat_template(
            conversations, tools=given, chat_template=source, tokenize=False, add_generation_prompt=opened
        )
        return list(rendered)

    def _one(self, messages: list[Message], tools: Tools, opened: bool) -> str | LuthierError:
        try:
            return self._apply([messages], tools, opened)[0]
        except REFUSALS as error:
            return RowFault(f"the chat template refuses the conversation: {_first_line(error)}")

    def check_roles(self, conversation: Conversation) -> None:
        """Raises LuthierError for a role that the template does not know."""
        for role in dict.fromkeys(turn.role for turn in conversation.turns):
            if role not in self._roles:
                self._roles[role] = self._knows(role)
            if not self._roles[role]:
                known = [name for name in ROLES if self._roles.setdefault(name, self._knows(name))]
                raise LuthierError(
                    f"the chat template does not know the role {role!r}",
                    where=conversation.where,
                    fix=f"{suggest(role, known)}; or give those rows another role, or the model another template",
                )

    def _knows(self, role: str) -> bool:
        """Does a turn of this role come out anywhere? A role that nobody names is taken for a slip of the pen."""
        if role not in ROLES and not re.search(rf"(['\"]){re.escape(role)}\1", self.source):
            return False
        own: Message = {"role": role, "content": SENTINEL}
        user: Message = {"role": "user", "content": "a"}
        reply: Message = {"role": "assistant", "content": "b"}
        call = {"type": "function", "function": {"name": "f", "arguments": {}}}
        calling: Message = {"role": "assistant", "content": "", "tool_calls": [{"id": "a12345678", **call}]}
        result = {**own, "name": "f", "tool_call_id": "a12345678"}
        trials = [[own], [own, user], [user, own], [user, reply, own], [user, calling, result], [user, reply, result]]
        jobs: list[Job] = [(trial, (), False) for trial in trials]
        texts = self.render(jobs)
        return any(isinstance(text, str) and SENTINEL in text for text in texts)

    def layouts(self, conversations: Sequence[Conversation]) -> list[list[Layout] | LuthierError]:
        """For each conversation its sequences (one, unless the template rewrites earlier turns), or the fault."""
        if self._fault:
            return [self._fault] * len(conversations)
        lay_out = self._by_markers if self.marked else self._by_prefixes
        checked: list[LuthierError | None] = []
        for conversation in conversations:
            try:
                self.check_roles(conversation)
                checked.append(None)
            except LuthierError as error:
                checked.append(error)
        good = iter(lay_out([c for c, fault in zip(conversations, checked, strict=True) if fault is None]))
        return [fault or next(good) for fault in checked]

    def _by_prefixes(self, conversations: Sequence[Conversation]) -> list[list[Layout] | LuthierError]:
        jobs: list[Job] = []
        for conversation in conversations:
            messages = [self.message(turn) for turn in conversation.turns]
            for k in conversation.asked:
                # the first turn has no prompt to be given; a sentinel in its place shows where it begins
                opened = messages[:k] if k else [{**messages[0], "content": SENTINEL}]
                jobs += [(opened, conversation.tools, k > 0), (messages[: k + 1], conversation.tools, False)]
            if not conversation.asked:
                jobs.append((messages, conversation.tools, False))
        texts = iter(self.render(jobs))
        results: list[list[Layout] | LuthierError] = []
        for conversation in conversations:
            mine = [next(texts) for _ in range(2 * len(conversation.asked) or 1)]
            try:
                results.append(self._join(conversation, mine))
            except LuthierError as error:
                results.append(error)
        return results

    def _join(self, conversation: Conversation, texts: Sequence[str | LuthierError]) -> list[Layout]:
        rendered: list[str] = []
        for text in texts:
            if isinstance(text, LuthierError):
                raise RowFault(text.what, where=conversation.where)
            rendered.append(text)
        asked = conversation.asked
        if not asked:
            return [Layout(rendered[0], [], conversation.base)]
        layouts: list[Layout] = []
        for i in reversed(range(len(asked))):
            k, opened, closed = asked[i], rendered[2 * i], rendered[2 * i + 1]
            thinks = opening(opened) if k else None
            if thinks:
                closed = _as_served(conversation.turns[k], thinks, opened, closed)
            start = self._start(k, opened, closed, conversation)
            end = self._turn_end(closed, start, conversation)
            self._check_words(conversation, k, closed[:start], (thinks.text if thinks else "") + closed[start:end])
            span = Span(start, end, conversation.weights[k] or 0.0)
            for layout in layouts:
                if layout.text.startswith(closed[:end]):
                    layout.spans.insert(0, span)
                    break
            else:
                layouts.append(Layout(closed[:end], [span], 0.0 if layouts else conversation.base))
        return layouts

    def _start(self, k: int, opened: str, closed: str, conversation: Conversation) -> int:
        """Where the words of turn k begin in its closed rendering."""
        if k == 0:
            before, found, after = opened.partition(SENTINEL)
            opened = before if found and SENTINEL not in after else closed + " "
        if closed.startswith(opened):
            return len(opened)
        at = next(
            (i for i, (a, b) in enumerate(zip(opened, closed, strict=False)) if a != b), min(len(opened), len(closed))
        )
        raise RowFault(
            "the chat template does not render an answer as it asks for one, so what trains would not be what is served"
            f" (it asks with {opened[at : at + 20]!r} and renders {closed[at : at + 20]!r})",
            where=conversation.where,
            fix="put {% generation %} markers into the model's chat template around what the assistant says",
        )

    def _turn_end(self, closed: str, start: int, conversation: Conversation) -> int:
        """Where the turn that begins at `start` ends: behind its end token. What follows it is the template's."""
        if self.after and closed.endswith(self.after) and len(closed) - len(self.after) >= start:
            return len(closed) - len(self.after) + len(self.end)
        tokens = list(self._added.finditer(closed, start))
        if not tokens or closed[tokens[-1].end() :].strip():
            raise RowFault(
                "the chat template ends the assistant's turn without a special token, so generation could not stop",
                where=conversation.where,
                fix="let the model's chat template end assistant turns with the end-of-sequence token",
            )
        return tokens[-1].end()

    def _by_markers(self, conversations: Sequence[Conversation]) -> list[list[Layout] | LuthierError]:
        results: list[list[Layout] | LuthierError] = []
        for conversation in conversations:
            try:
                results.append([self._marked(conversation)])
            except LuthierError as error:
                results.append(error)
        return results

    def _marked(self, conversation: Conversation) -> Layout:
        from transformers.utils.chat_template_utils import render_jinja_template

        asked = conversation.asked
        kept = conversation.turns[: asked[-1] + 1] if asked else conversation.turns
        tools: Any = [dict(tool) for tool in conversation.tools] or None
        special: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
        try:
            rendered: Any = render_jinja_template(
                [[self.message(turn) for turn in kept]],
                tools=tools,
                chat_template=self.tokenizer.get_chat_template(tools=tools),
                return_assistant_tokens_mask=True,
                **special,
            )
        except REFUSALS as error:
            reason = f"the chat template refuses the conversation: {_first_line(error)}"
            raise RowFault(reason, where=conversation.where) from error
        text: str = rendered[0][0]
        places: list[tuple[int, int]] = rendered[1][0]
        spoken = [k for k, turn in enumerate(kept) if turn.role == "assistant"]
        if len(places) != len(spoken):
            raise RowFault(
                "the {% generation %} markers of the chat template do not mark each assistant turn once",
                where=conversation.where,
                fix="mend the markers, or take them out: the turns are then found by rendering prefixes",
            )
        spans, shortened = [], 0
        for k, (start, end) in zip(spoken, places, strict=True):
            end = self._marked_end(text, start, end)
            if k in asked:
                # the last turn is rendered whole; of earlier ones templates leave the reasoning out, and markers say so
                part = k != asked[-1] and _shortened(conversation.turns[k], text[start:end].removesuffix(self.end))
                self._check_words(conversation, k, text[:start], text[start:end], part=part)
                shortened += part
                spans.append(Span(start, end, conversation.weights[k] or 0.0))
        return Layout(text[: spans[-1].end] if spans else text, spans, conversation.base, shortened=shortened)

    def _marked_end(self, text: str, start: int, end: int) -> int:
        """The marked end, moved so that the end token trains and what follows it does not."""
        if self.after and text[start:end].endswith(self.after):
            return end - len(self.after) + len(self.end)
        if self.end and not text[start:end].endswith(self.end) and text.startswith(self.end, end):
            return end + len(self.end)
        return end

    def _check_words(self, conversation: Conversation, k: int, before: str, said: str, *, part: bool = False) -> None:
        """Raises RowFault when the template left out something that was said (a `part` of turn k's words may do)."""
        turn, text = conversation.turns[k], before + said
        reasoning = turn.extra.get(REASONING)
        left_out = None
        if not part and not _holds(said, turn.text):
            left_out = "what the assistant says"
        elif not part and isinstance(reasoning, str) and not _holds(said, reasoning):
            left_out = "the assistant's reasoning"
        elif not all(call["function"]["name"] in said for call in turn.calls):
            left_out = "the assistant's tool calls"
        elif not all(str(tool.get("function", tool).get("name")) in text for tool in conversation.tools):
            left_out = "the tools"
        else:
            for earlier in conversation.turns[:k]:
                if earlier.role in ("system", "developer", "user") and not _holds(text, earlier.text):
                    left_out = f"a {earlier.role} turn"
        if left_out:
            raise RowFault(
                f"the chat template leaves out {left_out}",
                where=conversation.where,
                fix="use a model whose template has a place for it, or take it out of the rows",
            )


def _as_served(turn: Turn, thinks: Opening, opened: str, closed: str) -> str:
    """The closed rendering behind a generation prompt that opens a thinking block, which then stands there once."""
    if closed.startswith(opened):
        rest = closed[len(opened) :]
        return opened + (thinks.behind(rest) if turn.text.lstrip().startswith(thinks.tag) else rest)
    before = opened[: -len(thinks.text)]
    if not closed.startswith(before):
        return closed
    reasoning = turn.extra.get(REASONING)
    said = thinks.continued(turn.text, reasoning if isinstance(reasoning, str) else None, closed[len(before) :])
    return opened + said


def _shortened(turn: Turn, rendered: str) -> bool:
    """Is what the template renders of a turn a part of what it says, and not all?"""
    reasoning = turn.extra.get(REASONING)
    whole = _holds(rendered, turn.text) and (not isinstance(reasoning, str) or _holds(rendered, reasoning))
    return not whole and bool(rendered.strip()) and (bool(turn.calls) or _holds(turn.text, rendered))


def _holds(text: str, part: str) -> bool:
    """Is `part` in `text`, white space aside?"""
    return part in text or part.strip() in text or "".join(part.split()) in "".join(text.split())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
