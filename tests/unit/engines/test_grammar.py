"""Whatever a model would rather say, its answer is a sentence of the grammar: the logits here are random."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tokenizers import letters, words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from luthier.engines import grammar as grammars
from luthier.engines.choice import Choice, NoToken, choose
from luthier.engines.grammar import Grammars, Matcher
from luthier.engines.text import whole
from luthier.errors import LuthierError
from luthier.types import Grammar, Sampling

llguidance = pytest.importorskip("llguidance")
SPARE = 30
"""Logits that no token has, as many models have."""


def byte_tokens() -> PreTrainedTokenizerFast:
    return letters("<pad>", "<s>", "</s>", pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def merged() -> PreTrainedTokenizerFast:
    """Byte-level BPE with tokens that reach over what JSON tells apart: `":`, `"}`, `,"`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, show_progress=False, special_tokens=["<pad>", "<s>", "</s>"]
    )
    said = [json.dumps({f"key {n}": [n, n / 7, {"name": "Ann\n", "é": None}], "on": True}) for n in range(200)]
    backend.train_from_iterator(said, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


STOP = 2
TOKENIZERS = {"bytes": byte_tokens, "merged": merged}


@pytest.fixture(params=sorted(TOKENIZERS), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def made(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, len(tokenizer) + SPARE, {STOP})


def answers(tokenizer: Any, matchers: Sequence[Matcher], seed: int = 0, longest: int = 6000) -> list[str]:
    """What a model of random logits says at temperature 1, all rows in one batch, until each has ended."""
    size = len(tokenizer) + SPARE
    drawn = torch.Generator().manual_seed(seed)
    rows = {row: Choice(Sampling(temperature=1.0, seed=seed), [0], row, each) for row, each in enumerate(matchers)}
    said: list[list[int]] = [[] for _ in matchers]
    for _ in range(longest):
        logits_BV = 2 * torch.randn(len(rows), size, generator=drawn)
        for row, each in zip(list(rows), choose(logits_BV, list(rows.values())), strict=True):
            if each.token != STOP:
                said[row].append(each.token)
            if matchers[row].ended:
                del rows[row]
        if not rows:
            return [whole(tokenizer, ids) for ids in said]
    raise AssertionError(f"{len(rows)} answers have not ended after {longest} tokens: {said[next(iter(rows))][-99:]}")


def toks(tokenizer: Any, matcher: Matcher) -> set[str]:
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    return {tokenizer.convert_ids_to_tokens(int(token)) for token in np.flatnonzero(bits)}


def feed(tokenizer: Any, matcher: Matcher, text: str) -> None:
    for token in tokenizer.encode(text, add_special_tokens=False):
        matcher.accept(token)


# JSON
def schema(draw: random.Random, depth: int = 0) -> Any:
    """A random schema. Strings and lists are bounded, so that random answers come to an end."""
    kind = draw.choice(["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format"])
    if depth < 3 and draw.random() < 0.75 - 0.2 * depth:
        kind = draw.choice(["object", "object", "array", "anyOf", "tuple", "ref"])
    least = draw.randrange(3)
    inner = lambda: schema(draw, depth + 1)  # noqa: E731
    if kind == "object":
        names = draw.sample(
            ["a", "name", "two words", "é", 'quo"te', "b\\c", "$ref ", "東京", "", "x" * 40], draw.randrange(5)
        )
        properties = {name: inner() for name in names}
        required = [name for name in names if draw.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        return {"type": "array", "items": inner(), "minItems": least, "maxItems": least + draw.randrange(4)}
    if kind == "tuple":
        return {"type": "array", "prefixItems": [inner(), inner()], "items": False, "minItems": 2}
    if kind == "anyOf":
        return {"anyOf": [inner() for _ in range(draw.randrange(1, 4))]}
    if kind == "ref":
        return {"$ref": "#/$defs/point"}
    if kind == "integer":
        low = draw.choice([-1000, -1, 0, 1, 17])
        return {"type": "integer", "minimum": low, "maximum": low + draw.choice([0, 1, 9, 12345])}
    if kind == "number":
        return draw.choice([{"type": "number"}, {"type": "number", "minimum": -2.5, "exclusiveMaximum": 10}])
    return {
        "string": {"type": "string", "minLength": least, "maxLength": least + draw.choice([0, 1, 30])},
        "boolean": {"type": "boolean"},
        "null": {"type": "null"},
        "enum": {"enum": ["red", "grün", 'the "end"', 3, None, [1, {"a": 2}], True][draw.randrange(3) :]},
        "const": {"const": draw.choice(["x", 0, {"k": ["v"]}, "line\nbreak"])},
        "pattern": {"type": "string", "pattern": draw.choice(["^[a-z]{2,5}$", "^(a|bb)*c?$", r"^\d{3}-\d{4}$"])},
        "format": {"type": "string", "format": draw.choice(["date", "time", "uuid", "ipv4", "date-time"])},
    }[kind]


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]}},
    "required": ["x", "next"],
    "additionalProperties": False,
}


