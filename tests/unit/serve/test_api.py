"""The API as the official client sees it, on a tiny model: every endpoint, streamed and whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from serving import Served, byte_model, lora, serving

from luthier.data import Template
from luthier.engines import LocalEngine
from luthier.models import load
from luthier.recipe import Model
from luthier.types import RAW, Request, Sampling, Turn

ASKED: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("serve")
    module = byte_model(made / "base")
    for name, seed in (("one", 1), ("two", 2)):
        lora(made / "adapters" / name, module, seed)
    return made


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving([str(folder / "base")], folder / "adapters") as made:
        yield made


@pytest.fixture(scope="module")
def own(folder: Path) -> Any:
    """An engine beside the server, on the same weights."""
    policy = load(Model(name=str(folder / "base")), train=False, device="cpu")
    template = Template(policy.tokenizer)
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    for name in ("one", "two"):
        engine.load_adapter(name, str(folder / "adapters" / name))
    return engine, template


def said(own: Any, turns: list[Turn], adapter: str | None = None, n: int = 1, **sampling: Any) -> list[Any]:
    engine, template = own
    request = Request(tuple(template.prompt_ids(turns)), Sampling(**sampling), n=n, adapter=adapter)
    return sorted(engine.run([request]), key=lambda one: one.index)


def test_chat_is_the_engines_own_answer(served: Served, own: Any) -> None:
    client = served.client()
    answer = client.chat.completions.create(model="base", messages=ASKED, max_tokens=12, temperature=0)
    (expected,) = said(own, [Turn("user", "hello")], max_new_tokens=12)
    assert answer.choices[0].message.content == expected.text and answer.choices[0].finish_reason == expected.finish
    usage = answer.usage
    assert usage and usage.completion_tokens == len(expected.sampled) and usage.total_tokens == usage.prompt_tokens + 12
    again = client.chat.completions.create(model="base", messages=ASKED, max_tokens=12, temperature=0)
    assert again.usage and again.usage.prompt_tokens_details
    assert again.usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 16 * 16
    drawn = client.chat.completions.create(
        model="base", messages=ASKED, max_tokens=12, temperature=1.3, seed=7, n=3, top_p=0.9, extra_body={"top_k": 40}
    )
    wanted = {"max_new_tokens": 12, "temperature": 1.3, "seed": 7, "top_p": 0.9, "top_k": 40}
    expected = said(own, [Turn("user", "hello")], n=3, **wanted)
    assert [choice.message.content for choice in drawn.choices] == [one.text for one in expected]
    assert len({one.text for one in expected}) == 3


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_whole_answer_in_parts(served: Served, seed: int) -> None:
    settings: Any = {"max_tokens": 40, "temperature": 1.0, "seed": seed, "n": 2, "logprobs": True, "top_logprobs": 3}
    client = served.client()
    whole = client.chat.completions.create(model="base", messages=ASKED, **settings)
    stream = client.chat.completions.create(
        model="base", messages=ASKED, stream=True, stream_options={"include_usage": True}, **settings
    )
    texts, finishes, tokens, usage = ["", ""], [None, None], [[], []], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content = choice.delta.content or ""
            texts[choice.index] += content
            assert finishes[choice.index] is None, "nothing comes after the end"
            finishes[choice.index] = choice.finish_reason
            tokens[choice.index] += choice.logprobs.content or [] if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert finishes == [choice.finish_reason for choice in whole.choices]
    for place, choice in enumerate(whole.choices):
        assert choice.logprobs and choice.logprobs.content
        assert [one.token for one in tokens[place]] == [one.token for one in choice.logprobs.content]
        np.testing.assert_allclose(
            [one.logprob for one in tokens[place]], [one.logprob for one in choice.logprobs.content], atol=1e-5
        )
        words = [one for one in choice.logprobs.content if not one.token.startswith("<|")]
        raw = bytes(byte for one in words for byte in one.bytes or [])
        decoded = codecs.getincrementaldecoder("utf-8")("replace").decode(
            raw
        )  # half a character at the end is left out
        assert choice.message.content and choice.message.content.startswith(decoded), "the tokens are the text"
        assert len(choice.message.content) - len(decoded) < 3
    assert usage and whole.usage and usage.completion_tokens == whole.usage.completion_tokens


def test_stop_strings_never_leak(served: Served, own: Any) -> None:
    (free,) = said(own, [Turn("user", "hello")], max_new_tokens=60)
    clean = [k for k in range(4, 40) if free.text[k : k + 2].isascii() and free.text[k : k + 2].isprintable()]
    stop = free.text[clean[0] : clean[0] + 2]
    wanted = free.text[: free.text.index(stop)]
    client = served.client()
    for streamed in (False, True):
        for given in (stop, ["never said", stop]):
            made: Any = client.chat.completions.create(
                model="base", messages=ASKED, max_tokens=60, temperature=0, stop=given, stream=streamed, logprobs=True
            )
            if streamed:
                parts = [chunk.choices[0] for chunk in made]
                text = "".join(part.delta.content or "" for part in parts)
                tokens = [one for part in parts if part.logprobs for one in part.logprobs.content or []]
                finish = parts[-1].finish_reason
            else:
                text, tokens = made.choices[0].message.content, made.choices[0].logprobs.content
                finish = made.choices[0].finish_reason
            assert (text, finish) == (wanted, "stop")
            raw = bytes(byte for one in tokens for byte in one.bytes or [])
            assert raw.decode("utf-8", "replace") == wanted, "nor token for token"


def test_completions(served: Served, own: Any) -> None:
    _, template = own
    client = served.client()
    ids = template.prompt_ids([Turn(RAW, "abc")])
    (expected,) = said(own, [Turn(RAW, "abc")], max_new_tokens=9)
    for prompt in ("abc", ["abc"], ids, [ids]):
        made = client.completions.create(model="base", prompt=prompt, max_tokens=9, temperature=0)
        assert made.choices[0].text == expected.text
    made = client.completions.create(model="base", prompt=["abc", "xyz"], max_tokens=9, temperature=0, n=2)
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    (other,) = said(own, [Turn(RAW, "xyz")], max_new_tokens=9)
    assert [choice.text for choice in made.choices] == [expected.text] * 2 + [other.text] * 2
    stream = client.completions.create(model="base", prompt=["abc", "xyz"], max_tokens=9, temperature=0, stream=True)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [expected.text, other.text]


def test_the_best_of_several(served: Served, own: Any) -> None:
    made = served.client().completions.create(
        model="base", prompt="abc", max_tokens=9, temperature=1, seed=3, n=2, best_of=6
    )
    drawn = said(own, [Turn(RAW, "abc")], n=6, max_new_tokens=9, temperature=1.0, seed=3)
    best = sorted(drawn, key=lambda one: np.mean(one.logprobs), reverse=True)[:2]
    assert [choice.text for choice in made.choices] == [one.text for one in best]
    assert made.usage and made.usage.completion_tokens == sum(len(one.sampled) for one in drawn)


@pytest.mark.parametrize("adapter", [None, "one"])
@pytest.mark.parametrize("most", [0, 1])
def test_log_probabilities_of_a_prompt(served: Served, own: Any, adapter: str | None, most: int) -> None:
    """As lm-evaluation-harness asks (echo), and reads: the greedy token's number is the largest, to the bit."""
    engine, template = own
    ids = [3, 70, 80, 90, 3, 3, 120]
    made = served.client().completions.create(
        model=adapter or "base", prompt=[ids], max_tokens=most, temperature=0, echo=True, logprobs=1, seed=1
    )
    found = made.choices[0].logprobs
    assert found and len(found.token_logprobs or []) == len(found.tokens or []) == len(ids) + most
    with engine.model(adapter) as module, torch.no_grad():
        log_TV = module(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [log_TV[place, token].item() for place, token in enumerate(ids[1:])]
    assert found.token_logprobs and found.token_logprobs[0] is None and found.top_logprobs
    np.testing.assert_allclose(np.array(found.token_logprobs[1 : len(ids)], float), expected, atol=1e-5)
    for place, (number, top) in enumerate(zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True)):
        assert top and max(top.values()) >= number
        if place < len(expected):
            greedy = int(log_TV[place].argmax()) == ids[place + 1]
            assert (number == max(top.values())) == greedy
    text = made.choices[0].text
    assert text.startswith(template.tokenizer.decode(ids)) and found.text_offset == sorted(found.text_offset or [])


