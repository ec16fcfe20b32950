"""f1, bleu, rouge and perplexity, against hand-worked numbers and the libraries' own functions."""

import math

import numpy as np
import pytest

from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.scorers.words import squad_words, words
from luthier.types import Example, Response, Turn


def example(answer: str) -> Example:
    return Example(prompt=(Turn("user", "?"),), answer=answer)


def said(text: str, logp: tuple[float, ...] | None = None) -> Response:
    return Response((Turn("assistant", text),), logp=logp)


def score(name: str, expected: str, answer: str, **keys: object) -> float | None:
    return SCORERS.build(name, keys)(example(expected), said(answer))


def corpus(name: str, pairs: list[tuple[str, str]], **keys: object) -> float:
    scorer = SCORERS.build(name, keys)
    sums = np.sum([scorer.statistics(example(expected), said(answer)) for expected, answer in pairs], axis=0)
    return float(scorer.pooled(sums[None])[0])


def test_words_of_every_script():
    assert words("The cat's 2 hats!") == ["the", "cat", "s", "2", "hats"]
    assert words("我爱北京 and テスト") == ["我", "爱", "北", "京", "and", "テ", "ス", "ト"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]  # marks stay with their letters
    assert squad_words("The cat's, a “hat”。") == ["cats", "hat"]


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("The cat sat", "a cat sat.", 1.0),  # articles and punctuation do not count
        ("cat sat on mat", "cat mat", 2 * 2 / (4 + 2)),
        ("cat cat dog", "cat cat cat", 2 * 2 / (3 + 3)),  # counted as bags
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("dog", "", 0.0),
        ("北京大学", "北京", 2 * 2 / (4 + 2)),
        ("北京。", "北京", 1.0),
    ],
)
def test_f1_counts_words_as_bags_and_chinese_by_the_character(expected, answer, right):
    assert score("f1", expected, answer) == pytest.approx(right)


def test_bleu_by_hand():
    # 5 of 6 words match; bigrams "the cat", "on the", "the mat" of 5; trigram "on the mat" of 4; 4-grams 0 of 3,
    # which exponential smoothing counts as 1/2; equal lengths, so no brevity penalty
    by_hand = 100 * (5 / 6 * 3 / 5 * 1 / 4 * (1 / 2) / 3) ** 0.25
    assert score("bleu", "the cat sat on the mat", "the cat lay on the mat") == pytest.approx(by_hand)
    # half as long as the reference: every n-gram matches, brevity penalty exp(1 - 8/4)
    assert score("bleu", "a b c d e f g h", "a b c d") == pytest.approx(100 * math.exp(-1))


@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_corpus_bleu_equals_sacrebleu(tokenize):
    from sacrebleu.metrics import BLEU

    pairs = [
        ("The quick brown fox jumps.", "The quick brown dog jumps."),
        ("It is raining, isn't it?", "It's raining."),
        ("我们今天去北京大学参观。", "今天我们去北京大学。"),
        ("yes", ""),
    ]
    expected = BLEU(tokenize=tokenize).corpus_score([answer for _, answer in pairs], [[right for right, _ in pairs]])
    assert corpus("bleu", pairs, tokenize=tokenize) == pytest.approx(expected.score, abs=1e-9)


def test_bleu_picks_the_tokenizer_by_the_reference():
    chinese = ("我们今天去北京大学参观。", "我们今天去清华大学参观。")
    assert score("bleu", *chinese) == score("bleu", *chinese, tokenize="zh") > score("bleu", *chinese, tokenize="13a")
    japanese = ("今日は東京に行きます。", "今日は京都に行きます。")
    assert score("bleu", *japanese) == score("bleu", *japanese, tokenize="char") > 0
    english = ("It's raining, isn't it?", "It's raining now.")
    assert score("bleu", *english) == score("bleu", *english, tokenize="13a")


def test_short_perfect_answers_have_full_bleu():
    assert score("bleu", "yes", "yes") == 100.0
    assert corpus("bleu", [("yes", "yes"), ("no", "no")]) == 100.0


def test_bleu_refuses_an_unknown_tokenizer():
    with pytest.raises(LuthierError, match="tokenize"):
        SCORERS.build("bleu", {"tokenize": "flores"})


def test_rouge_by_hand():
    expected, answer = "the cat sat on the mat", "the cat on the mat"
    assert score("rouge", expected, answer, variant=1) == pytest.approx(2 * 5 / (6 + 5))
    assert score("rouge", expected, answer, variant=2) == pytest.approx(2 * 3 / (5 + 4))
    assert score("rouge", expected, answer) == pytest.approx(2 * 5 / (6 + 5))  # "the cat on the mat" is common
    # Chinese by characters: 北京 in common as a set, and in order
    assert score("rouge", "我爱北京", "北京我", variant=1) == pytest.approx(2 * 3 / (4 + 3))
    assert score("rouge", "我爱北京", "北京我") == pytest.approx(2 * 2 / (4 + 3))
    assert score("rouge", "我爱北京", "", variant=2) == 0.0


@pytest.mark.parametrize("variant", [1, 2, "L"])
def test_rouge_equals_rouge_score_on_ascii(variant):
    from rouge_score.rouge_scorer import RougeScorer

    expected, answer = "Don't panic: the Answer_to it all is 42!", "The answer is 42, so don't you panic."
    own = RougeScorer([f"rouge{variant}"]).score(expected, answer)[f"rouge{variant}"].fmeasure
    assert score("rouge", expected, answer, variant=variant) == pytest.approx(own) and own > 0


def test_perplexity_by_hand():
    scorer = SCORERS.build("perplexity")
    quarter, half = math.log(1 / 4), math.log(1 / 2)
    assert scorer(example("x"), said("x", (quarter, quarter))) == pytest.approx(4.0)
    assert scorer(example("x"), said("x", (half, quarter / 1))) == pytest.approx(math.sqrt(8))
    assert scorer(example("x"), said("x", ())) is None
    # a corpus weighs tokens: three of 1/4 and one of 1/2, not the mean of two rows
    sums = np.sum(
        [
            scorer.statistics(example("x"), said("x", (quarter,) * 3)),
            scorer.statistics(example("x"), said("x", (half,))),
        ],
        axis=0,
    )
    assert scorer.pooled(sums[None])[0] == pytest.approx(2 ** (7 / 4))
    assert scorer(example("x"), said("x", (-1e6,))) == math.inf


def test_a_missing_extra_is_named_when_the_scorer_is_built(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sacrebleu", None)  # what an absent package looks like to the import system
    with pytest.raises(LuthierError, match=r"pip install 'luthier\[metrics\]'"):
        SCORERS.build("bleu")
