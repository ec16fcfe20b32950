"""Text does not hang on how its tokens come: whole characters, no part of a stop string, streamed as not."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tiny_tokenizers import letters, words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from luthier.engines.text import Text, whole

SAID = "né 東京 👩‍🚀! naïve — ƒ(x) ≤ 10⁻³ \ufffd “END”\n"


def byte_tokens() -> PreTrainedTokenizerFast:
    return letters("<pad>", "<s>", "</s>", pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def merged() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens are several bytes, ends of characters among them, and tokens that were added."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, show_progress=False, special_tokens=["</s>"]
    )
    backend.train_from_iterator(["東京 東北 京都 naïve café déjà 👩‍🚀👩‍🚀 the END of the line"] * 5, trainer)
    backend.add_tokens(["<think>", "two words", "日"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def fallback() -> PreTrainedTokenizerFast:
    """Pieces as SentencePiece writes them, and bytes for what there is no piece of."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁the",
        "é",
        "END",
    ]
    backend = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {"bytes": byte_tokens, "merged": merged, "fallback": fallback, "words": lambda: words(40)}


@pytest.fixture(params=sorted(TOKENIZERS), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def pieces(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    text = Text(tokenizer, stop)
    return [*(text.add(token) for token in ids), text.end()]


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


# whole characters
@pytest.mark.parametrize("make", [byte_tokens, merged])
def test_what_was_said_comes_out_in_whole_characters(make: Any) -> None:
    tokenizer = make()
    ids = tokenizer.encode(SAID, add_special_tokens=False)
    found = pieces(tokenizer, ids)
    assert "".join(found) == SAID
    assert sum("\ufffd" in piece for piece in found) == 1, "the one that was said"


def test_any_tokens_are_what_the_tokenizer_makes_of_them(tokenizer: Any) -> None:
    """Random ones, most of them broken; but for an unfinished character at the end."""
    draw = random.Random(0)
    for _ in range(400):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(24))]
        text, all_of_it = whole(tokenizer, ids), decoded(tokenizer, ids)
        if isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel) or "\ufffd" not in all_of_it:
            assert all_of_it in (text, text + "\ufffd")


def test_a_character_that_is_not_finished_is_left_out_and_broken_bytes_are_not() -> None:
    tokenizer = byte_tokens()
    for character in "é東👩":
        ids = tokenizer.encode("a" + character, add_special_tokens=False)
        for cut in range(1, len(ids)):
            assert whole(tokenizer, ids[:cut]) == "a"
        assert whole(tokenizer, ids) == "a" + character
    first, second, third = tokenizer.encode("東", add_special_tokens=False)
    assert whole(tokenizer, [second]) == "\ufffd", "no character begins like this"
    assert whole(tokenizer, [first, first, second, third]) == "\ufffd東"
    assert whole(tokenizer, [first, second, *tokenizer.encode("x", add_special_tokens=False)]) == "\ufffdx"
    alphabet = {letter: place + 3 for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    half = [alphabet["í"], alphabet["ł"]]  # ED A0: half of a surrogate pair, which is no character
    assert whole(tokenizer, half) == "\ufffd\ufffd" == decoded(tokenizer, half)


def test_pieces_of_bytes_in_a_tokenizer_of_words() -> None:
    tokenizer = fallback()
    number = tokenizer.convert_tokens_to_ids
    euro = [number(f"<0x{byte:02X}>") for byte in "€".encode()]
    ids = [number("▁the"), *euro, *euro, number("▁a"), number("b")]
    found = pieces(tokenizer, ids)
    assert "".join(found) == "the€€ ab"
    assert all("\ufffd" not in piece for piece in found)
    assert whole(tokenizer, ids[:3]) == "the", "an unfinished one is left out"
    assert whole(tokenizer, [number("a"), number("</s>"), number("▁a")]) == "a a", "what is special says nothing"


def test_tokens_that_the_tokenizer_lacks_say_nothing() -> None:
    tokenizer = byte_tokens()
    ids = tokenizer.encode("ab", add_special_tokens=False)
    assert whole(tokenizer, [ids[0], 259, 100_000, 2, ids[1]]) == "ab"


# stop strings
def reference(text: str, stop: Sequence[str]) -> str:
    """Character by character: the text before the first stop string to be complete, the longest of several."""
    for end in range(1, len(text) + 1):
        ends = [each for each in stop if text[:end].endswith(each)]
        if ends:
            return text[: end - max(map(len, ends))]
    return text


STOPS = [
    ("END",),
    ("aab",),
    ("abab", "ba"),
    ("abc", "b"),
    ("b", "abc"),
    ("aaa", "ab"),
    ("東京", "京都"),
    ("é",),
    ("👩‍🚀",),
    ("\n\n", "\n"),
    ("bab", "abba", "aa"),
]


@pytest.mark.parametrize("stop", STOPS)
def test_no_part_of_a_stop_string_is_shown_however_tokens_come(stop: tuple[str, ...]) -> None:
    """Over random texts of its own letters, one byte a token, several, and a whole text in one piece."""
    letters_of = sorted({letter for each in stop for letter in each} | set("abc"))
    draw, plain, several = random.Random(1), byte_tokens(), merged()
    for _ in range(120):
        said = "".join(draw.choice(letters_of) for _ in range(draw.randrange(16)))
        wanted = reference(said, stop)
        for tokenizer in (plain, several):
            text, shown = Text(tokenizer, stop), ""
            for token in tokenizer.encode(said, add_special_tokens=False):
                shown += text.add(token)
                assert wanted.startswith(shown)
            assert shown + text.end() == wanted
            assert text.stopped == any(each in said for each in stop)
            assert text.add(3) == text.end() == "" or not text.stopped
        at_once = Text(plain, stop)
        assert at_once._release(said) + at_once.end() == wanted


def test_what_may_become_a_stop_string_is_held_back_and_no_more() -> None:
    tokenizer = byte_tokens()
    found = pieces(tokenizer, tokenizer.encode("An ENtry, END here", add_special_tokens=False), ("END",))
    assert found[:6] == ["A", "n", " ", "", "", "ENt"]
    assert "".join(found) == "An ENtry, "
    assert "".join(pieces(tokenizer, tokenizer.encode("the EN", add_special_tokens=False), ("END",))) == "the EN"


# cost
@pytest.mark.parametrize("kind", ["text", "broken", "special", "prefixes"])
def test_long_answers_cost_by_their_length(kind: str, tokenizer: Any) -> None:
    """8,000 tokens take about ten times what 800 take; a square would be a hundred times."""
    size = len(tokenizer)
    draw = random.Random(0)
    made = {
        "text": lambda count: [draw.randrange(3, size) for _ in range(count)],
        "broken": lambda count: [min(3 + 200, size - 1)] * count,
        "special": lambda count: [0] * count,
        "prefixes": lambda count: [min(67, size - 1)] * count,
    }[kind]

    def seconds(count: int) -> float:
        ids, least = made(count), float("inf")
        for _ in range(2):
            start = time.process_time()
            whole(tokenizer, ids, ("aaaaaaaaaaaab", "END"))
            least = min(least, time.process_time() - start)
        return least

    seconds(100)
    assert seconds(8000) < 30 * seconds(800) + 0.05