def test_a_token_stands_behind_an_echo_though_it_ends_the_answer(served: Served) -> None:
    """The harness takes the last token off as the one that was drawn, and would lose the last of the text without."""
    asked: Any = {"model": "base", "prompt": "abc", "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    for bias, text in (({"2": 100}, "abc"), ({"70": 100}, None)):  # 2 ends the answer
        choice = served.client().completions.create(**asked, logit_bias=bias).choices[0]
        assert text is None or choice.text == text
        assert len(choice.logprobs.token_logprobs) == 4 and choice.logprobs.token_logprobs[0] is None
    held = served.client().completions.create(**asked, logit_bias={"2": 100}, stop=["x"]).choices[0]
    assert len(held.logprobs.token_logprobs) == 3  # nothing of what stops an answer is told then


def test_echo_without_numbers_and_streamed(served: Served) -> None:
    client = served.client()
    whole = client.completions.create(model="base", prompt="nonce 123 ", max_tokens=6, temperature=0, echo=True)
    stream = client.completions.create(
        model="base", prompt="nonce 123 ", max_tokens=6, temperature=0, echo=True, stream=True, logprobs=2
    )
    parts = [chunk.choices[0] for chunk in stream]
    assert "".join(part.text for part in parts) == whole.choices[0].text
    assert whole.choices[0].text.startswith("nonce 123 ")
    assert sum(len(part.logprobs.tokens or []) for part in parts if part.logprobs) == 10 + 6


def test_models_and_adapters(served: Served, own: Any) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["base", "one", "two"]
    assert client.models.retrieve("one").owned_by == "luthier"
    texts = {}
    for name in ("base", "one", "two"):
        made = client.chat.completions.create(model=name, messages=ASKED, max_tokens=16, temperature=0)
        (expected,) = said(own, [Turn("user", "hello")], None if name == "base" else name, max_new_tokens=16)
        texts[name] = made.choices[0].message.content
        assert texts[name] == expected.text and made.model == name
    assert len(set(texts.values())) == 3
    with pytest.raises(openai.NotFoundError, match="did you mean 'one'") as error:
        client.chat.completions.create(model="ones", messages=ASKED)
    assert error.value.code == "model_not_found" and error.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../etc/passwd")


def test_embeddings(served: Served, own: Any) -> None:
    engine, template = own
    client = served.client()
    for form in ("float", "base64"):
        made = client.embeddings.create(model="one", input=["abc", "a longer text"], encoding_format=form)
        for text, one in zip(["abc", "a longer text"], made.data, strict=True):
            vector = one.embedding
            if isinstance(vector, str):
                import base64

                vector = np.frombuffer(base64.b64decode(vector), "<f4")
            with engine.model("one") as module, torch.no_grad():
                ids = torch.tensor([template.prompt_ids([Turn(RAW, text)])])
                hidden_TD = module.get_base_model().model(ids).last_hidden_state[0]
            np.testing.assert_allclose(vector, hidden_TD.mean(0), atol=1e-5)
    assert len(client.embeddings.create(model="base", input=[3, 4, 5]).data) == 1  # base64 by default
    assert "mean" in served.post("/v1/embeddings", {"input": "a"}).json()["how"]


PICTURE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("messages.0: this model reads text only", {"messages": [{"role": "user", "content": [PICTURE]}]}, "messages.0"),
    ("does not know the role 'wizard'", {"messages": [{"role": "wizard", "content": "a"}]}, "messages"),
    ("messages.0 has no 'role'", {"messages": [{"content": "a"}]}, "messages.0"),
    ("messages.0: a message's 'role' is", {"messages": [{"role": 5, "content": "a"}]}, "messages.0"),
    ("messages.0 has no 'role'", {"messages": [{"role": None, "content": "a"}]}, "messages.0"),
    ("messages.0", {"messages": [{"role": "user", "content": 5}]}, "messages.0"),
    ("tools.0.function.name is empty", {"tools": [{"type": "function", "function": {"name": " "}}]}, "tools.0"),
    ("the model's context ends at 512", {"messages": [{"role": "user", "content": "x" * 600}]}, "None"),
    ("'prediction' is not supported", {"prediction": {"type": "content", "content": "a"}}, "prediction"),
    ("'audio' is not supported", {"audio": {"voice": "x"}}, "audio"),
    ("there is no field 'temprature'", {"temprature": 1}, "temprature"),
    ("temperature", {"temperature": -1}, "temperature"),
    ("temperature", {"temperature": "hot"}, "temperature"),
    ("n: must be greater", {"n": 0}, "n"),
    ("1000000000 answers", {"n": 10**9}, "n"),
    ("max_tokens: an answer has at least one token", {"max_tokens": 0}, "max_tokens"),
    ("logit_bias: 'x' is no token id", {"logit_bias": {"x": 1}}, "logit_bias"),
    ("1000000 strings", {"stop": ["a"] * 10**6}, "stop"),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
    ("stream_options goes with stream", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("response_format.type must be", {"response_format": {"type": "xml"}}, "response_format"),
    ("tool_choice must be", {"tool_choice": "required"}, "tool_choice"),
    ("tools.0 has no function with a name", {"tools": [{"type": "function"}]}, "tools.0"),
]  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("message,body,param", REFUSED, ids=[each[0][:30] for each in REFUSED])
def test_what_cannot_be_answered_is_told(
    served: Served, message: str, body: dict[str, Any], param: str, streamed: bool
) -> None:
    more = {"stream": True} if streamed and "stream_options" not in body else {}
    answer = served.post("/v1/chat/completions", {"messages": ASKED, "max_tokens": 4, **body, **more})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert message in error["message"] and str(error["param"]) == param and error["type"] == "invalid_request_error"


def test_what_completions_refuse(served: Served) -> None:
    for body, message in (
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "empty"),
        ({"prompt": [[]]}, "empty"),
        ({"prompt": [[1, -5]]}, "prompt"),
        ({"prompt": [70_000]}, "no token 70000"),
        ({"prompt": "a", "max_tokens": 0}, "0 goes with echo only"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "less than n"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "does not stream"),
        ({"prompt": "a", "suffix": "b"}, "'suffix' is not supported"),
        ({"prompt": ["a"] * 500}, "500 answers"),
        ({"prompt": "a" * 600, "echo": True, "logprobs": 1, "max_tokens": 0}, "context ends at 512"),
        ({}, "'prompt' is missing"),
    ):
        answer = served.post("/v1/completions", body)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"], (body, answer.text)


