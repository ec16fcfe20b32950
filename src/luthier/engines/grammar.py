"""Answers that are sentences of a grammar: at each place the tokens that may come, as a mask of bits (llguidance).

A JSON answer has no white space but one space after a comma or a colon, if the model likes: left free, a model that has
lost its way writes blank lines until its tokens are spent. Stop tokens may come where the grammar may end, and nowhere
else, whatever else they might mean.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError, missing_extra
from luthier.types import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}
LONGEST = {"json_schema": 100_000, "regex": 20_000, "lark": 100_000}
"""Characters of a grammar. What is longer may take seconds to read."""
KEPT = 64
"""Grammars that are kept compiled."""
JSON: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}
"""What a grammar may cost when it is read and at each token. Large enough for an enumeration of thousands; nested
repetitions of thousands (`((a{1000}){1000}){1000}`) come to their end within half a second."""


class Grammars:
    """The grammars of one tokenizer, each compiled once. Cheap until the first matcher is asked for."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: Collection[int]) -> None:
        """`vocabulary`: how many logits the model gives; `stop_ids` end an answer."""
        self._tokenizer, self._vocabulary, self._stop = tokenizer, vocabulary, frozenset(stop_ids)
        self._tokens: LLTokenizer | None = None
        self._own: frozenset[int] = frozenset()
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: Grammar, stop_ids: Collection[int] = ()) -> Matcher:
        """At the beginning of the grammar. `stop_ids` end this answer, too.

        Raises LuthierError, naming what is wrong, for a grammar that cannot be read, is of no use or too large; for a
        tokenizer that has no bytes; and where llguidance is not installed.
        """
        state = self._fresh(grammar)
        ends = self._stop | frozenset(stop_ids), self._own
        return Matcher(state, _name(grammar), self._size, ends, lambda: self._fresh(grammar, anew=True))

    def _fresh(self, grammar: Grammar, anew: bool = False) -> LLMatcher:
        with self._lock:
            if anew or grammar not in self._compiled:
                self._compiled[grammar] = self._compile(grammar)
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return self._compiled[grammar].deep_copy()

    @property
    def _size(self) -> int:
        return max(self._vocabulary, len(self._tokenizer))

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if find_spec("llguidance") is None:
            raise missing_extra("llguidance", "serve", "an answer that keeps to a grammar")
        from llguidance import LLMatcher, LLParserLimits

        if self._tokens is None:
            self._tokens = self._read_tokens()
            self._own = frozenset(self._tokens.eos_tokens)
        compiled = LLMatcher(self._tokens, _written(grammar), log_level=0, limits=LLParserLimits(**LIMITS))
        tried = compiled if compiled.is_error() else _tried(compiled)
        if tried.is_error():
            for name, schema in grammar.parts:  # the one at fault is told by its own name and in its own words
                own = Grammar("json_schema", schema, ((name, schema),))
                if own != grammar:
                    self._compile(own)
            raise _bad(grammar, _short(tried.get_error()))
        return compiled

    def _read_tokens(self) -> LLTokenizer:
        from llguidance.hf import from_tokenizer

        stop = sorted(token for token in self._stop if 0 <= token < self._size)
        try:
            return from_tokenizer(self._tokenizer, n_vocab=self._size, eos_token=stop or None)
        except ValueError as error:
            raise LuthierError(
                f"the model's tokenizer cannot follow a grammar: {error}",
                fix="ask without one; tokens must stand for bytes, as those of fast BPE tokenizers do",
            ) from error


