"""Scripts without spaces between words: an answer that is nearly right is nearly right, by every scorer."""

import pytest

from luthier.scorers import SCORERS
from luthier.scorers.words import squad_words, words
from luthier.types import Example, Response, Turn

# a sentence, and the same with one word changed; of each script
NEAR = {
    "Thai": ("ฉันชอบกินข้าวผัดมาก", "ฉันชอบกินข้าวต้มมาก"),
    "Lao": ("ຂ້ອຍມັກກິນເຂົ້າຜັດ", "ຂ້ອຍມັກກິນເຂົ້າຕົ້ມ"),
    "Khmer": ("ខ្ញុំចូលចិត្តញ៉ាំបាយ", "ខ្ញុំចូលចិត្តញ៉ាំនំ"),
    "Burmese": ("ကျွန်တော်ထမင်းစားချင်တယ်", "ကျွန်တော်မုန့်စားချင်တယ်"),
    "Tibetan": ("ང་ཁ་ལག་བཟའ་བར་དགའ།", "ང་ཁ་ལག་བཟོ་བར་དགའ།"),
    "Tai Le": ("ᥐᥑᥒᥓᥔ", "ᥐᥑᥒᥓᥕ"),
    "Javanese": ("ꦏꦒꦔꦕꦗ", "ꦏꦒꦔꦕꦚ"),
    "Han": ("我很喜欢吃炒饭", "我很喜欢吃米饭"),
    "kana": ("わたしはごはんがすきです", "わたしはパンがすきです"),
}
SCORERS_OF_WORDS = [("f1", {}), ("bleu", {}), ("rouge", {}), ("rouge", {"variant": 1}), ("rouge", {"variant": 2})]


@pytest.mark.parametrize(("name", "args"), SCORERS_OF_WORDS, ids=lambda value: str(value))
@pytest.mark.parametrize("script", NEAR)
def test_a_near_answer_scores_between_none_and_all(name, args, script):
    scorer = SCORERS.build(name, args)
    expected, near = NEAR[script]
    best = scorer.range[1]

    def score(said: str) -> float:
        return scorer(Example((), answer=expected), Response((Turn("assistant", said),))) / best

    assert score(expected) == pytest.approx(1)
    assert 0.3 < score(near) < 1
    assert score("no") < 0.05


def test_a_letter_keeps_its_marks_and_digits_stay_together():
    # ko kai, sara i, mai tho: one letter with two marks; the digits one two
    assert words("กิ้ก ๑๒ AB") == ["กิ้", "ก", "๑๒", "ab"]
    assert squad_words("กิ้ก๑๒, the AB") == ["กิ้", "ก", "๑๒", "ab"]


def test_a_space_that_is_not_seen_is_no_word():
    assert words("ក\u200bខ") == squad_words("ក\u200bខ") == ["ក", "ខ"]


def test_tibetan_is_cut_alike_with_and_without_its_points():
    assert words("ང་ཁ") == squad_words("ང་ཁ") == ["ང", "ཁ"]


def test_scripts_with_spaces_are_cut_at_them():
    for text in ("привет мир", "नमस्ते दुनिया", "안녕하세요 세계", "مرحبا بالعالم", "héllo e\u0301t"):
        assert words(text) == squad_words(text) == text.split()