def test_paths_and_methods(served: Served) -> None:
    answer = served.get("/v1/chat/completion")
    assert answer.status_code == 404 and "/v1/chat/completions" in answer.json()["error"]["message"]
    answer = served.get("/v1/chat/completions")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    answer = served.post("/v1/chat/completions", headers={"content-type": "text/plain"}, content=b"{}")
    assert answer.status_code == 415, "a page elsewhere can send no JSON without asking first"
    assert served.post("/v1/score", {"messages": ASKED}).status_code == 404


def test_health_and_metrics(served: Served) -> None:
    health = served.get("/health")
    assert health.status_code == 200 and health.json()["status"] == "ok"
    served.client().chat.completions.create(model="base", messages=ASKED, max_tokens=5, temperature=0)
    before = served.idle()
    served.client().chat.completions.create(model="base", messages=ASKED, max_tokens=5, temperature=0, n=2)
    after = served.idle()
    grew = {name: after[name] - before.get(name, 0) for name in after}
    assert grew["luthier_generated_tokens_total"] == 10 and grew["luthier_prompt_tokens_total"] == 24
    assert grew["luthier_time_to_first_token_seconds_count"] == 1
    assert grew["luthier_inter_token_seconds_count"] == 4
    assert grew["luthier_cached_tokens_total"] == 16
    assert after["luthier_kv_pages_held"] == 0


