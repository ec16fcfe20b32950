"""Lines of advertisement and of page furniture, in English and Chinese, found by a score and never by a word alone.

A line's score adds what speaks for it (phrases of the trade, a link, its place at the end of the text, a row of names
of pages) and takes off what speaks against it (a question, a quotation, length). Only whole lines go.
"""

from __future__ import annotations

import re

from luthier.data.cleaning.edits import Edit

THRESHOLD = 2.5

_ANCHORS = frozenset(
    b"click subscribe newsletter follow us share sign register join cookie cookies rights copyright c \xc2\xa9 "
    b"privacy terms more continue "
    b"related now today cart miss offer deal discount off shipping trial promo promotion coupon last lasts "
    b"advertisement advertise "
    b"sponsored affiliate app store play hurry".split()
)
"""Every English phrase has one of these words."""
_APART = bytes(code if chr(code).isalnum() or code > 127 else 32 for code in range(256))
LONGEST = 500
"""A line that is longer is no piece of furniture."""
_ANCHORS_ZH = (
    "点",
    "关注",
    "订阅",
    "微信",
    "公众号",
    "群",
    "客服",
    "扫",
    "长按",
    "版权",
    "未经",
    "侵",
    "转",
    "本文",
    "链接",
    "来源",
    "编",
    "篇",
    "相关",
    "猜你",
    "推荐",
    "优惠",
    "限时",
    "折",
    "包邮",
    "减",
    "秒杀",
    "仅需",
    "购买",
    "下单",
    "抢购",
    "报名",
    "咨询",
    "注册",
    "下载",
    "领取",
    "加入",
    "联系",
    "声明",
    "热线",
    "电话",
    "收藏",
    "在看",
)

_PHRASES = re.compile(
    r"(?P<click>\bclick (?:here|below|the (?:link|button)|on the link))|(?P<subscribe>\bsubscribe\b(?! from))"
    r"|(?P<news>\b(?:our|free|weekly|daily|the) newsletter\b)|(?P<follow>\bfollow us\b|\bfind us on\b|\blike us on\b)"
    r"|(?P<share>\bshare this\b|\bshare (?:on|via) (?:facebook|twitter|x|linkedin|email)\b)"
    r"|(?P<sign>\bsign up (?:now|today|for (?:free|our))\b|\bsign up\b|\bregister now\b|\bjoin (?:now|us today)\b)"
    r"|(?P<cookie>\b(?:uses?|accept|our) (?:all )?cookies\b|\bcookie (?:policy|settings|preferences)\b)"
    r"|(?P<rights>\ball rights reserved\b)|(?P<copyright>(?:©|\(c\)|\bcopyright\b)[ ©]*(?:19|20)\d\d|\bcopyright ©)"
    r"|(?P<policy>\bprivacy policy\b|\bterms (?:of (?:use|service)|and conditions|& conditions)\b)"
    r"|(?P<more>\b(?:read|learn|see) more\b|\bcontinue reading\b|\brelated (?:posts|articles)\b)"
    r"|(?P<buy>\b(?:buy|order|shop|call|book|act|enrol|visit us) (?:now|today)\b|\badd to cart\b|\bdon't miss\b)"
    r"|(?P<offer>\b(?:limited[- ]time|special|exclusive) (?:offer|deal|discount)\b|\b\d{1,2}% off\b|\bfree "
    r"(?:shipping|trial)\b"
    r"|\bpromo(?:tion)? code\b|\bcoupon\b|\bwhile (?:stocks?|supplies) last)"
    r"|(?P<advert>\badvertise(?:ment| with us)\b|\bsponsored (?:by|content|post)\b|\baffiliate links?\b)"
    r"|(?P<app>\bdownload our (?:free )?app\b|\bavailable on the app store\b|\bget it on google play\b)"
    r"|(?P<now>\b(?:now|today)[!]|\bhurry\b)",
    re.I,
)
_PHRASES_ZH = re.compile(
    r"(?P<click>点击(?:这里|此处|下方|链接|上方|阅读原文|查看|进入|购买|领取))|(?P<follow>(?:关注|订阅)(?:我们|本|微信|公众号|官方))"
    r"|(?P<account>(?:微信)?公众号|微信号|加微信|加[vV]信|QQ群|加群|进群|客服(?:微信|电话|热线|QQ))"
    r"|(?P<scan>(?:扫码|扫一扫|扫描(?:下方|上方)?二维码|长按(?:识别)?二维码))|(?P<rights>版权(?:所有|归)|未经(?:授权|许可|允许)|侵权必究|侵删)"
    r"|(?P<reprint>(?:请勿|禁止|谢绝|如需)转载|转载(?:请|须|需)?注明|本文(?:转载|来源|来自|首发)|(?:原文|文章)(?:链接|来源)[:：])"
    r"|(?P<editor>(?:责任编辑|责编|编辑)[:：])|(?P<turn>(?:上一篇|下一篇|相关(?:阅读|推荐|文章)|猜你喜欢|热门推荐)[:：]?)"
    r"|(?P<offer>限时(?:优惠|特价|抢购|折扣|免费)|(?:领取|专享)优惠|优惠券|全场[一二三四五六七八九\d.]+折|包邮|立减|秒杀|仅需\d+元)"
    r"|(?P<buy>(?:立即|马上|赶快|赶紧|快来)(?:购买|下单|抢购|报名|咨询|注册|下载|领取|加入|联系))|(?P<disclaimer>免责声明[:：])"
    r"|(?P<app>下载(?:我们的|本|官方|客户端|[^，。]{0,6})?(?:APP|App|app|客户端))|(?P<hotline>(?:咨询|服务|订购|报名)(?:热线|电话)[:：])"
    r"|(?P<thumbs>点赞|转发|收藏|在看)(?=.{0,6}(?:点赞|转发|收藏|在看|关注))",
)
_FURNITURE = re.compile(
    r"\b(?:home|about(?: us)?|contact(?: us)?|log ?in|sign in|register|privacy|terms|sitemap|faq|help|careers"
    r"|press|search|menu|cart)\b"
    r"|首页|关于我们|联系我们|登录|注册|帮助中心|网站地图|隐私政策|服务条款|返回顶部|加入收藏",
    re.I,
)
_CUT = re.compile(r"[|·»›•]")
_LINK = re.compile(
    r"https?://|www\.|\b[\w-]+\.(?:com|cn|net|org|shop)\b|[\w.]+@[\w.]+|1[3-9]\d{9}|400-?\d{3,4}-?\d{3,4}"
)
_ASKED = re.compile(
    r"\b(?:advert\w*|ads?|market(?:ing)?|promot\w*|slogan|headline|campaign|newsletter|copyright|licen[cs]e"
    r"|landing page|web ?(?:page|site)s?|sales|banner|calls?[- ]to[- ]actions?|persua\w*|pitch(?:es)?"
    r"|discounts?|offers?|cookies?|e-?mail|blog|flyer|brochure|social media|tweet|post|commercial"
    r"|spam|letter|message|script)\b"
    r"|广告|文案|营销|推广|促销|宣传|标语|海报|版权|公众号|朋友圈|邮件|垃圾|短信|脚本|直播|评论|说服|号召|网站|网页",
    re.I,
)