def schemas(count: int, seed: int) -> list[Any]:
    draw = random.Random(seed)
    return [{**schema(draw), "$defs": {"point": POINT}} for _ in range(count)]


def hold(tokenizer: Any, made: Grammars, asked: Sequence[Any], seed: int) -> None:
    matchers = [made.matcher(Grammar("json_schema", json.dumps(each))) for each in asked]
    for each, text in zip(asked, answers(tokenizer, matchers, seed), strict=True):
        value = json.loads(text)
        try:
            import jsonschema
        except ImportError:
            continue
        jsonschema.validate(value, each)


def test_answers_to_sixty_schemas_are_valid(tokenizer: Any, made: Grammars) -> None:
    hold(tokenizer, made, schemas(60, seed=0), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_answers_to_two_hundred_schemas_are_valid(tokenizer: Any, made: Grammars, seed: int) -> None:
    hold(tokenizer, made, schemas(200, seed=seed + 10), seed=seed)


def test_any_object_will_do_where_the_schema_says_nothing() -> None:
    tokenizer = byte_tokens()
    made = Grammars(tokenizer, len(tokenizer) + SPARE, {STOP})
    matchers = [made.matcher(Grammar("json_schema", text)) for text in ('{"type": "object"}', "{}", "true") * 4]
    found = [json.loads(text) for text in answers(tokenizer, matchers, seed=3)]
    assert all(isinstance(each, dict) for each in found[::3])


def test_white_space_is_a_space_after_a_comma_or_a_colon_and_no_more() -> None:
    tokenizer = byte_tokens()
    made = Grammars(tokenizer, len(tokenizer), {STOP})
    matcher = made.matcher(Grammar("json_schema", '{"type": "array", "items": {"type": "object"}, "minItems": 2}'))
    seen = []
    for letter in '[{"a": 1},':
        seen.append(toks(tokenizer, matcher))
        feed(tokenizer, matcher, letter)
    space, line, tab = "Ġ", "Ċ", "ĉ"
    assert seen[0] == {"["}
    assert [space in each for each in seen[1:5]] == [False, False, True, True], "only within the name of a key"
    assert space in toks(tokenizer, matcher)
    feed(tokenizer, matcher, " ")
    assert not toks(tokenizer, matcher) & {space, line, tab}
    assert not any({line, tab} & each for each in seen)


# other grammars
PATTERNS = [
    "ab|abc",
    r"(yes|no|maybe)",
    r"[0-9]{3}-[0-9]{4}",
    "(é|東京|👩‍🚀){1,3}",
    r"\p{Lu}\p{Ll}{0,4}",
    "",
    "a{0,5}b?",
    r"[^a-z]{2}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_answers_to_a_pattern_match_it(tokenizer: Any, made: Grammars, pattern: str) -> None:
    matchers = [made.matcher(Grammar("regex", pattern)) for _ in range(8)]
    known = pattern.replace(r"\p{Lu}", r"[^\W\d_]").replace(r"\p{Ll}", r"[^\W\d_]")
    for text in answers(tokenizer, matchers, seed=5):
        assert re.fullmatch(known, text), text


def test_answers_to_a_lark_grammar_are_sums(tokenizer: Any, made: Grammars) -> None:
    text = 'start: sum\nsum: term ("+" term)*\nterm: NUMBER | "(" sum ")"\nNUMBER: /[1-9][0-9]{0,2}/\n'
    for said in answers(tokenizer, [made.matcher(Grammar("lark", text)) for _ in range(8)], seed=2):
        assert re.fullmatch(r"[0-9+()]+", said)
        assert eval(said) > 0


# where it ends
def test_stop_tokens_may_come_where_the_grammar_may_end_and_nowhere_else() -> None:
    tokenizer = byte_tokens()
    made = Grammars(tokenizer, 300, {STOP})
    matcher = made.matcher(Grammar("regex", "ab|abc"))
    assert toks(tokenizer, matcher) == {"a"} and not matcher.ended
    feed(tokenizer, matcher, "a")
    assert toks(tokenizer, matcher) == {"b"}
    feed(tokenizer, matcher, "b")
    assert toks(tokenizer, matcher) == {"c", "</s>"} and not matcher.ended
    other = made.matcher(Grammar("regex", "ab|abc"))
    assert toks(tokenizer, other) == {"a"}, "each matcher begins at the beginning"
    feed(tokenizer, matcher, "c")
    assert matcher.ended, "nothing can follow"
    assert toks(tokenizer, matcher) == {"</s>"}
    feed(tokenizer, other, "ab")
    other.accept(STOP)
    assert other.ended and toks(tokenizer, other) == {"</s>"}


def test_a_stop_token_that_means_something_ends_all_the_same() -> None:
    """`b` ends this answer: it comes where the grammar ends, never as itself; the tokenizer's own does not."""
    tokenizer = byte_tokens()
    letter = tokenizer.convert_tokens_to_ids("b")
    made = Grammars(tokenizer, len(tokenizer), {letter})
    matcher = made.matcher(Grammar("regex", "a[ab]*"))
    assert toks(tokenizer, matcher) == {"a"}
    feed(tokenizer, matcher, "a")
    assert toks(tokenizer, matcher) == {"a", "b"}
    feed(tokenizer, matcher, "b")
    assert matcher.ended
    beside = made.matcher(Grammar("regex", "a[ab]*"), {1, 99_999})
    feed(tokenizer, beside, "a")
    assert toks(tokenizer, beside) == {"a", "b", "<s>"}


def test_without_a_stop_token_the_answer_ends_where_it_is_whole() -> None:
    tokenizer = byte_tokens()
    matcher = Grammars(tokenizer, len(tokenizer), ()).matcher(Grammar("regex", "ab?"))
    feed(tokenizer, matcher, "a")
    assert toks(tokenizer, matcher) == {"b"}
    feed(tokenizer, matcher, "b")
    assert matcher.ended and not toks(tokenizer, matcher)
    with pytest.raises(NoToken):
        choose(torch.zeros(1, len(tokenizer)), [Choice(Sampling(), [0], 0, matcher)])


def test_a_model_of_fewer_tokens_than_its_tokenizer_is_served() -> None:
    tokenizer = byte_tokens()
    matcher = Grammars(tokenizer, 200, {STOP}).matcher(Grammar("regex", "[ab]{3}"))
    choice = Choice(Sampling(temperature=1.0), [0], 0, matcher)
    ids = [choose(torch.zeros(1, 200), [choice])[0].token for _ in range(3)]
    assert matcher.ended and re.fullmatch("[ab]{3}", whole(tokenizer, ids))


# what cannot be kept to
DEEP = 10_000
HOSTILE = [
    ("json_schema", '{"type":"array","items":' * DEEP + "{}" + "}" * DEEP, "250002 characters"),
    ("json_schema", '{"items":' * (DEEP - 1) + "{}" + "}" * (DEEP - 1), "nested too deep"),
    ("json_schema", '{"anyOf":[' * 400 + "{}" + "]}" * 400, "recursion limit"),
    ("json_schema", "[" * DEEP, "nested too deep"),
    ("json_schema", '{"type": "strin"}', "strin"),
    ("json_schema", '{"not": {"type": "string"}}', "not"),
    ("json_schema", '{"type": "string", "pattern": "("}', "unclosed group"),
    ("json_schema", '{"type": "string", "format": "nonsense"}', "nonsense"),
    ("json_schema", '{"$ref": "http://localhost/x.json"}', "localhost"),
    ("json_schema", '{"$ref": "#"}', "no text"),
    ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 2}', "minimum"),
    ("json_schema", '{"enum": []}', "empty"),
    ("json_schema", "[1, 2]", "list, not an object"),
    ("json_schema", "false", "bool, not an object"),
    ("json_schema", "{bad", "not JSON"),
    ("json_schema", "", "not JSON"),
    ("json_schema", '{"enum": ["\ud800"]}', "half a character"),
    ("json_schema", '{"enum": ["\\ud800"]}', "hex escape"),
    ("json_schema", json.dumps({"enum": ["x" * 200_000]}), "may have"),
    ("regex", "(", "unclosed group"),
    ("regex", "(" * 5000 + "a" + ")" * 5000, "nested"),
    ("regex", "(?<=a)b", "look-"),
    ("regex", "(((a{1000}){1000}){1000}){1000}", "too many"),
    ("regex", "(a?){5000}a{5000}", "too many"),
    ("regex", "a" * 1_000_000, "may have 20000"),
    ("lark", "start: " + "(" * DEEP + '"a"' + ")" * DEEP, "nested"),
    ("lark", "start: start", "no text"),
    ("lark", "start: missing", "missing"),
    ("lark", "", "Empty"),
    ("lark", 'start: "\ud800"', "half a character"),
]


@pytest.mark.parametrize(("kind", "text", "why"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_cannot_be_kept_to_is_told_at_once(made: Grammars, kind: Any, text: str, why: str) -> None:
    start = time.process_time()
    with pytest.raises(LuthierError, match=why) as told:
        made.matcher(Grammar(kind, text))
    assert time.process_time() - start < 5
    assert told.value.where == kind and told.value.fix
    assert len(str(told.value)) < 500, "the grammar is not said over again"


def test_what_proves_too_large_on_the_way_ends_its_own_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokens()
    monkeypatch.setitem(grammars.LIMITS, "step_lexer_fuel", 100)
    made = Grammars(tokenizer, len(tokenizer), {STOP})
    heavy = made.matcher(Grammar("regex", "ab(a?b?c?){40}"))
    feed(tokenizer, heavy, "ab")
    light = made.matcher(Grammar("regex", "[ab]+"))
    rows = [Choice(Sampling(temperature=1.0), [0], 0, heavy), Choice(Sampling(temperature=1.0), [0], 1, light)]
    with pytest.raises(NoToken, match="cannot go on within its regular expression") as told:
        choose(torch.zeros(2, len(tokenizer)), rows)
    assert told.value.rows == (0,)
    assert choose(torch.zeros(1, len(tokenizer)), rows[1:])[0].token >= 0


def test_answers_to_one_grammar_do_not_use_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its lexer has learnt is shared by all, and is limited: each of these needs some 50 states, all hundreds."""
    tokenizer, draw = byte_tokens(), random.Random(0)
    monkeypatch.setitem(grammars.LIMITS, "max_lexer_states", 60)
    made = Grammars(tokenizer, len(tokenizer), {STOP})
    for _ in range(60):
        matcher = made.matcher(Grammar("regex", "ab(a?b?c?){40}(x|y)*(.*z)?"))
        for letter in "ab" + "".join(draw.choice("abcxyz") for _ in range(20)):
            if letter in toks(tokenizer, matcher):
                feed(tokenizer, matcher, letter)
        assert matcher.mask().any()


def test_a_tokenizer_of_words_is_refused() -> None:
    with pytest.raises(LuthierError, match="tokenizer cannot follow a grammar"):
        Grammars(words(20), 20, {1}).matcher(Grammar("regex", "a"))


def test_where_llguidance_is_missing_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "find_spec", lambda name: None)
    with pytest.raises(LuthierError, match=re.escape("pip install 'luthier[serve]'")):
        Grammars(byte_tokens(), 259, {STOP}).matcher(Grammar("regex", "a"))


def test_a_grammar_is_compiled_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Grammars(byte_tokens(), 259, {STOP})
    compiled: list[Grammar] = []
    compile_ = made._compile
    monkeypatch.setattr(made, "_compile", lambda grammar: compiled.append(grammar) or compile_(grammar))
    for number in (0, 1, 0, 1):
        made.matcher(Grammar("regex", f"a{number}"))
    assert len(compiled) == 2
    for number in range(grammars.KEPT + 5):
        made.matcher(Grammar("regex", f"b{number}"))
    assert len(made._compiled) == grammars.KEPT