def test_another_luthier_asks_for_tokens(served: Served, own: Any) -> None:
    """What `engine: {openai: {ask: tokens}}` gets is what the engine gives here: ids, log-probabilities, the end."""
    from luthier.engines.openai.engine import RemoteEngine
    from luthier.engines.openai.settings import OpenAI

    engine, template = own
    settings = OpenAI(url=f"{served.url}/v1", model="base", ask="tokens")
    remote = RemoteEngine(settings, "base", template.tokenizer, template.stop_ids)
    prompts = [template.prompt_ids([Turn("user", text)]) for text in ("hello", "what now", "go")]
    for sampling in (Sampling(max_new_tokens=30), Sampling(max_new_tokens=200, temperature=1.0, seed=3)):
        requests = [Request(tuple(prompt), sampling, id=place) for place, prompt in enumerate(prompts)]
        theirs = {one.request: one for one in remote.run(requests)}
        for place, prompt in enumerate(prompts):
            got = theirs[place]
            if not sampling.temperature:
                (mine,) = engine.run([Request(tuple(prompt), sampling)])
                assert (got.sampled, got.ids, got.finish) == (mine.sampled, mine.ids, mine.finish)
                np.testing.assert_allclose(got.logprobs, mine.logprobs, atol=1e-5)
            assert len(got.logprobs) == len(got.sampled) and (got.finish == "stop") == (got.ids != got.sampled)
    assert any(one.finish == "stop" for one in theirs.values()), "the stop token is among what was drawn"


def test_the_page_is_one_file_that_asks_nobody_else(served: Served) -> None:
    answer = served.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", answer.text), "nothing is fetched"
    assert set(re.findall(r"""fetch\("([^"]+)""", answer.text)) == {"/v1/models", "/v1/chat/completions"}
    ids = set(re.findall(r"""id="(\w+)""", answer.text))
    assert set(re.findall(r"""at\("(\w+)"\)""", answer.text)) - {"id"} <= ids


def test_structured_output_reaches_the_engine_as_a_grammar() -> None:
    from luthier.serve.words.bodies import Chat, parse
    from luthier.serve.words.sampling import grammar

    def of(**body: Any) -> Any:
        return grammar(parse(json.dumps({"messages": ASKED, **body}).encode(), Chat))

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    made = of(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert made.kind == "json_schema" and json.loads(made.text).items() >= schema.items()
    assert json.loads(of(response_format={"type": "json_object"}).text)["type"] == "object"
    assert of(response_format={"type": "text"}) is None
    assert (of(guided_regex="a+").kind, of(grammar='start: "a"').kind) == ("regex", "lark")