class Matcher:
    """One answer under way through its grammar."""

    def __init__(
        self,
        state: LLMatcher,
        name: str,
        size: int,
        ends: tuple[frozenset[int], frozenset[int]],
        renew: Callable[[], LLMatcher],
    ) -> None:
        """`ends`: the tokens that end the answer, and those that llguidance takes for such. `renew` compiles the
        grammar once more."""
        self._state, self._name, self._renew = state, name, renew
        self._accepted: list[int] = []
        self._stop, self._own = (_places(token for token in each if 0 <= token < size) for each in ends)
        self._stops = ends[0]
        self._stopped = False
        self._mask = np.zeros((1, (size + 31) // 32), np.int32)
        self._known = False

    @property
    def ended(self) -> bool:
        """Can nothing follow? A stop token was accepted, or the sentence is whole and no token would lengthen it."""
        return self._stopped or (self._state.is_stopped() and not self._state.is_error())

    def mask(self) -> NDArray[np.int32]:
        """Which tokens may come next, a bit for each, the lowest first; it is this object's own and changes with it.

        Once `ended` holds, the stop tokens alone. Raises LuthierError where to go on costs more than is allowed.
        """
        if not self._known:
            ends = self._fill()
            if self._state.is_error():
                # all matchers of a grammar share what its lexer has learnt, and may have filled it together
                self._state = self._renew()
                self._state.consume_tokens(self._accepted)
                ends = self._fill()
            if self._state.is_error():
                raise LuthierError(
                    f"the answer cannot go on within its {self._name}: {_short(self._state.get_error())}",
                    fix="make the grammar simpler",
                )
            self._set_stops(ends)
            self._known = True
        mask: NDArray[np.int32] = self._mask[0]
        return mask

    def _fill(self) -> bool:
        """Ask for the mask; whether the sentence may end here."""
        from llguidance.numpy import fill_next_token_bitmask

        if self.ended:
            self._mask[:] = 0
            return True
        fill_next_token_bitmask(self._state, self._mask)
        return self._state.is_accepting()

    def accept(self, token: int) -> None:
        """Go on behind a token that the mask allowed."""
        self._known = False
        if token in self._stops:
            self._stopped = True
        else:
            self._accepted.append(token)
            self._state.consume_token(token)

    def _set_stops(self, ends: bool) -> None:
        mask = self._mask[0].view(np.uint32)
        for words, bits in (self._own, self._stop):
            np.bitwise_and.at(mask, words, ~bits)
        if ends:
            np.bitwise_or.at(mask, *self._stop)


def _places(tokens: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """The words of a mask in which tokens lie, and their bits there."""
    token = np.array(sorted(tokens), np.int64)
    return token // 32, np.uint32(1) << (token % 32).astype(np.uint32)


def _tried(compiled: LLMatcher) -> LLMatcher:
    """One token further: some are found to be too large, or without any sentence, only there."""
    bits = np.unpackbits(np.frombuffer(compiled.compute_bitmask(), np.uint8), bitorder="little")
    tried = compiled.deep_copy()
    if bits.any() and not tried.is_stopped():
        tried.consume_token(int(bits.argmax()))
        tried.compute_bitmask()
    return tried


def _written(grammar: Grammar) -> str:
    """As llguidance wants it."""
    from llguidance import LLMatcher

    if len(grammar.text) > LONGEST[grammar.kind]:
        raise _bad(grammar, f"it has {len(grammar.text)} characters, and may have {LONGEST[grammar.kind]}")
    try:
        grammar.text.encode()
    except UnicodeEncodeError as error:
        raise _bad(grammar, "it holds half a character (a lone surrogate)") from error
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.text)
    try:
        schema = json.loads(grammar.text)
    except RecursionError as error:
        raise _bad(grammar, "it is nested too deep") from error
    except ValueError as error:
        raise _bad(grammar, f"it is not JSON: {error}") from error
    if schema is True:  # anything goes, which an empty one says, too
        schema = {}
    if not isinstance(schema, dict):
        raise _bad(grammar, f"it is {type(schema).__name__}, not an object")
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=cast(Any, JSON))
    except ValueError as error:
        raise _bad(grammar, str(error)) from error


def _bad(grammar: Grammar, why: str) -> LuthierError:
    return LuthierError(f"the {_name(grammar)} cannot be kept to: {why}", where=grammar.kind, fix="mend or simplify it")


def _name(grammar: Grammar) -> str:
    """What a fault is told of."""
    names = [name for name, _ in grammar.parts[:3]]
    more = [f"{len(grammar.parts) - 3} more"] if len(grammar.parts) > 3 else []
    return " and the ".join([*names, *more]) or NAMES[grammar.kind]


def _short(message: str) -> str:
    """llguidance's reason, without the whole of the grammar and the state of its parser."""
    if message.startswith("NoExtension"):
        return "no text is a sentence of it"
    lines = message.replace("<non-verbose/>", "").split("\n<state>")[0].splitlines()
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (reasons or lines or [message])[0].strip()[:300]
