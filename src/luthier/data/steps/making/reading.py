"""Answers in a form that was asked for, read: a score, yes or no, a letter, a list. None where the form is another one;
it is never guessed."""

from __future__ import annotations

import re

from luthier.data.steps.making.prompts import Language, phrase

_SCORE = re.compile(
    r"(?:score|分数|得分|评分)\W{0,6}?(\d+(?:\.\d+)?)(?:\s*/\s*\d+|\s*分)?\W*$", re.IGNORECASE | re.MULTILINE
)
_BARE = re.compile(r"\W*(\d+(?:\.\d+)?)\W*")
_ITEM = re.compile(r"^\s*(?:\*\*)?(\d+)\s*[.):、．）]\s*(?:\*\*)?\s*(.+?)\s*$", re.MULTILINE)
_PAIR = re.compile(
    r"^\W*(?:q|question|问|问题)\s*\d*\W{0,3}[:：]\W{0,3}\s*(?P<q>[^\n]+)\n+\W*(?:a|answer|答|答案)\s*\d*\W{0,3}[:：]\s*(?P<a>[^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_PARTS = re.compile(r"^\W*(input|output|输入|输出)\W{0,3}[:：]", re.IGNORECASE | re.MULTILINE)


def score(text: str, low: float, high: float) -> float | None:
    """The score at the end, or that is all there is; None where there is none between low and high."""
    found = _SCORE.findall(text)
    bare = _BARE.fullmatch(text)
    value = float(found[-1]) if found else float(bare[1]) if bare else None
    return value if value is not None and low <= value <= high else None


def yes(text: str, language: Language) -> bool | None:
    """Yes or no, in the language that was asked in or in English."""
    said = text.lower().strip(" \t\n.。!！\"'“”*")
    for answer, key in ((False, "says_no"), (True, "says_yes")):
        for word in {*phrase(key, language), *phrase(key, "en")}:
            if re.match(rf"{re.escape(word)}(?![a-z])", said):
                return answer
    return None


def letter(text: str) -> str | None:
    """A or B, said alone or in brackets."""
    found = re.fullmatch(r"(?:answer|回答)?[\s\[(*\"“]*([ab])[\s\])*.。\"”]*", text.strip(), re.IGNORECASE)
    return found[1].upper() if found else None


def listed(text: str) -> list[str] | None:
    """The items of a numbered list."""
    return [found[2] for found in _ITEM.finditer(text)] or None


def pairs(text: str) -> list[tuple[str, str]] | None:
    """Questions and answers."""
    return [(found["q"].strip(), found["a"].strip()) for found in _PAIR.finditer(text)] or None


def instance(text: str, language: Language) -> tuple[str, str] | None:
    """Input ("" for none) and output, in whatever order they stand."""
    found: list[re.Match[str]] = list(_PARTS.finditer(text))
    parts: dict[str, str] = {}
    for number, part in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        name = "input" if part[1].lower() in ("input", "输入") else "output"
        parts.setdefault(name, text[part.end() : end].strip())
    if not parts.get("output") or "input" not in parts:
        return None
    given = parts["input"]
    nothing = {*phrase("self_instruct.none", language), *phrase("self_instruct.none", "en")}
    return ("" if given.lower() in nothing else given), parts["output"]


__all__ = ["instance", "letter", "listed", "pairs", "score", "yes"]
