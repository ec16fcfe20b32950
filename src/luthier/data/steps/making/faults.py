"""What an answer can be that makes no row: refused, cut, empty. Told by rule, in English and Chinese."""

from __future__ import annotations

import re

from luthier.types import Completion

CUT = "it was cut off"
HELD = "it was held back by a filter"
EMPTY = "it is empty"
REFUSED = "it refuses"
UNREADABLE = "it is not in the form that was asked for"
LONG = "the prompt is longer than the model reads"

_REFUSALS = re.compile(
    r"""^\W*(?:(?:i\s*(?:['’]\s*m|am)\s+(?:\w+\s+)?)?(?:sorry|apologi[sz]e|afraid)\b[^.!?\n]{0,80}?
        \b(?:can(?:no|['’])?t|cannot|unable|not\s+able|won['’]?t|not\s+(?:going|allowed|permitted))
      |(?:unfortunately,?\s+)?(?:i|we)\s+(?:can(?:no|['’])?t|cannot|can\s+not|(?:a|['’])\s*m\s+(?:unable|not\s+able)
        |am\s+(?:unable|not\s+able)|won['’]t|will\s+not|must\s+(?:decline|refuse))\s+
        (?:to\s+)?(?:help|assist|answer|provide|do|comply|fulfil+|write|create|generate|complete|continue|support|engage|discuss)
      |as\s+an?\s+(?:ai|artificial|large\s+language|language\s+model)\b[^.!?\n]{0,80}?
        \b(?:can(?:no|['’])?t|cannot|unable|not\s+able|do\s+not|don['’]t)
      )""",
    re.IGNORECASE | re.VERBOSE,
)
_REFUSALS_ZH = re.compile(
    r"^\W*(?:(?:非常|很|十分)?(?:抱歉|对不起|不好意思)[^。！？\n]{0,40}?(?:不能|无法|不可以|没法|不会|难以)"
    r"|(?:我|我们)(?:不能|无法|不可以|没法|拒绝)(?:为[您你])?(?:提供|回答|帮助|协助|完成|满足|生成|讨论|写)"
    r"|作为(?:一个|一名)?(?:AI|人工智能|语言模型|大语言模型|大型语言模型)[^。！？\n]{0,40}?(?:不能|无法|没有能力))",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Does an answer begin by declining? What it declines later, or reports of others, is its content."""
    return _REFUSALS.match(text) is not None or _REFUSALS_ZH.match(text) is not None


def fault_of(completion: Completion) -> str | None:
    """Why an answer is not to be used, whatever it was to say; None for one that may be read."""
    if completion.finish == "length":
        return CUT
    if completion.finish == "filtered":
        return HELD
    if not completion.text.strip():
        return EMPTY
    return REFUSED if refuses(completion.text.strip()) else None


__all__ = ["CUT", "EMPTY", "HELD", "LONG", "REFUSED", "UNREADABLE", "fault_of", "refuses"]
