"""The engine behind an address, over a real wire: what it sends, what it makes of the answers, and when it gives up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
from endpoints import STOP, TURNS, Answer, apart, endpoint, fault, opened, request, said
from tiny_tokenizers import words

from luthier.engines import ENGINES, LocalEngine
from luthier.engines.openai import wire
from luthier.engines.openai.engine import at_once
from luthier.errors import LuthierError
from luthier.types import Completion, Encoded, Engine, Grammar, Request, Sampling, Turn

__all__ = ["apart"]


def test_a_conversation_goes_out_as_messages_and_comes_back_as_a_completion() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = (*TURNS, Turn("assistant", "", calls=(call,)), Turn("tool", "2", extra={"tool_call_id": "call_0"}))
    tools = ({"type": "function", "function": {"name": "add"}},)
    with endpoint(lambda *_: said("hi", finish="length", written=20)) as found:
        engine = opened(found.url)
        assert isinstance(engine, Engine)
        (made,) = engine.run([Request((7, 8), Sampling(max_new_tokens=20), id="x", turns=turns, tools=tools)])
    assert made == Completion((), "hi", "length") and (made.request, made.length, made.index) == ("x", 20, 0)
    ((path, body),) = found.asked
    assert path == "/v1/chat/completions"
    assert body["messages"][:2] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert body["messages"][2]["tool_calls"] == [
        {"type": "function", "id": "call_0", "function": {"name": "add", "arguments": '{"a": 1}'}}
    ]
    assert body["messages"][3] == {"role": "tool", "content": "2", "tool_call_id": "call_0"}
    assert body["tools"] == [dict(tool) for tool in tools]
    assert {key: body[key] for key in ("model", "max_tokens", "temperature")} == {
        "model": "m",
        "max_tokens": 20,
        "temperature": 0,
    }
    assert not body.keys() & {"seed", "top_p", "stop", "logit_bias", "top_k"}, "what is usual is not sent"


def test_settings_are_sent_where_they_differ_from_the_usual() -> None:
    keys = {"temperature": 0.7, "top_p": 0.9, "stop": ("END",), "presence_penalty": 0.5, "top_k": 3, "seed": 2**40}
    schema = Grammar("json_schema", '{"type": "object"}')
    with endpoint(lambda *_: said("hi")) as found:
        list(opened(found.url, limit_key="max_completion_tokens").run([request(n=2, grammar=schema, **keys)]))
    first, second = (body for _, body in found.asked)
    sent = [first[key] for key in ("temperature", "top_p", "stop", "presence_penalty", "top_k")]
    assert sent == [0.7, 0.9, ["END"], 0.5, 3]
    assert first["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert first["max_completion_tokens"] == 20 and "max_tokens" not in first
    assert first["seed"] != second["seed"] and all(0 <= seed < 2**31 for seed in (first["seed"], second["seed"]))


def test_a_prompt_goes_out_as_text_where_there_are_no_messages() -> None:
    with endpoint(lambda *_: said("w3 w4", chat=False)) as found:
        (made,) = opened(found.url).generate([[7, 8, 9]], Sampling(max_new_tokens=4))
        assert made.text == "w3 w4" and made.ids == made.sampled == ()
        list(opened(found.url, ask="text").run([request()]))
    assert found.asked[0] == (
        "/v1/completions",
        {"model": "m", "max_tokens": 4, "temperature": 0, "prompt": "w7 w8 w9"},
    )
    assert found.asked[1][1]["prompt"] == "w7 w8 w9 w10"


@pytest.mark.parametrize("ask", ["chat", "text"])
def test_the_likeliest_tokens_come_back_as_text_where_they_are_asked_for(ask: str) -> None:
    places = [{"A": -0.5, "B": -1.0}, {"!": -0.1}]
    told = {
        "chat": {"content": [{"top_logprobs": [{"token": t, "logprob": p} for t, p in at.items()]} for at in places]},
        "text": {"tokens": ["A", "!"], "token_logprobs": [-0.5, -0.1], "top_logprobs": places},
    }

    def answer(*_: Any) -> Answer:
        status, headers, body = said("A!", chat=ask == "chat")
        body["choices"][0]["logprobs"] = told[ask]
        return status, headers, body

    with endpoint(answer) as found:
        (made,) = opened(found.url, ask=ask).run([request(top_logprobs=5)])
        (other,) = opened(found.url, ask=ask).run([request()])
    assert made.top_texts == ((("A", -0.5), ("B", -1.0)), (("!", -0.1),)) and made.sampled == made.logprobs == ()
    asked = {"logprobs": True, "top_logprobs": 5} if ask == "chat" else {"logprobs": 5}
    assert asked.items() <= found.asked[0][1].items()
    assert other.top_texts == () and "logprobs" not in found.asked[1][1]


def test_an_endpoint_that_tells_no_likelihoods_or_odd_ones() -> None:
    odd: list[Any] = [None, {}, {"content": None}, {"content": []}, {"top_logprobs": [None, {}]}]
    for logprobs in odd:
        with endpoint(lambda *_, told=logprobs: (*said("A")[:2], with_logprobs(told))) as found:
            (made,) = opened(found.url).run([request(top_logprobs=5)])
            assert made.text == "A" and not any(made.top_texts)
    for logprobs in [{"content": [{"top_logprobs": [{"token": "A"}]}]}, {"top_logprobs": [3]}, {"content": 3}, [1]]:
        with (
            endpoint(lambda *_, told=logprobs: (*said("A")[:2], with_logprobs(told))) as found,
            pytest.raises(LuthierError, match="no completion"),
        ):
            list(opened(found.url).run([request(top_logprobs=5)]))


def with_logprobs(told: Any) -> dict[str, Any]:
    body: dict[str, Any] = said("A")[2]
    body["choices"][0]["logprobs"] = told
    return body


def behind(engine: LocalEngine) -> Any:
    """Our own engine, as an endpoint that answers tokens by tokens."""
    held = threading.Lock()

    def answer(path: str, body: dict[str, Any]) -> Answer:
        assert path == "/v1/completions" and body["return_token_ids"]
        sampling = Sampling(max_new_tokens=body["max_tokens"], stop_ids=tuple(body["stop_token_ids"]))
        with held:
            (made,) = engine.run([Request(tuple(body["prompt"]), sampling)])
        choice = {
            "index": 0,
            "text": made.text,
            "finish_reason": made.finish,
            "token_ids": list(made.sampled),
            "logprobs": {"token_logprobs": list(made.logprobs)},
        }
        return 200, {}, {"choices": [choice]}

    return answer


def test_tokens_come_back_as_the_same_model_draws_them_here() -> None:
    local = LocalEngine(tiny.model().eval(), words(tiny.VOCABULARY + 1), {STOP})
    asked = [Request((7, 8, 9, *range(20, 20 + length)), Sampling(max_new_tokens=16), id=length) for length in range(6)]
    expected = {made.request: made for made in local.run(asked)}
    with endpoint(behind(local)) as found:
        made = {each.request: each for each in opened(found.url, ask="tokens").run(asked)}
    assert made == expected
    for name, each in made.items():
        assert each.sampled == expected[name].sampled
        assert each.logprobs == pytest.approx(expected[name].logprobs, abs=1e-5)


def test_it_asks_again_after_hitches_and_heeds_retry_after() -> None:
    answers = [fault(503, "busy"), fault(429, "slow down", Retry_After="0.3"), said("hi")]
    times = []

    def answer(*_: Any) -> Answer:
        times.append(time.monotonic())
        return answers[len(times) - 1]

    with endpoint(answer) as found:
        (made,) = opened(found.url).run([request()])
    assert made.text == "hi" and times[2] - times[1] >= 0.3


def test_it_waits_longer_each_time_and_then_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(wire.Patience, "wait", lambda _, seconds: waits.append(seconds))
    monkeypatch.setattr(wire, "FIRST_WAIT", 1.0)
    with endpoint(lambda *_: fault(500, "broken inside")) as found:
        with pytest.raises(LuthierError, match="failed 5 times; the last time: 500: broken inside") as error:
            list(opened(found.url, retries=4).run([request()]))
        assert error.value.where == f"{found.url}/chat/completions"
    pauses = [wait for wait in waits if wait]
    assert len(found.asked) == 5 and len(pauses) == 4
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses))


def test_no_answer_in_time_is_a_hitch() -> None:
    slow = iter([True, False])

    def answer(*_: Any) -> Answer:
        if next(slow):
            time.sleep(0.6)
        return said("hi")

    with endpoint(answer) as found:
        (made,) = opened(found.url, timeout=0.2).run([request()])
    assert made.text == "hi" and len(found.asked) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (fault(400, "no such parameter: top_k"), "answered 400: no such parameter: top_k"),
        (fault(404, "no model m"), "answered 404: no model m"),
        ((429, {}, {"error": {"code": "insufficient_quota", "message": "pay first"}}), "answered 429: pay first"),
        ((422, {}, {"detail": [{"msg": "field required"}]}), 'answered 422: \\[{"msg": "field required"}\\]'),
        ((307, {"Location": "http://elsewhere/v1"}, {}), "answered 307: it has moved to http://elsewhere/v1"),
        ((200, {}, b"<html>hello</html>"), "is no JSON object: '<html>hello</html>'"),
        ((200, {}, {"nothing": 1}), 'is no completion: {"nothing": 1}'),
        ((200, {}, {"choices": [{"message": {"content": None, "tool_calls": [1]}}]}), "answered by calling a tool"),
    ],
)
def test_what_is_refused_is_told_at_once(answer: Answer, message: str) -> None:
    with endpoint(lambda *_: answer) as found, pytest.raises(LuthierError, match=message) as error:
        list(opened(found.url).run([request()]))
    assert len(found.asked) == 1 and str(error.value.where).startswith(found.url) and error.value.fix


def test_nobody_listening_is_told_at_once() -> None:
    with endpoint(lambda *_: said("")) as found:
        pass
    start = time.monotonic()
    with pytest.raises(LuthierError, match="cannot be reached: Connection refused"):
        list(opened(found.url, retries=9).run([request()]))
    assert time.monotonic() - start < 2


def test_so_many_calls_are_under_way_and_no_more() -> None:
    def answer(*_: Any) -> Answer:
        time.sleep(0.05)
        return said("hi")

    with endpoint(answer) as found:
        made = list(opened(found.url, concurrency=4).run([request(place) for place in range(12)]))
    assert sorted(each.request for each in made) == list(range(12)) and found.together == 4


def test_whoever_stops_reading_stops_asking() -> None:
    with endpoint(lambda *_: said("hi")) as found:
        completions = opened(found.url, concurrency=1).run([request(place) for place in range(500)])
        next(completions)
        completions.close()
        time.sleep(0.1)
        before = len(found.asked)
        time.sleep(0.1)
    assert len(found.asked) == before < 500


def test_what_was_under_way_at_a_fault_comes_back_first() -> None:
    def answer(_: str, body: dict[str, Any]) -> Answer:
        if body["messages"][-1]["content"] == "hello 0":
            time.sleep(0.1)
            return fault(400, "no")
        time.sleep(0.3)
        return said("hi")

    with endpoint(answer) as found:
        completions = opened(found.url, concurrency=3).run([request(place) for place in range(9)])
        made = [next(completions).request for _ in range(2)]
        with pytest.raises(LuthierError, match="answered 400"):
            next(completions)
    assert sorted(made) == [1, 2] and len(found.asked) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "localhost:8000"}, "is no address"),
        ({"url": "http://me:secret@host/v1"}, "a key belongs into an environment variable"),
        ({"url": "http://host/v1?key=secret"}, "a key belongs into an environment variable"),
        ({"max_cost": 1.0}, "needs the prices"),
        ({"concurrency": 0}, "greater than 0"),
        ({"key": "sk-1"}, "has no key 'key'"),
    ],
)
def test_settings_that_mean_nothing(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LuthierError, match=message) as error:
        ENGINES.build("openai", {"url": "http://localhost/v1", "model": "m", **keys})
    assert "secret" not in str(error.value)


def test_what_an_endpoint_cannot_be_asked() -> None:
    engine = opened("http://127.0.0.1:1/v1", context=9)
    cases: dict[str, tuple[dict[str, Any], Request]] = {
        "needs a conversation": ({"ask": "chat"}, Request((7, 8))),
        "an empty prompt": ({}, Request(())),
        "asks for 0 answers": ({}, request(n=0)),
        "context ends at 9": ({"context": 9}, Request((7,) * 9)),
        "speak of our tokens": ({}, request(stop_ids=(3,))),
        "no place for a grammar of the kind 'regex'": ({}, request(grammar=Grammar("regex", "a+"))),
        "pictures or sound": ({}, Request((7,), turns=(Turn("user", "see", media=("a.png",)),))),
    }
    for message, (keys, asked) in cases.items():
        with pytest.raises(LuthierError, match=f"prompt 2: .*{message}"):
            opened("http://127.0.0.1:1/v1", **keys).run([request(), asked])
    for refused in (
        lambda: engine.logprobs([Encoded((), ())]),
        lambda: engine.sync(1),
        lambda: engine.load_adapter("a", "folder"),
        lambda: engine.drop_adapter("a"),
    ):
        with pytest.raises(LuthierError):
            refused()


def test_an_adapter_is_a_model_of_the_endpoint() -> None:
    with endpoint(lambda *_: said("hi")) as found:
        (made,) = opened(found.url).run([Request((7,), Sampling(), adapter="poet", turns=TURNS)])
    assert found.asked[0][1]["model"] == "poet" and made.adapter == "poet"


def test_a_stream_comes_piece_by_piece() -> None:
    def lines(*parts: dict[str, Any]) -> Iterator[bytes]:
        for part in parts:
            yield b"data: " + json.dumps(part).encode() + b"\n\n"
        yield b": a remark\n\ndata: [DONE]\n\n"

    chat = b"".join(
        lines(
            {"choices": [{"delta": {"role": "assistant"}}]},
            {"choices": [{"delta": {"content": "né"}}]},
            {"choices": []},
        )
    )
    text = b"".join(lines({"choices": [{"text": "a"}]}, {"choices": [{"text": " b"}]}))
    broken = b"".join(lines({"choices": [{"text": "a"}]}, {"error": {"message": "out of memory"}}))
    answers = iter([chat, text, broken])
    with endpoint(lambda *_: (200, {}, next(answers))) as found:
        engine = opened(found.url)
        assert list(engine.stream((7, 8), Sampling(), TURNS)) == ["né"]
        assert list(engine.stream((7, 8), Sampling())) == ["a", " b"]
        with pytest.raises(LuthierError, match="out of memory"):
            list(engine.stream((7, 8), Sampling()))
    assert [path for path, _ in found.asked] == ["/v1/chat/completions", "/v1/completions", "/v1/completions"]
    assert all(body["stream"] is True for _, body in found.asked)


def test_what_is_done_and_not_yet_taken_counts_as_under_way() -> None:
    begun: list[int] = []

    def work(item: int, _: threading.Event) -> int:
        begun.append(item)
        return item

    for taken, _ in enumerate(at_once(work, range(12), 3)):
        time.sleep(0.01)  # time enough to run ahead
        assert len(begun) <= taken + 3
    assert sorted(begun) == list(range(12))
