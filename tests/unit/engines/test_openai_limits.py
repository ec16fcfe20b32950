"""How fast an endpoint is asked and for how much, what is kept of its answers, and where its key goes."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from endpoints import apart, endpoint, fault, opened, request, said

from luthier.engines import ENGINES
from luthier.engines.openai.limits import Budget, Entry, Pace
from luthier.errors import LuthierError
from luthier.recipe import loads, lock, resolve
from luthier.workflow.registries import REGISTRIES

__all__ = ["apart"]

KEY = "sk-a-key-nobody-may-see-1234567890"


def test_the_pace_by_hand() -> None:
    now = [0.0]
    pace = Pace(2, None, clock=lambda: now[0])
    assert isinstance(pace.take(1), Entry) and isinstance(pace.take(1), Entry)
    assert pace.take(1) == 60.0
    now[0] = 59.0
    assert pace.take(1) == pytest.approx(1.0)
    now[0] = 60.0
    assert isinstance(pace.take(1), Entry)

    now[0] = 0.0
    pace = Pace(None, 100, clock=lambda: now[0])
    first = pace.take(60)
    assert isinstance(first, Entry) and pace.take(60) == 60.0
    pace.settle(first, 40)  # it was shorter than it might have been
    assert isinstance(pace.take(60), Entry)
    now[0] = 30.0
    assert pace.take(500) == 30.0, "larger than a minute's share: alone"
    now[0] = 60.0
    assert isinstance(pace.take(500), Entry) and pace.take(1) == 60.0


def test_the_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda *_: said("hi")) as found:
        engine = opened(found.url, requests_per_minute=3)
        engine._pace = Pace(3, None, minute=0.4)
        start = time.monotonic()
        list(engine.run([request(place) for place in range(7)]))
    assert 0.8 <= time.monotonic() - start < 5


def test_the_budget_by_hand() -> None:
    budget = Budget((1.0, 2.0), 0.001, None)  # a thousand tokens in, or five hundred out
    first = budget.reserve(400, 100, "here")
    budget.settle(first, 400, 50)
    assert budget.spent == "400 tokens read and 50 written in 1 calls, 0.0005 in cost"
    second = budget.reserve(300, 100, "here")
    budget.release(second)
    with pytest.raises(LuthierError, match=r"max_cost 0.001\) is used up: 400 tokens read .* 0.0005 in cost"):
        budget.reserve(301, 100, "here")


def test_a_budget_is_never_overspent_and_says_what_was_spent() -> None:
    with endpoint(lambda *_: said("hi", read=4, written=10)) as found:
        engine = opened(found.url, max_total_tokens=100, concurrency=8)
        completions, made = engine.run([request(place) for place in range(50)]), []
        with pytest.raises(LuthierError, match="is used up") as error:
            for completion in completions:
                made.append(completion)
    # a call may take 4 + 20 tokens, and takes 14: after six there are 16 left
    assert len(made) == len(found.asked) == 6
    assert "24 tokens read and 60 written in 6 calls" in error.value.what and error.value.where == found.url


def test_answers_are_kept_and_asked_for_once(tmp_path: Path) -> None:
    answers = iter(range(100))
    with endpoint(lambda *_: said(f"answer {next(answers)}")) as found:
        first = list(opened(found.url, cache=True, concurrency=1).run([request(0, n=2, temperature=1.0), request(1)]))
        again = list(opened(found.url, cache=True, concurrency=1).run([request(0, n=3, temperature=1.0), request(1)]))
        assert [each.text for each in first] == ["answer 0", "answer 1", "answer 2"]
        assert [each.text for each in again] == ["answer 0", "answer 1", "answer 3", "answer 2"]
        assert again[0].length == 5
        list(opened(found.url, cache=True).run([request(1, max_new_tokens=21)]))
        list(opened(found.url, cache=True, model="other").run([request(1)]))
        assert len(found.asked) == 6
        list(opened(found.url).run([request(1)]))
        assert len(found.asked) == 7, "a model on this machine may be another by now"
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_text(path.read_text()[:9])
        list(opened(found.url, cache=True).run([request(1)]))
        assert len(found.asked) == 8, "half an answer is none"
    assert not list((tmp_path / "cache").rglob(".*")), "nothing is left half-written"


def test_kept_answers_cost_nothing() -> None:
    with endpoint(lambda *_: said("hi", read=4, written=10)) as found:
        list(opened(found.url, cache=True).run([request(place) for place in range(6)]))
        engine = opened(found.url, cache=True, max_total_tokens=24)
        assert len(list(engine.run([request(place) for place in range(7)]))) == 7
    assert engine.budget.spent == "4 tokens read and 10 written in 1 calls"


def test_the_key_is_in_the_header_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    refused = fault(401, f"wrong key: {KEY}, as in sk-a-***********7890")
    answers = iter([said("hi"), refused, *[fault(500, f"Bearer {KEY} broke it")] * 3])
    with endpoint(lambda *_: next(answers)) as found:
        engine = opened(found.url, cache=True, key_env="MY_KEY", concurrency=1)
        list(engine.run([request()]))
        errors = []
        for place in (1, 2):
            with pytest.raises(LuthierError) as error:
                list(engine.run([request(place)]))
            errors.append(str(error.value))
    assert [headers["Authorization"] for headers in found.headers] == [f"Bearer {KEY}"] * 5
    assert "wrong key: …, as in …" in errors[0] and "Bearer … broke it" in errors[1]
    recipe = loads(
        f"model: m\ndata: d.jsonl\noutput: o\nengine: {{openai: {{url: '{found.url}', model: m, key_env: MY_KEY}}}}"
    )
    (tmp_path / "recipe.lock.yaml").write_text(lock(resolve(recipe, REGISTRIES).recipe))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2
    for text in (*errors, repr(vars(engine)), caplog.text, *capfd.readouterr(), *(p.read_text() for p in written)):
        assert KEY not in text and KEY[:12] not in text
    assert KEY not in json.dumps([body for _, body in found.asked])


def test_a_key_goes_where_it_was_meant_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with endpoint(lambda *_: said("hi")) as found:
        list(opened(found.url).run([request()]))
        list(opened(found.url, key_env="OPENAI_API_KEY").run([request()]))
    assert [headers.get("Authorization") for headers in found.headers] == [None, f"Bearer {KEY}"]
    assert ENGINES.build("openai", {"url": "https://api.openai.com/v1", "model": "m"}).key_from == "OPENAI_API_KEY"
    with pytest.raises(LuthierError, match="variable OTHER_KEY, which holds the key for this endpoint, is not set"):
        opened(found.url, key_env="OTHER_KEY")
