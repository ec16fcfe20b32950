"""Logs of conversations into labels: each rule by hand, the end of a log, and users who are on one side only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.data.ledger import Ledger
from luthier.data.logs import labels, reading, rows
from luthier.data.reading.feeds import read
from luthier.errors import LuthierError
from luthier.recipe.engagement import engagement, moment

HOUR = 3600
DAY = 24 * HOUR


def user(time: float | None = 0, text: str = "hello") -> dict[str, Any]:
    return {"role": "user", "content": text} | ({} if time is None else {"time": time})


def bot(time: float | None = 0, *events: Any, text: str = "hi") -> dict[str, Any]:
    return {"role": "assistant", "content": text, "events": list(events)} | ({} if time is None else {"time": time})


def log(folder: Path, *conversations: Any, name: str = "logs.jsonl") -> str:
    """A file; a conversation is its messages, of a user of its own, or a whole row."""
    path = folder / name
    made = [
        {"user": f"u{n}", "conversation": f"c{n}", **({"messages": one} if isinstance(one, list) else one)}
        for n, one in enumerate(conversations)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def labelled(
    folder: Path, messages: list[dict[str, Any]], *keys: str, end: float | None = 10 * DAY, **row: Any
) -> list[Any]:
    """The label, or the reason why there is none, of each response of one conversation."""
    wanted = engagement(keys)
    (one,) = reading.conversations([log(folder, {"messages": messages, **row})], wanted, Ledger())
    found = [labels.label(one, n, wanted, end) for n, message in enumerate(one.messages) if message.answers]
    return [each.reason if isinstance(each, labels.Unknown) else each for each in found]


def written(folder: Path, path: str, *keys: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    wanted, ledger = engagement(keys), Ledger()
    end = reading.ends([path], wanted)
    rows.write(reading.conversations([path], wanted, ledger), wanted, end, folder / "out", ledger)
    sides = [[json.loads(line) for line in (folder / "out" / f"{side}.jsonl").open()] for side in ("train", "test")]
    return sides[0], sides[1], json.loads((folder / "out" / "ledger.json").read_text())


def test_a_conversation_went_on_for_k_turns(tmp_path: Path) -> None:
    said = [user(0), bot(1), user(2), bot(3), user(4), bot(5)]
    assert labelled(tmp_path, said) == [True, True, False]
    assert labelled(tmp_path, said, "turns=2") == [True, False, False]
    assert labelled(tmp_path, said, "turns=3") == [False, False, False]
    in_a_row = [user(0), bot(1), user(2), user(3), user(4)]
    assert labelled(tmp_path, in_a_row, "turns=2") == [False], "messages in a row are one turn"
    late = [user(0), bot(0), user(DAY), bot(DAY), user(2 * DAY + 1)]
    assert labelled(tmp_path, late) == [True, False], "a turn counts within a day, to the second"
    assert labelled(tmp_path, late, "within=25") == [True, True]


def test_a_response_that_was_retried_or_edited_is_a_bad_one(tmp_path: Path) -> None:
    said = [
        user(0),
        bot(1, "retried", text="a"),
        bot(2, text="b"),
        user(3),
        bot(4, {"name": "edited", "text": "d"}),
        user(5),
    ]
    assert labelled(tmp_path, said, "label=not_retried") == [False, True, True]
    assert labelled(tmp_path, said, "label=not_edited") == [True, True, False]
    assert labelled(tmp_path, said) == [labels.REPLACED, True, labels.REPLACED]
    both = "label=[went_on, not_retried, not_edited]"
    assert labelled(tmp_path, said, both) == [False, True, False], "bad by one rule is bad, whatever the others know"
    assert labelled(tmp_path, [user(0), bot(1, "again")], "label=not_retried", "events.retried=again") == [False]


def test_thumbs(tmp_path: Path) -> None:
    said = [
        user(),
        bot(0, "thumbs_up"),
        user(),
        bot(0, "thumbs_down"),
        user(),
        bot(),
        user(),
        bot(0, "thumbs_up", "thumbs_down"),
    ]
    assert labelled(tmp_path, said, "label=thumbs") == [True, False, labels.UNJUDGED, labels.BOTH_THUMBS]


def test_what_the_end_of_a_log_cuts_off_is_no_label(tmp_path: Path) -> None:
    said = [user(0), bot(1), user(2), bot(HOUR)]
    assert labelled(tmp_path, said, end=DAY + HOUR) == [True, False], "the day of the last response is over"
    assert labelled(tmp_path, said, end=DAY + HOUR - 1) == [True, labels.UNWATCHED]
    assert labelled(tmp_path, said, end=DAY) == [labels.UNWATCHED] * 2, "a good one is left out by the same clock"
    assert labelled(tmp_path, said, "label=not_retried", end=DAY) == [labels.UNWATCHED] * 2
    assert labelled(tmp_path, said, "label=[went_on, not_retried]", end=DAY) == [labels.UNWATCHED] * 2
    timeless = [user(None), bot(None), user(None), bot(None)]
    assert labelled(tmp_path, timeless, end=None) == [labels.UNENDED] * 2
    assert labelled(tmp_path, timeless, end=None, ended=True) == [True, False]


def test_a_longer_log_adds_labels_and_changes_none_and_the_share_of_good_ones_stays(tmp_path: Path) -> None:
    """Users who go on with chance 0.7, at a random hour; the log is cut while many of them talk."""
    rng = np.random.default_rng(0)
    conversations = []
    for _ in range(1500):
        time, said = float(rng.uniform(0, 6 * DAY)), []
        while not said or rng.random() < 0.7:
            said += [user(time), bot(time + 1)]
            time += float(rng.uniform(0, DAY))
        conversations.append(said)
    names = [f"c{n}" for n in range(len(conversations))]

    def cut(end: float) -> dict[tuple[str, int], Any]:
        kept = [
            {"conversation": name, "user": name, "messages": [one for one in said if one["time"] <= end]}
            for name, said in zip(names, conversations, strict=True)
        ]
        wanted = engagement([])
        path = log(tmp_path, *(row for row in kept if row["messages"]))
        return {
            (one.user, place): labels.label(one, place, wanted, end)
            for one in reading.conversations([path], wanted, Ledger())
            for place, message in enumerate(one.messages)
            if message.answers
        }

    short, long = cut(2.5 * DAY), cut(20 * DAY)
    known = {place: value for place, value in short.items() if isinstance(value, bool)}
    assert len(known) > 500 and len(short) - len(known) > 500
    assert all(long[place] is value for place, value in known.items())
    share = float(np.mean(list(known.values())))
    assert share == pytest.approx(0.7, abs=0.04)
    # what it would be to believe what the end of the log shows, or to leave out the silent ones alone
    said_yes = {place for place, value in long.items() if value is True and place in short}
    seen = {place for place in said_yes if any(p[0] == place[0] and p[1] > place[1] for p in short)}
    assert len(seen) / len(short) < 0.6, "believed: too few"
    silent = sum(value is False for value in known.values())
    assert len(seen) / (len(seen) + silent) > 0.78, "left out where silent: too many"


def test_rows_hold_what_the_user_saw_and_nothing_that_tells_who_it_was(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind.", "time": 0}
    said = [
        system, bot(0, text="Welcome."), {**user(1, "one"), "ip": "10.0.0.1"}, bot(2, "retried", text="first try"),
        bot(3, {"name": "edited", "text": "mended", "by": "ann"}, text="second try"),
        user(4, "two"), bot(5, text="third"),
    ]  # fmt: skip
    path = log(tmp_path, {"user": "ann@example.org", "model": "warm", "messages": said}, [user(0), bot(9 * DAY)])
    train, test, _ = written(tmp_path, path, "label=not_retried", "test=0")
    assert not test
    texts = [[message["content"] for message in row["messages"]] for row in train]
    head = ["Be kind.", "Welcome.", "one"]
    assert texts == [[*head, "first try"], [*head, "second try"], [*head, "mended", "two", "third"]]
    assert [row["label"] for row in train] == [False, True, True]
    assert all(row["model"] == "warm" and row["user"] == rows.pseudonym("ann@example.org", "luthier") for row in train)
    everything = "".join(each.read_text() for each in (tmp_path / "out").iterdir())
    assert "ann" not in everything and "10.0.0.1" not in everything
    assert rows.pseudonym("ann", "a") != rows.pseudonym("ann", "b")
    short, _, _ = written(tmp_path, path, "label=not_retried", "test=0", "context=2")
    assert [message["content"] for message in short[2]["messages"]] == ["Be kind.", "two", "third"]
    examples = list(read(str(tmp_path / "out" / "train.jsonl")))
    assert [one.responses[0].reward for one in examples] == [0.0, 1.0, 1.0], "`data:` reads them as labelled responses"
    assert [turn.text for turn in examples[1].prompt] == head


def test_no_user_is_on_both_sides(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    made = [{"user": int(rng.integers(200)), "messages": [user(0, f"q{n % 7}"), bot(1), user(2)]} for n in range(1000)]
    path = log(tmp_path, *made, [user(9 * DAY)])
    train, test, told = written(tmp_path, path, "test=0.3")
    users = [{row["user"] for row in side} for side in (train, test)]
    assert not users[0] & users[1]
    assert len(users[0] | users[1]) == len({row["user"] for row in made}) and 0.2 < len(users[1]) / 200 < 0.4
    assert told["train"]["rows"] + told["test"]["rows"] == 1000 and told["test"]["users"] == len(users[1])
    assert told["test_rows_whose_words_train"] == len(test), "seven questions stand on both sides, and it is told"
    (tmp_path / "more").mkdir()
    more = log(tmp_path, *made, *({**row, "conversation": f"x{n}"} for n, row in enumerate(made)), [user(9 * DAY)])
    again = written(tmp_path, more, "test=0.3")
    assert {row["user"] for row in again[1]} == users[1], "a user stays on a side, however the log grows"
    other = written(tmp_path, path, "test=0.3", "salt=pepper")
    assert not users[1] & {row["user"] for row in other[1]}


def test_what_is_left_out_is_counted_with_its_reason_and_place(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        [user(0), bot(1), bot(2), user(3), bot(4), user(5)],
        [bot(0), user(1), bot(2, text=" ")],
        [user(9 * DAY), bot(9 * DAY), user(9 * DAY)],
        [user(0), user(None)],
        [user(1), bot(0)],
        {"user": None, "messages": [user(0)]},
        [user(0, "x") | {"role": "narrator"}],
        [user(0) | {"time": "noon"}],
        [user(0) | {"events": ["edited"]}],
        [user(0), bot(1, "shared"), user(2)],
    )
    train, _, told = written(tmp_path, path, "test=0")
    assert len(train) == 2 and told["responses"]["read"] == 7
    left = {reason: (entry["count"], entry["rows"][0]) for reason, entry in told["responses"]["left_out"].items()}
    assert left == {
        labels.TWICE: (2, f"{path}:1, message 2"),
        labels.UNASKED: (1, f"{path}:2, message 1"),
        labels.EMPTY: (1, f"{path}:2, message 3"),
        labels.UNWATCHED: (1, f"{path}:3, message 2"),
    }
    dropped = {reason: entry["rows"] for reason, entry in told["conversations"]["dropped"].items()}
    assert dropped == {
        "some of the messages have a time, and others none": [f"{path}:4"],
        "the messages are not in the order of their times": [f"{path}:5"],
        "'user' is null, not a name or a number": [f"{path}:6"],
        "a message's role is none of system, developer, user, assistant, tool": [f"{path}:7"],
        "a message's 'time' is neither a date nor seconds since 1970": [f"{path}:8"],
        "a message of the role 'user' was edited: only a response can be": [f"{path}:9"],
    }
    (note,) = told["notes"]
    assert "the event 'shared' says nothing here" in note


@pytest.mark.parametrize(
    ("rows_", "keys", "message"),
    [
        ([{"user": 1, "messages": [user()]}], (), "columns are user, messages; .*needs .*→ .*columns.conversation="),
        ([{"user": 1, "conversation": 1, "messages": [user()]}], ("columns.model=arm",), "none is 'arm'"),
        ([{"user": n, "conversation": 1, "messages": [user()]} for n in (1, 2)], (), "'1' stands in two rows.*:1"),
        ([{"user": 1, "conversation": 1, "messages": [user(DAY)]}], ("until=1970-01-01",), "after the log's end"),
        (
            [{"user": 1, "conversation": 1, "messages": [user(), bot()]}],
            (),
            "no response in the log has a label: the log",
        ),
        ([], (), "empty"),
        ([{"a": 1}], ("until=soon",), "no date"),
        ([{"a": 1}], ("label=liked",), "label"),
        ([{"a": 1}], ("label=[went_on, went_on]",), "twice"),
        ([{"a": 1}], ("turns=0",), "greater than"),
        ([{"a": 1}], ("turns=many",), r"docs/engagement\.md says what turns takes"),
        ([{"a": 1}], ("test=1",), "less than"),
        ([{"a": 1}], ("events.regenerated=retried",), "regenerated"),
        ([{"a": 1}], ("silence=3",), "silence"),
    ],
)
def test_bad_logs_and_keys_are_told(tmp_path: Path, rows_: list[Any], keys: Iterable[str], message: str) -> None:
    path = tmp_path / "logs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    with pytest.raises(LuthierError) as told:
        written(tmp_path, str(path), *keys)
    import re

    assert re.search(message, str(told.value).replace("\n", " "))
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    path = log(tmp_path, [user(0), bot(1), user(2)], [user(9 * DAY)])
    written(tmp_path, path)
    written(tmp_path, path)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(LuthierError, match=r"holds mine\.txt"):
        written(tmp_path, path)


def test_times_of_any_spelling() -> None:
    assert (
        moment("1970-01-02T00:00:00Z")
        == moment("1970-01-02")
        == moment("1970-01-02T01:00:00+01:00")
        == DAY
        == moment(DAY)
    )
    assert (
        moment(True) is moment("noon") is moment(-1) is moment(1.7e12) is moment(float("nan")) is moment(None) is None
    )
