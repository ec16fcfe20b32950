"""One spelling for what people and models write in many: `\\dfrac12`, `½` and `\\frac{1}{2}` come out alike."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = str.maketrans({
    "−": "-", "–": "-", "‒": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/",
    "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "±": r"\pm ", "°": r" degrees ", "’": "'", "，": ",", "、": ",", "；": ";", "。": ".", "：": ":",
    "ℝ": r"\mathbb{R}", "¢": " cents ", "€": "", "£": "", "¥": "", "∅": r"\emptyset ",
})  # fmt: skip
_ABOVE = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])", " "),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:!> ]|\\q?quad(?![a-zA-Z])|~|[\u200b\u2060\ufeff]", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\varnothing|⦃\s*⦄", r"\\emptyset "),
        (r"\\lvert|\\rvert", "|"),
        (r"\\leq(?:slant)?(?![a-z])", r"\\le"),
        (r"\\geq(?:slant)?(?![a-z])", r"\\ge"),
        (r"\\neq(?![a-z])", r"\\ne"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname|emph)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree", " degrees "),
        (r"\\%", "%"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"(?<![\\a-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)|√\s*(\d+|[a-z])", r"\\sqrt{\1\2}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<=[\w)\]}])\*\*(?=[\w(\[{\\-])", "^"),
        (r"\*\*|__|`", " "),
        (r"(?<!\\)\\[()\[\]]", " "),  # what opens and closes mathematics
    )
)
_MARKED = re.compile(r"\$\$?([^$]*)\$\$?")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
"""A brace, or what is escaped and therefore none."""
_ENDS = " \t\n.,;:?*"


def plain(text: str) -> str:
    """A final answer in one spelling: no delimiters of mathematics, no marks of emphasis, one kind of each sign."""
    text = _vulgar(text.translate(_SIGNS))
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"^{{{found[0].translate(_ABOVE)}}}", text)
    text = unicodedata.normalize("NFKC", text)
    text = text.replace(r"\{", "⦃").replace(r"\}", "⦄")  # the braces of a set, apart from those that only group
    for pattern, by in _RULES:
        text = pattern.sub(by, text)
    text = _without_delimiters(text.replace(r"\$", "＄"))
    text = " ".join(text.split()).rstrip(_ENDS)
    return text.lstrip(_ENDS) if not re.match(r"\.\d", text) else text


def _vulgar(text: str) -> str:
    """½ as 1/2, and 2½ as 2 1/2: taken apart as Unicode does it, 2½ would be 21/2."""
    if not any(unicodedata.decomposition(char).startswith("<fraction>") for char in text if char > "\x7f"):
        return text
    parts = []
    for char in text:
        apart = unicodedata.normalize("NFKC", char).replace("⁄", "/")
        parts.append(f" {apart} " if unicodedata.decomposition(char).startswith("<fraction>") else char)
    return "".join(parts)


def _without_delimiters(text: str) -> str:
    """`$x$` without its dollars; what is no pair around mathematics is money, and stands before its number as $."""
    if text.count("$") % 2 == 0 and not re.search(r"\$\s*\d[^$]*[A-Za-z, ]\s*\$\s*\d", text):
        text = _MARKED.sub(r" \1 ", text)
    return text.replace("＄", "$")


def groups(text: str) -> dict[int, int]:
    """The place of each brace that opens a group, with that of the one that closes it."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            found[opened.pop()] = brace.start()
    return found
