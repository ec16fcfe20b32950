"""Which encoding text has that is not UTF-8: by its first bytes, by its zeros, or by decoding it on trial.

On trial every encoding reads the same bytes, and the one whose characters are those that people use most in its
languages has it. Old encodings put common characters first, so that their own tables say which are common.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from functools import cache

KINDS = (
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\xfd7zXZ\0", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"PK\x03\x04", "a zip archive (as .xlsx and .docx are, too)"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"%PDF-", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file itself)"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\xd0\xcf\x11\xe0", "a file of an old office program (as .xls and .doc are)"),
)
"""First bytes of files that hold no text → what they are."""

UNLIKE_TEXT = (b"%PDF-", b"version https://git-lfs")
"""Those that could be read as text, and are none that trains."""

HAN = (
    "的一是不了在人有我他个中上大和地到以要就出可也你生能而子那得下自之年作里用道行所然家事成方多去法如都同面起看定天分好小"
    "部其些主理心她本前但因只想日者意力它把十民第公此已工使情明性知全三又正外高由很最重物手向文政美相被利什二等或新己制身果"
    "加西斯月合回特代信表化老世位次度任常先海通教原立及比水名真走各入口平活更打女四神何安少才反受目太再感建做接必件管期市直"
    "命山金指克保至形社便空治科司五基眼非白却界光放且思王完式色路南品住告求程北死交取拉格望共今切候"
)
"""Frequent Chinese characters that are written alike in both forms."""
SIMPLIFIED = (
    "们这来为国说时会对于着过发后种经么学现当没动还进样开从实军无与长机关点业将两间问并应战头体见产话给门儿东声提员解论处义"
    "几认条系气题尔别变总电数报结量务场计资许统区队决展马书则听达强即像难权象设记类据边张该规万觉术领确传师观清院让识带导争"
    "运请谢颜蓝绿红么吗呢吧问题"
)
TRADITIONAL = (
    "們這來為國說時會對於著過發後裡種經麼學現當沒動還進樣開從實軍無與長機關點業將兩間問並應戰頭體見產話給門兒東聲提員解論處"
    "義幾認條系氣題爾別變總電數報結量務場計資許統區隊決展馬書則聽達強即像難權象設記類據邊張該規萬覺術領確傳師觀清院讓識帶導"
    "爭運請謝顏藍綠紅嗎呢吧臺"
)
KANJI = (
    "質問答日本人大年一国中出時行見月分後前生間上東今金入学高円子外下来気小山話女北書先名水男西電校語"
    "食車何南万毎白天色空青"
)
"""Frequent ones in Japanese."""
SYLLABLES = (
    "이다는에가의을를은도로고하지한사리어기나시자아그라대해있서수부정일전보으제것적주니스상만게면인들과와년동원여모장유성경공국"
    "조구선무비안신교화방생미물바오마까요습합세입우할된되때없같중본학문실무슨늘파란색답질"
)
MARKS = "，。？！：；、“”‘’「」『』《》（）…—・　"
"""Punctuation of East Asian texts."""
TYPED = "’‘“”„«»–—…°€·№ \u00a0"
"""What is not ASCII in texts of any Western language."""

COMMON, USED, ODD, BROKEN = 1.0, 0.4, -1.0, -2.0
"""What a character says for an encoding: frequent in its languages, used in them, hardly ever seen, out of place."""
ENOUGH = 0.3
"""A mean below this is a guess that is not worth telling."""


@dataclass(frozen=True)
class Candidate:
    """An encoding as iconv calls it, Python's codec, and which of its characters are frequent, and which are used."""

    name: str
    codec: str
    common: str
    used: str = ""
    level: tuple[str, int, int] | None = None
    """Characters whose first byte in this codec lies between the two are used, too."""
    within: str = ""
    """What is out of place in its words, as a pattern."""

    def score(self, text: str) -> float:
        """How well the text reads that these bytes are in this encoding, at most 1."""
        letters = [letter for letter in text if letter > "\x7f"]
        total = sum(_worth(self, letter) for letter in letters)
        total += BROKEN * len(re.findall(self.within, text)) if self.within else 0.0
        return total / len(letters) if letters else 0.0