def asked_for(text: str) -> bool:
    """Does a text ask for an advertisement, or speak of one? Then those in its answer are meant."""
    return bool(_ASKED.search(text))


def score(line: str, edge: bool = False) -> float:
    """How much a line looks like advertisement or furniture of a page. `edge`: it is among the outer lines."""
    phrases = {found.lastgroup for found in _PHRASES.finditer(line)}
    if not line.isascii():
        phrases |= {found.lastgroup for found in _PHRASES_ZH.finditer(line)}
    pages = len({found[0].lower() for found in _FURNITURE.finditer(line)})
    cuts = len(_CUT.findall(line))
    menu = pages >= 3 and cuts >= 2 and len(line) < 25 * pages
    if len(phrases) < 2 and not menu:  # one word alone says nothing, however it is set
        return 0.0
    points = float(len(phrases)) + (0.5 if _LINK.search(line) else 0.0) + (0.5 if edge else 0.0)
    points += 2.5 if menu else 0.0
    points += 0.5 if "!" in line or "！" in line else 0.0
    points += 0.5 if len(line) < 80 else 0.0
    points -= 1.0 if len(line) > 250 else 0.0
    points -= 0.5 if line.rstrip()[-1:] in ("?", "？") else 0.0
    points -= 1.0 if line.lstrip()[:1] in ('"', "“", "「", "'", ">") else 0.0
    return points


def lines(text: str, threshold: float = THRESHOLD) -> list[Edit]:
    """The lines of a score of `threshold` or more taken out, with their ends. A text of nothing else is left whole: it
    may be what was asked for, and where nothing was asked `nothing_else` says so."""
    if "\n" not in text or not may_have(text):
        return []
    found, start = text.split("\n"), 0
    full = [place for place, line in enumerate(found) if line.strip()]
    outer = {*full[:1], *full[-2:]} if len(full) > 2 else set()
    edits: list[Edit] = []
    left = len(full)
    for place, line in enumerate(found):
        if 5 < len(line) <= LONGEST and may_have(line) and score(line, place in outer) >= threshold:
            last = place == len(found) - 1
            gone = Edit(start - 1, f"\n{line}", "") if last else Edit(start, f"{line}\n", "")
            edits, left = [*edits, gone], left - 1
        start += len(line) + 1
    if len(edits) > 1 and edits[-2].end > edits[-1].start:  # the last two lines: the end between them is taken once
        edits[-1] = Edit(edits[-1].start + 1, edits[-1].old[1:], "")
    return edits if left else []


def nothing_else(text: str, threshold: float = THRESHOLD) -> bool:
    """Is every line of the text an advertisement?"""
    if not may_have(text):
        return False
    full = [line for line in text.split("\n") if line.strip()]
    return bool(full) and all(len(line) <= LONGEST and score(line) >= threshold for line in full)


def may_have(text: str) -> bool:
    """Cheap, and never false where a line would count: that needs two phrases, or a row of pages with cuts between."""
    if (
        len(_ANCHORS.intersection(text.lower().encode("utf-8", "replace").translate(_APART).split())) > 1
        or len(_CUT.findall(text)) > 1
    ):
        return True
    return not text.isascii() and any(anchor in text for anchor in _ANCHORS_ZH)
