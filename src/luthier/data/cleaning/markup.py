"""What is left of web pages in a text: tags and entities.

A text that is itself markup, or talks about it, is left alone, and so is one whose row asks for something that markup
is the answer to: a page, a link, words that stand out. In doubt the tags stay. So does a tag whose other half is
missing, since `a<b && c>d` and `vector<i>` are no tags.
"""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

from luthier.data.cleaning.edits import Edit, outside
from luthier.data.cleaning.regions import protected

_TAG = re.compile(
    r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,10}+)"
    r"((?:\s++[a-zA-Z_:@][\w:.-]*+(?:\s*+=\s*+(?:\"[^\"<>]*+\"|'[^'<>]*+'|[^\s\"'<>=`]++))?+)*+)\s*+(/?)>"
)
_ENTITY = re.compile(r"&((?:amp;)*+)(?:(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});)?")
_INLINE = frozenset(
    [
        "b",
        "i",
        "em",
        "strong",
        "u",
        "s",
        "span",
        "font",
        "small",
        "big",
        "a",
        "center",
        "mark",
        "ins",
        "del",
        "abbr",
        "cite",
        "tt",
    ]
)
_BLOCK = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tr",
        "td",
        "th",
        "blockquote",
        "figure",
        "main",
    ]
)
_VOID = frozenset({"br", "hr"})
_END = re.compile(r"[ \t]*+\r?\n")
_LAYOUT = _INLINE | _BLOCK | _VOID
_PAGE = re.compile(
    r"<(?:!doctype|\?xml|html|head|body|script|style|form|input|button|svg|meta|link|template|audio|video|source|iframe"
    r"|embed|object|canvas|img|picture|nav|header|footer|select|option|textarea|label|pre|code|kbd)\b"
    r"|<\w[^<>]*?=\{|\bclassName=",
    re.I,
)
"""Tags that nobody leaves behind in a text by mistake, and what only JSX has."""
_ABOUT = re.compile(
    r"\b(?:x?html5?|xml|css|jsx|svg|markup|markdown|tags?|javascript|php|dom|web ?(?:page|site)s?|entit(?:y"
    r"|ies)|source code|snippet)\b"
    r"|网页|网站|标签|代码|元素|前端|实体",
    re.I,
)
_ASKS_FOR = re.compile(
    r"\b(?:template|font|bold\w*|italics?|underlin\w*|colou?rs?|gradient|styl(?:e|es|ed|ing)|format\w*|(?:hyper)?links?"
    r"|heading|buttons?|elements?|animat\w*|render|stretch|text size|cod(?:e|es|ing)|pages?|layout|highlight\w*"
    r"|emphasi[sz]\w*|embed\w*|modal|widget|component)\b|字体|颜色|样式|格式|按钮|链接|页面|布局|高亮|加粗|斜体|下划线|标出",
    re.I,
)


def about_markup(text: str, context: str) -> bool:
    """Is this text markup, or does it or the rest of its row talk about it?"""
    if _PAGE.search(text) or _ABOUT.search(text) or _ABOUT.search(context) or _ASKS_FOR.search(context):
        return True
    return mostly(text)


def mostly(text: str) -> bool:
    """Does more of the text stand in tags than between them? Then the tags are what it says: it is code."""
    if "<" not in text or ">" not in text:
        return False
    within = sum(_signs(found[0]) for found in _TAG.finditer(text) if found[2].lower() != "br")  # short verses end so
    return 2 * within > _signs(text)


def _signs(text: str) -> int:
    return sum(map(len, text.split()))


def tags(text: str) -> list[Edit]:
    """Tags of layout taken out: a block ends its line, a link leaves its words. Only whole pairs, and line breaks."""
    if "<" not in text or ">" not in text:
        return []
    known = [found for found in _TAG.finditer(text) if found[2].lower() in _LAYOUT]
    if not known:
        return []
    kept = protected(text, addresses=False)  # an address within a tag goes with it
    edits: list[Edit] = []
    opened: dict[str, list[Edit]] = {}
    for found in known:
        closing, name = bool(found[1]), found[2].lower()
        ended = name == "br" and _END.match(text, found.end())  # the break that it means is there as a line's end
        edit = Edit(found.start(), found[0], "" if ended else _instead(name, closing))
        if not outside([edit], kept):
            continue
        if name in _VOID:
            edits.append(edit)
        elif not closing:
            opened.setdefault(name, []).append(edit)
        elif opened.get(name):
            edits += [opened[name].pop(), edit]
    return sorted(edits)


def _instead(name: str, closing: bool) -> str:
    if name in ("td", "th"):
        return " " if closing else ""
    if name == "li":
        return "" if closing else "\n- "
    return "\n" if name in _BLOCK or name in _VOID else ""


def entities(text: str) -> list[Edit]:
    """`&quot;` and its like as the signs that they stand for, however often they were written anew (`&amp;amp;`)."""
    if "&" not in text or ";" not in text:
        return []
    edits = []
    for found in _ENTITY.finditer(text):
        again, name = found[1], found[2]
        if name is not None and (name[0] == "#" or f"{name};" in html5):
            edits.append(Edit(found.start(), found[0], unescape(f"&{name};")))
        elif again:
            edits.append(Edit(found.start(), f"&{again}", "&"))
    return edits