@cache
def _worth(candidate: Candidate, letter: str) -> float:
    if letter in candidate.common:
        return COMMON
    if letter in candidate.used or (candidate.level and _in_level(letter, *candidate.level)):
        return USED
    return ODD


def _in_level(letter: str, codec: str, first: int, last: int) -> bool:
    try:
        return first <= letter.encode(codec)[0] <= last
    except UnicodeEncodeError:
        return False


CYRILLIC = "оеаинтсрвлкмдпу"
OTHERS = "бягызьчйхжшюцщэфъё" + "оеаинтсрвлкмдпубягызьчйхжшюцщэфъё".upper() + "іїєґІЇЄҐўЎ"
GREEK = "αοιετσνηυρπκμλςάέήίόύ"
KANA = "".join(map(chr, range(0x3041, 0x3094))) + "ー"
KATAKANA = "".join(map(chr, range(0x30A1, 0x30F7)))
THAI_MARKS = "[^ก-ฮ\u0e31\u0e34-\u0e3a\u0e47-\u0e4e][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]|[เแโใไ](?![ก-ฮ])|"
ALONE = "[a-zA-Z][{0}]|[{0}][a-zA-Z]"
"""Letters of this script do not stand in one word with Latin ones."""
SHOUTED = "[а-яё][А-ЯЁ]|[─-▟]|" + ALONE.format("А-яЁё")
"""Nor do capitals behind small letters, nor pieces of frames."""
AMONG = "(?<=[À-žȘ-ț]{2})[À-žȘ-ț]"
"""Letters with accents are no words of their own."""
RARE = TYPED + "§£ªº½²³±×µ©®"


def _latin(name: str, codec: str, *languages: str) -> tuple[Candidate, ...]:
    """A candidate for each language, whose letters with accents are given."""
    return tuple(Candidate(name, codec, small, small.upper() + RARE, within=AMONG) for small in languages)


