"""What users did after a response, as a label of it (the pseudo-labels of arXiv:2303.06135), and what cannot be told.

A response is watched for a fixed time, and judged only where all of that time lies within the log. The end of a log
cuts off what came next: to call that silence bad would be wrong; to leave out the silent ones alone would be, too, as
those that were answered at once would crowd the end of the log. So time alone decides who is judged, and a longer log
adds labels without changing one (unless a user retries, edits or judges a response later than that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luthier.data.logs.reading import Conversation, Message
from luthier.recipe.engagement import Engagement

HOUR = 3600.0
UNWATCHED = "the log ends before it was watched for long enough (`within`)"
UNENDED = "no message has a time, and the log does not say that the conversation has ended"
REPLACED = "it was retried or edited, and what followed answers other words"
UNJUDGED = "it has no thumb"
BOTH_THUMBS = "its thumbs point both ways"
UNASKED = "the user had said nothing before it"
TWICE = "the assistant spoke twice in a row, and the first was not retried"
EMPTY = "it is empty"


@dataclass(frozen=True)
class Unknown:
    """There is no label, and why."""

    reason: str


def label(conversation: Conversation, place: int, keys: Engagement, end: float | None) -> bool | Unknown:
    """Was the response at this place of the conversation a good one? `end`: when the log ends."""
    response = conversation.messages[place]
    fault = _fault(conversation.messages, place)
    if fault is not None:
        return Unknown(fault)
    if not watched(conversation, response.time, keys, end):
        return Unknown(UNWATCHED if conversation.timed else UNENDED)
    found = [_RULES[rule](conversation, place, keys) for rule in keys.label]
    if any(one is False for one in found):  # whatever the others would have said
        return False
    return next((one for one in found if isinstance(one, Unknown)), True)


def watched(conversation: Conversation, start: float | None, keys: Engagement, end: float | None) -> bool:
    """Is all that could count from this moment on within the log? Without times: is the conversation over?"""
    if start is None or end is None:
        return conversation.ended
    return start + keys.within * HOUR <= end


def spoken(messages: Sequence[Message], until: float | None) -> int:
    """How often the user spoke in these messages up to a moment; messages in a row are one turn."""
    seen = [one for one in messages if until is None or one.time is None or one.time <= until]
    return sum(one.role == "user" and (place == 0 or seen[place - 1].role != "user") for place, one in enumerate(seen))


def shown(messages: Sequence[Message]) -> list[Message]:
    """The messages that stand in the conversation: without responses that another one replaced."""
    return [one for place, one in enumerate(messages) if not _replaced(messages, place)]


def _replaced(messages: Sequence[Message], place: int) -> bool:
    follower = messages[place + 1] if place + 1 < len(messages) else None
    return "retried" in messages[place].events and follower is not None and follower.role == "assistant"


def _fault(messages: Sequence[Message], place: int) -> str | None:
    """Why a response can have no label, whatever the rule; None where it can."""
    response = messages[place]
    if not str(response.said.get("content") or "").strip():
        return EMPTY
    before = shown(messages[: place + 1])[:-1]
    if not any(one.role == "user" for one in before):
        return UNASKED
    follower = messages[place + 1] if place + 1 < len(messages) else None
    doubled = before[-1].answers or (follower is not None and follower.role == "assistant")
    return TWICE if doubled and not _replaced(messages, place) else None


def _went_on(conversation: Conversation, place: int, keys: Engagement) -> bool | Unknown:
    response = conversation.messages[place]
    if response.events & {"retried", "edited"}:
        return Unknown(REPLACED)
    until = None if response.time is None else response.time + keys.within * HOUR
    return spoken(conversation.messages[place + 1 :], until) >= keys.turns


def _without(event: str, conversation: Conversation, place: int) -> bool:
    return event not in conversation.messages[place].events


def _thumbs(conversation: Conversation, place: int, keys: Engagement) -> bool | Unknown:
    thumbs = conversation.messages[place].events & {"thumbs_up", "thumbs_down"}
    if len(thumbs) != 1:
        return Unknown(BOTH_THUMBS if thumbs else UNJUDGED)
    return "thumbs_up" in thumbs


_RULES = {
    "went_on": _went_on,
    "not_retried": lambda conversation, place, keys: _without("retried", conversation, place),
    "not_edited": lambda conversation, place, keys: _without("edited", conversation, place),
    "thumbs": _thumbs,
}


__all__ = ["Unknown", "label", "shown", "spoken", "watched"]
