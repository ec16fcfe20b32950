"""What no rule may touch: code, formulas and addresses of the web, found in one place for all rules.

Every search is linear in the text: an opening sign that is never closed is looked for once, not once for each place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

_FENCE = re.compile(r"^ {0,3}(?:>+ ?)*(`{3,}|~{3,})[^\n]*$", re.M)
_INLINE = re.compile(r"``[^\n]{1,1000}?``|`[^`\n]{1,1000}`")
_DOLLAR = re.compile(r"(?<![\\$\w])\$(?![\s$])[^$\n]{1,300}(?<![\s\\])\$(?![\d$])")
_BEGIN = re.compile(r"\\begin\{([A-Za-z]{1,20}\*?)\}")
_ADDRESS = re.compile(r"(?:\b(?:https?|ftp|file|ssh|git)://|\bwww\.)[^\s<>\"'`，。；）】」》]+")
_ENTITY = re.compile(r"&#?\w{1,10};$")
_TABLE = re.compile(r"^[ \t]*[|<+].*$", re.M)
_CODE = re.compile(
    r"""^[ \t]*(?:
        (?:def|class)[ ]\w+.*: | (?:from[ ][\w.]+[ ])?import[ ][\w.{*][\w.,*{} ]*(?:;|$|[ ]from[ ].*)
        | return\b.*[\w)\]};"']$
        | \#include\b.* | \#!/.* | @\w[\w.]*(?:\(.*\))?$ | >>>[ ].* | \$[ ]\w.* | <\?(?:php|xml).* | <!DOCTYPE.*
        | (?:if|for|while|elif|else|try|except|switch|catch)\b.*[:{]$
        | (?:const|let|var|int|float|double|char|auto|val)[ ]\w+.*=.*
        | (?:public|private|protected|static|function|func|fn|void|async)[ ].*[({;] .*
        | (?:SELECT|INSERT[ ]INTO|UPDATE|DELETE[ ]FROM|CREATE[ ]TABLE|ALTER[ ]TABLE|FROM|WHERE|JOIN)[ ].*
        | (?://|/\*|\*/|--[ ]).* | [\w.\[\]"']+[ ]*(?:[-+*/|&]?=|:=)[ ]*[^=\s].* | [\w.]+\(.*\);?$
        | .*[{};]$ | [)}\]]+[;,]?$
    )""",
    re.X | re.M,
)


def protected(text: str, addresses: bool = True) -> list[Span]:
    """Code (fenced, between backticks, or lines that look like it), LaTeX and addresses, in order and apart."""
    spans = _fences(text) if "```" in text or "~~~" in text else []
    if "`" in text:
        spans += [found.span() for found in _INLINE.finditer(text)]
    if "$" in text:
        spans += _between(text, "$$", "$$")
        spans += [found.span() for found in _DOLLAR.finditer(text)]
    if "\\" in text:
        spans += [*_between(text, "\\[", "\\]"), *_between(text, "\\(", "\\)"), *_environments(text)]
    if addresses and ("://" in text or "www." in text):
        spans += [_without_stop(text, *found.span()) for found in _ADDRESS.finditer(text)]
    return merged(spans + _lines_of_code(text))


def prose(text: str) -> str:
    """The text without what is protected, and without rows of tables."""
    pieces, at = [], 0
    for start, end in protected(text):
        pieces.append(text[at:start])
        at = end
    return _TABLE.sub("", " ".join([*pieces, text[at:]]))


def merged(spans: list[Span]) -> list[Span]:
    """The spans in order, with those that overlap as one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _fences(text: str) -> list[Span]:
    """Blocks from fence to fence; one that is never closed goes to the end of the text."""
    spans, opened = [], None
    for found in _FENCE.finditer(text):
        fence = found[1]
        if opened is None:
            opened = (found.start(), fence)
        elif fence[0] == opened[1][0] and len(fence) >= len(opened[1]):
            spans.append((opened[0], found.end()))
            opened = None
    return spans if opened is None else [*spans, (opened[0], len(text))]


def _between(text: str, opening: str, closing: str) -> list[Span]:
    spans, at = [], text.find(opening)
    while at >= 0:
        end = text.find(closing, at + len(opening))
        if end < 0:
            break
        spans.append((at, end + len(closing)))
        at = text.find(opening, end + len(closing))
    return spans


def _environments(text: str) -> Iterator[Span]:
    unclosed: set[str] = set()
    for found in _BEGIN.finditer(text):
        if found[1] not in unclosed:
            closing = f"\\end{{{found[1]}}}"
            end = text.find(closing, found.end())
            if end < 0:
                unclosed.add(found[1])
            else:
                yield found.start(), end + len(closing)


def _without_stop(text: str, start: int, end: int) -> Span:
    """An address without the full stop, the comma or the bracket of the sentence round it."""
    while end > start and text[end - 1] in ".,;:!?)]}*":
        end -= 1
    return start, end


def _lines_of_code(text: str) -> list[Span]:
    """Lines that look like code, with the indented and empty ones among them."""
    if "\n" not in text:
        return [(0, len(text))] if _is_code(text) else []
    spans: list[Span] = []
    start, kind = 0, ""
    for line in text.split("\n"):
        end = start + len(line)
        was, kind = kind, _kind(line)
        if kind == "code" or (kind == "inside" and was and spans):
            if was in ("code", "inside", "gap") and spans:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        elif kind == "gap":
            kind = "gap" if was in ("code", "inside", "gap") and spans else ""
        else:
            kind = ""
        start = end + 1
    return spans


def _kind(line: str) -> str:
    if not line.strip():
        return "gap"
    if _is_code(line):
        return "code"
    return "inside" if line[:1] in (" ", "\t") else ""


def _is_code(line: str) -> bool:
    return len(line) < 2000 and bool(_CODE.match(line)) and not _prose(line) and not _ENTITY.search(line)


def _prose(line: str) -> bool:
    """Does a line that ends like code read like a sentence? Words in a row without a sign between them."""
    words = line.split()
    plain = sum(word.strip(",.").isalpha() for word in words)
    return len(words) > 6 and plain > 0.8 * len(words) and not line.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
