"""Every rule of cleaning by texts worked by hand; and what all of them promise together."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest

from luthier.data.cleaning import Cleaning, apply, compose, inverse
from luthier.data.cleaning.edits import Edit, changed

CLEAN = Cleaning()
KEPT = [
    "a<b && c>d",
    "if (a < b && c > d) { return a<b; }",
    "vector<i> of <b> with no end",
    "List<String> names; Map<K, V> m",
    "Press <Enter>, then <noinput>.",
    "AT&T & Co; R&D; &c.",
    "x² + y³ = ½ · ™ № ﬁ ㎏ Ⅳ",
    "“Quotes” – dashes — and … stay, ‘all’ of them",
    "她说：“你好，世界！”（２０２４年）",
    "👩‍👩‍👧 👩🏽‍🚀 ❤️‍🔥 🏳️‍🌈 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "क्‍ष श्री‌मान می‌خواهم",
    "שלום \u200fabc",
    "สวัสดี\u200bครับ",
    "def f(x):\n    if x  >  1:\n        return '<b>' + x\n\n\n\n    return x   ",
    "```html\n<p>a &amp; b</p>   \n\n\n\n```",
    "Use `<p>  &amp;  </p>` here.",
    "$a  <b>  c</b>$ and \\[ x  &amp;  y \\] and \\begin{align} a &amp;= b \\end{align}",
    "| a   | b  |\n|-----|----|\n| 1   | 2  |",
    "name      age\nAnn       12\nBob       7",
    "See https://x.org/?a=1&amp;b=2 for it.",
    "  - nested\n    - list",
    "Write a <div> tag as &lt;div&gt; in HTML.",
    "CHAPTER 1\n\nIt was a dark night.\n\nThe end.",
    "A recipe: click your heels, subscribe to joy, and read more books today.",
]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_clean_stays_to_the_last_sign(text: str) -> None:
    assert CLEAN.clean(text) == text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("It\u00e2\u20ac\u2122s caf\u00c3\u00a9", "It’s café"),
        ("ä½\u00a0å¥½", "你好"),
        ("a\x00b\x07c\u200bd\u2060e\ufefff\u00adg", "abcdefg"),
        ("word\u200djoined \u200cnot", "wordjoined not"),
        ("safe\u202eexe.txt", "safeexe.txt"),
        ("hidden\U000e0041\U000e0042 tags", "hidden tags"),
        ("one\u2028two\u0085three\x0cfour", "one\ntwo\nthree\nfour"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("cafe\u0301 A\u030a", "café Å"),
        ("Tom &amp;amp;amp; Jerry &quot;say&quot; &#39;hi&#x27; &copy;", "Tom & Jerry \"say\" 'hi' ©"),
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2", "1 < 2 && 3 > 2"),
        (
            "<p>One is a whole line.</p><p>Two is a <b>bold</b> one, and <i>it</i> is long.</p>",
            "One is a whole line.\n\nTwo is a bold one, and it is long.",
        ),
        ("line<br>line<br/>line", "line\nline\nline"),
        ("Snow on the roof<br>\nA cat below<br /> \r\nNobody is in", "Snow on the roof\nA cat below\nNobody is in"),
        ("verse one<br><br>\nverse two<br>\n<br>\nverse three<br>", "verse one\n\nverse two\n\nverse three"),
        ("verse one<br>\n\nverse two", "verse one\n\nverse two"),
        (
            "see <a href='https://x.org/a'>here</a> now for all that he said of it",
            "see here now for all that he said of it",
        ),
        (
            "<ul><li>apples and pears</li><li>bread, milk and eggs</li></ul>",
            "- apples and pears\n- bread, milk and eggs",
        ),
        ("a  \nb\t\n\n\n\nc \r\nd\u00a0e\u2009f   ", "a\nb\n\nc\nd e f"),
        ("two  blanks   here", "two blanks here"),
        ("  one paragraph", "one paragraph"),
        ("\n\n  \ntext\n", "text"),
    ],
)
def test_what_is_broken_becomes_whole(dirty: str, clean: str) -> None:
    assert CLEAN.clean(dirty) == clean


def test_tags_stay_where_the_row_is_about_them() -> None:
    assert CLEAN.clean("<b>Hi</b>", "Make the word bold in HTML") == "<b>Hi</b>"
    assert CLEAN.clean("<b>Hi</b> to you", "Greet me") == "Hi to you"
    page = "<!DOCTYPE html>\n<html><body><p>a</p></body></html>"
    assert CLEAN.clean(page) == page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Set two boxes side by side", '<div id="one"></div>\n<div id="two"></div>\n\n\n<p>  x  y </p>'),
        ("Show the prices in two columns", "<table>\n  <tr>\n    <th>Tea &amp; milk</th>\n  </tr>\n</table>"),
        ("Write the code of a list", "Here it is, with all that you need:\n<ul><li>a</li></ul>"),
        (
            "A round dialog, please",
            '<div>\n  <p style={{color: "grey"}}>Are you sure that you want this now?</p>\n</div>',
        ),
        ("Put links into this", "I read a lot about <a href='https://x.org/moss'>moss</a> and ferns last summer."),
        (
            "Highlight the verbs",
            'She <span style="color:red">runs</span> and <span>sings</span> all day and all night.',
        ),
        ("Write the bolded word anew", "The harbour was <b>crowded</b> on that long and warm evening in June."),
        ("Add a sound to it", "<audio src='https://x.org/a.mp3'></audio>The <i>owl</i> called through the dark wood."),
        ("请高亮动词", "她<b>跑</b>得很快，而且每天早上都在河边唱歌。"),
    ],
)
def test_markup_that_is_the_answer_stays(asked: str, said: str) -> None:
    assert CLEAN.clean(said, asked) == said
    assert CLEAN.clean(said + " \n", asked) == said  # what stands after it is no part of it


def test_on_wish() -> None:
    assert Cleaning(width="half").clean("型号ＡＢＣ１２３，好。") == "型号ABC123，好。"
    assert CLEAN.clean("型号ＡＢＣ１２３") == "型号ＡＢＣ１２３"
    pytest.importorskip("opencc")
    assert Cleaning(script="simplified").clean("漢語與電腦") == "汉语与电脑"
    assert Cleaning(script="traditional").clean("汉语与电脑") == "漢語與電腦"
    assert Cleaning(script="simplified").clean("日本語の漢字") == "日本語の漢字"


def test_rules_can_be_turned_off() -> None:
    off = Cleaning(mojibake=False, composed=False, unseen=False, markup=False, boilerplate=0, spacing=False)
    text = "\u00e2\u20ac\u2122 e\u0301 \x00 <b>x</b>  &amp; \n\n\n"
    assert off.clean(text) == text


def texts(count: int) -> list[str]:
    draw = random.Random(5)
    pieces = [
        "a",
        "b c",
        "  ",
        "\n",
        "\n\n\n",
        "\t",
        "<b>",
        "</b>",
        "<br>",
        "&amp;",
        "amp;",
        "&lt;",
        "b&gt;",
        "`",
        "```",
        "$",
        "\\[",
        "\\]",
        "你好",
        "，",
        "Ａ",
        "\u200b",
        "\u200d",
        "👩",
        "é",
        "e\u0301",
        "\u00e2\u20ac\u2122",
        "\x00",
        "\r",
        "https://a.b/c",
        "|",
        "def f():",
        "    ",
        "Click here to subscribe to our newsletter!",
        "{",
        ";",
        "扫码关注公众号，立即领取优惠券！",
        "\u00a0",
        " ",
        "x",
        "\u2028",
        "\ud800",
    ]
    return ["".join(draw.choice(pieces) for _ in range(draw.randint(1, 30))) for _ in range(count)]


def test_whatever_the_text_clean_is_clean_and_every_change_can_be_taken_back() -> None:
    rules = Cleaning(width="half", spelling="common")
    for text in texts(400):
        edits = rules.edits(text)
        clean = apply(text, edits)
        assert apply(clean, inverse(edits)) == text
        assert rules.edits(clean) == [], (text, clean)
        assert all(text.startswith(edit.old, edit.start) for edit in edits)
        assert all(one.end <= other.start for one, other in pairwise(edits))


def test_texts_that_are_not_read_on_are_those_in_which_nothing_is_found() -> None:
    for text in texts(400):
        assert CLEAN.edits(text) == CLEAN._worked(text, ""), text


def test_two_lists_of_edits_as_one() -> None:
    draw = random.Random(3)

    def drawn(text: str) -> list[Edit]:
        cuts = sorted(draw.sample(range(len(text) + 1), min(len(text) + 1, 2 * draw.randint(0, 3))))
        pairs = zip(cuts[::2], cuts[1::2], strict=False)
        return [
            Edit(start, text[start:end], draw.choice(["", "x", "yz", text[start:end] + "q"])) for start, end in pairs
        ]

    for _ in range(2000):
        text = "".join(draw.choice("abcd") for _ in range(draw.randint(1, 14)))
        first = drawn(text)
        middle = apply(text, first)
        second = drawn(middle)
        both = compose(text, first, second)
        assert apply(text, both) == apply(middle, second)
        assert apply(apply(text, both), inverse(both)) == text
    assert changed("abcdef", "abXXeY") == [Edit(2, "cd", "XX"), Edit(5, "f", "Y")]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        " " * 100_000 + "x",
        "x" + " \t" * 50_000 + "x",
        "<" * 100_000,
        "<a " * 30_000,
        "<b>" * 30_000,
        "&amp;" * 20_000,
        "&" * 100_000,
        "\\[" * 50_000,
        "$" * 100_000,
        "$a" * 50_000,
        "`" * 100_000,
        "`a" * 50_000,
        "\\begin{a}" * 10_000,
        "```\n" * 25_000,
        "\n" * 100_000,
        "a  " * 33_000,
        "a\n" * 50_000,
        "<a b=" * 20_000,
        "www." * 25_000,
        "\u200d" * 100_000,
        "é" * 100_000,
        "x(" * 50_000,
        "a = " * 25_000,
        "class " * 17_000,
        "click here now! " * 6_000,
        "click here\n" * 9_000,
        "| " * 50_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    CLEAN.edits(text[:50_000])
    assert time.process_time() - start < 2.0  # of 50,000 signs; what is quadratic takes minutes
