"""Advertisement and furniture of pages goes, by a score; what merely has a word of them stays."""

from __future__ import annotations

import pytest

from luthier.data.cleaning import Cleaning
from luthier.data.cleaning import boilerplate as rules

STORY = "The fox ran over the hill.\nIt saw a river, and it stopped.\nThen it went home.\n"
STORY_ZH = "狐狸跑过山丘。\n它看见一条河，停了下来。\n然后它回家了。\n"


@pytest.mark.parametrize(
    "line",
    [
        "Click here to subscribe to our newsletter!",
        "Copyright © 2021 Foxes Inc. All rights reserved.",
        "Home | About us | Contact | Privacy policy | Sitemap",
        "Sign up now for free shipping and 20% off your first order!",
        "Follow us on Facebook | Share this | Read more",
        "This site uses cookies. See our privacy policy and cookie settings.",
        "Download our app: available on the App Store. Limited-time offer, order now!",
    ],
)
def test_furniture_goes(line: str) -> None:
    assert Cleaning().clean(STORY + line) == STORY.strip()
    assert Cleaning().clean(f"{line}\n{STORY}") == STORY.strip()


@pytest.mark.parametrize(
    "line",
    [
        "扫码关注公众号，立即领取优惠券！",
        "版权所有，未经授权禁止转载",
        "责任编辑：王小明 上一篇：河流",
        "点击阅读原文，关注我们",
        "首页 | 关于我们 | 联系我们 | 登录",
        "限时优惠，全场五折，赶快下单！",
    ],
)
def test_chinese_furniture_goes(line: str) -> None:
    assert Cleaning().clean(STORY_ZH + line) == STORY_ZH.strip()


@pytest.mark.parametrize(
    "line",
    [
        "Click the mouse twice.",
        "She subscribes to three magazines.",
        "The cookie was sweet.",
        "Copyright law protects authors.",
        "He called now and then.",
        "You can sign up at the desk.",
        "Read more books.",
        "We offer a discount to students.",
        "我关注天气。",
        "请点击确定。",
        "版权法很重要。",
        "他给我发了微信。",
        "Why do shops say 'buy now'?",
        "Contact the office for help.",
        "Red | green | blue",
    ],
)
def test_a_word_alone_says_nothing(line: str) -> None:
    for story in (STORY, STORY_ZH):
        assert Cleaning().clean(story + line) == story + line


def test_an_advert_that_is_asked_for_stays() -> None:
    advert = "Buy now: 20% off!\nClick here and subscribe to our newsletter!\nA story of shoes."
    assert Cleaning().clean(advert, "Write an advertisement for shoes") == advert
    assert Cleaning().clean(advert, "Tell me of shoes") == "A story of shoes."
    for asked in ("Draft a call to action", "Say this more persuasively", "Pitch my shop", "把这句话说得更有说服力"):
        assert Cleaning().clean(advert, asked) == advert


def test_a_text_of_nothing_else_is_told_and_left_whole() -> None:
    line = "Click here to subscribe to our newsletter!"
    assert Cleaning().clean(line) == line
    assert Cleaning().empty(line) == "nothing but advertisement"
    assert Cleaning().empty(STORY) is None
    assert Cleaning(boilerplate=0).empty(line) is None


def test_the_threshold_is_a_key() -> None:
    line = "Read more | Follow us"
    low, high = Cleaning(boilerplate=2.0), Cleaning(boilerplate=9.0)
    assert low.clean(STORY + line) == STORY.strip() and high.clean(STORY + line) == STORY + line


def test_every_phrase_has_its_anchor() -> None:
    """The cheap test before the score may never say no where the score would count."""
    lines = [
        "click here subscribe",
        "click below, our newsletter",
        "follow us, share this",
        "share via email; sign up",
        "join now! follow us",
        "accept all cookies; privacy policy",
        "all rights reserved copyright 2020",
        "© 2020 terms of use",
        "terms & conditions, see more",
        "learn more, follow us on",
        "related posts: buy today",
        "add to cart and sign up",
        "special offer 10% off today!",
        "free trial, sign up",
        "coupon while supplies last; hurry",
        "sponsored by us, hurry",
        "advertise with us hurry",
        "download our free app, click here",
        "available on the app store order now",
    ]
    for line in lines:
        phrases = {found.lastgroup for found in rules._PHRASES.finditer(line)}
        assert len(phrases) > 1 and rules.may_have(line), line