CENTRAL = ("áčďéěíňóřšťúůýž", "ąćęłńóśźż", "áéíóöőúüű", "áäčďéíĺľňóôŕšťúýž", "čćđšž", "ăâîşţ")
"""Czech, Polish, Hungarian, Slovak, the languages of former Yugoslavia, Romanian."""
CANDIDATES = (
    # French, German, Spanish, Portuguese, Italian, Nordic, Icelandic
    *_latin("CP1252", "cp1252", "éèàùâêîôûçëïüœ", "äöüß", "áéíóúñü¿¡", "áàâãéêíóôõúç", "àèéìòù", "åäöæøé",
            "áéíóúýþæöð"),
    *_latin("CP1250", "cp1250", *CENTRAL),
    *_latin("ISO-8859-2", "iso8859_2", *CENTRAL),
    *_latin("CP1254", "cp1254", "ğışçöüİâîû"),
    *_latin("CP1257", "cp1257", "ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),
    Candidate("CP1251", "cp1251", CYRILLIC, OTHERS + TYPED, within=SHOUTED),
    Candidate("KOI8-R", "koi8_r", CYRILLIC, OTHERS, within=SHOUTED),
    Candidate("CP866", "cp866", CYRILLIC, OTHERS, within=SHOUTED),
    Candidate("CP1253", "cp1253", GREEK, "ωδγχθφβξζψώϊϋΐΰ" + GREEK.upper() + "ΩΔΓΧΘΦΒΞΖΨΏ" + TYPED,
              within="[α-ώ][Α-Ω]|ς[α-ώ]|" + ALONE.format("Ά-ώ")),
    Candidate("CP1255", "cp1255", "אבגדהוזחטיךכלםמןנסעףפץצקרשת", TYPED,
              within="[ךםןףץ][א-ת]|" + ALONE.format("א-ת")),
    Candidate("CP1256", "cp1256", "ابتثجحخدذرزسشصضطظعغفقكلمنهويةىأإآئؤء", "،؛؟پچژگـًٌٍَُِّْ" + TYPED,
              within=ALONE.format("ء-ي")),
    Candidate("GB18030", "gb18030", HAN + SIMPLIFIED + MARKS, level=("gb2312", 0xB0, 0xD7)),
    Candidate("BIG5", "big5", HAN + TRADITIONAL + MARKS, level=("big5", 0xA4, 0xC6)),
    Candidate("CP950", "cp950", HAN + TRADITIONAL + MARKS, level=("big5", 0xA4, 0xC6)),
    Candidate("SHIFT_JIS", "shift_jis", KANA + KANJI + MARKS, KATAKANA, ("euc_jp", 0xB0, 0xCF)),
    Candidate("CP932", "cp932", KANA + KANJI + MARKS, KATAKANA, ("euc_jp", 0xB0, 0xCF)),
    Candidate("EUC-JP", "euc_jp", KANA + KANJI + MARKS, KATAKANA, ("euc_jp", 0xB0, 0xCF)),
    Candidate("EUC-KR", "euc_kr", SYLLABLES, MARKS, ("euc_kr", 0xB0, 0xC8)),
    Candidate("CP949", "cp949", SYLLABLES, MARKS, ("euc_kr", 0xB0, 0xC8)),
    Candidate("CP874", "cp874", "านรอกเงมยลวดทสตะบคหแ่้ัีิ", "ปจพชขใไโซถผืุู์็ำฉธศณฟษภฝฮญฎฏฐฑฒฆฌฬฤๆฯ" + TYPED,
              within=THAI_MARKS + ALONE.format("ก-ฮ")),
)  # fmt: skip
"""The likeliest and the narrowest first: it is named where two read the bytes alike, as CP1252 and CP1250 do German."""
WIDE = tuple(
    Candidate(name, codec, HAN + SIMPLIFIED + TRADITIONAL + KANA + KANJI + SYLLABLES + MARKS + CYRILLIC,
              OTHERS + KATAKANA, ("gb18030", 0xB0, 0xD7))
    for name, codec in (("UTF-16LE", "utf_16_le"), ("UTF-16BE", "utf_16_be"))
)  # fmt: skip


def likely(content: bytes) -> str | None:
    """The encoding, as iconv calls it, in which these bytes read best; None where none of them reads well.

    Text in two bytes a character has zeros: those of its line ends."""
    best, found = ENOUGH, None
    for candidate in WIDE if b"\0" in content else CANDIDATES:
        text = _decoded(content, candidate.codec)
        if text is not None and (score := candidate.score(text)) > best:
            best, found = score, candidate.name
    return found


def _decoded(content: bytes, codec: str) -> str | None:
    """The text, which may end within a character, without JSON's escapes (the n of a newline is no letter of a word);
    None where it cannot be decoded."""
    try:
        return re.sub(r"\\.", " ", codecs.getincrementaldecoder(codec)().decode(content))
    except UnicodeDecodeError:
        return None


def mostly_utf8(content: bytes) -> bool:
    """Is most of what is not ASCII whole UTF-8 characters? Then a byte or a line is broken."""
    faults = len(content.decode("utf-8", "replace").split("\ufffd")) - 1
    whole = sum(letter > "\x7f" for letter in content.decode("utf-8", "ignore"))
    return whole > 4 * faults


def wide(first: bytes) -> str | None:
    """The encoding of text whose characters are two or four bytes, by its first four bytes; else None."""
    if first in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "UTF-32"
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    zeros = [not byte for byte in first]  # rows begin with characters of ASCII, one byte of which is zero
    kinds = {
        "UTF-16LE": [False, True] * 2,
        "UTF-16BE": [True, False] * 2,
        "UTF-32LE": [False, True, True, True],
        "UTF-32BE": [True, True, True, False],
    }
    return next((name for name, places in kinds.items() if places == zeros), None)


def kind_of_file(first: bytes) -> str | None:
    """What a file is that holds no text, by its first bytes; None where they do not say."""
    return next((kind for begin, kind in KINDS if first.startswith(begin)), None)


def pretends(first: bytes) -> str | None:
    """What a file is that could be read as text and is none that trains, by its first bytes; else None."""
    return kind_of_file(first) if first.startswith(UNLIKE_TEXT) else None


__all__ = ["kind_of_file", "likely", "mostly_utf8", "pretends", "wide"]
