"""One object from training to serving: the model's own chat template, with an exact mask of what trains.

Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier import columns
from luthier.data.encode.asking import with_prompt
from luthier.data.encode.mask import Tokeniser, Tokens
from luthier.data.encode.rendering import Conversation, Layout, Renderer, RowFault, Span
from luthier.data.encode.thinking import opening
from luthier.data.encode.tokenised import LossOn, Tokenised
from luthier.errors import LuthierError
from luthier.types import RAW, Encoded, Example, Response, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_ONE = "the chat template rewrites earlier turns of a judged response, so it is not one sequence"
ONE_TURN = "judge one assistant turn a row: put the turns before it into the prompt"


class Template:
    """The chat template of one tokenizer: `encode` for training, `prompt_ids` for serving, `stop_ids` for both.

    The tokens of a training row are those that serving would see: the prompt with the generation prompt, then what
    the assistant says, up to and with its end token. What a template writes after the end token never trains, and
    where it stands last it is left off (a causal model does not see it). `rows`: how many tokens the model has
    embeddings for, where that is known; a text with another one is an error.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.rows = rows if rows is not None and rows < len(tokenizer) else None
        """Set where the tokenizer has tokens that the model has no embedding for."""
        self._renderer = Renderer(tokenizer)
        self._tokeniser = Tokeniser(tokenizer)

    def encode(self, example: Example, loss_on: LossOn = "assistant") -> Encoded:
        """The example as tokens; weights say which train. Raises LuthierError when the mask cannot be exact.

        A conversation whose template rewrites earlier turns (Qwen 3 takes their thinking out) gives several
        sequences, the longest first: each scored turn in the context it would be served in. Otherwise there is one
        sequence for each response. A response that keeps the ids it was sampled as is those ids after the prompt's, and
        they alone train: its text, tokenised again, might be other tokens than the model drew.
        """
        tokenised = self.encode_batch([example], loss_on)[0]
        if isinstance(tokenised, LuthierError):
            raise tokenised
        return tokenised.encoded(example.source)

    def encode_batch(
        self, examples: Sequence[Example], loss_on: LossOn = "assistant"
    ) -> list[Tokenised | LuthierError]:
        """Many examples at once, which is much faster. A fault stands in the place of its example."""
        results: list[Tokenised | LuthierError | None] = [None] * len(examples)
        layouts_N: list[list[Layout]] = [[] for _ in examples]
        chats: list[tuple[int, Conversation]] = []
        sampled_N: dict[int, list[Tokens | None]] = {}
        for n, example in enumerate(examples):
            try:
                if any(response.ids is not None for response in example.responses):
                    sampled_N[n] = self._sampled(example)
                if n in sampled_N and None not in sampled_N[n]:
                    continue  # nothing to render
                if _is_raw(example):
                    spoken = [response for response in example.responses if response.ids is None]
                    layouts_N[n] = [_text_layout(example, response, loss_on) for response in spoken]
                else:
                    chats += [(n, chat) for chat in self._conversations(example, loss_on)]
            except LuthierError as error:
                results[n] = error
        rendered = self._renderer.layouts([chat for _, chat in chats])
        for (n, _), layouts in zip(chats, rendered, strict=True):
            if isinstance(layouts, LuthierError):
                results[n] = layouts
            else:
                layouts_N[n] += layouts
        for n, example in enumerate(examples):
            try:
                if results[n] is None:
                    _mark_steps(example, layouts_N[n])
            except LuthierError as error:
                results[n] = error
        good = [n for n in range(len(examples)) if results[n] is None]
        tokens = iter(self._tokeniser.tokenise([layout for n in good for layout in layouts_N[n]]))
        for n in good:
            parts = [next(tokens) for _ in layouts_N[n]]
            made = _assemble(examples[n], _placed(sampled_N[n], parts) if n in sampled_N else parts)
            results[n] = self._readable(made, examples[n])
            if isinstance(tokenised := results[n], Tokenised):
                tokenised.shortened = sum(layout.shortened for layout in layouts_N[n])
        return [result for result in results if result is not None]

    def prompt_ids(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """What the model is given to answer these turns: the rendering with the generation prompt, as tokens."""
        if turns and all(turn.role == RAW for turn in turns):
            ids = self._tokeniser.text_ids("".join(turn.text for turn in turns))
        else:
            ids = self.ids_of(self.prompt_text(turns, tools))
        if fault := self._unknown(ids, None):
            raise fault
        return ids

    def prompt_text(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """What the model is given to answer these turns, as text. Raises LuthierError for what cannot be rendered."""
        conversation = Conversation(tuple(turns), tuple(tools), (None,) * len(turns), 0.0, None)
        self._require_template(None)
        self._renderer.check_roles(conversation)
        return self._renderer.asked(turns, conversation.tools)

    def ids_of(self, text: str) -> list[int]:
        """The tokens of a rendered text."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def text_ids(self, texts: Sequence[str], *, raw: bool) -> list[list[int]]:
        """Texts as tokens: `raw` ones as they begin a plain text (BOS once), others as a template rendered them."""
        made = self._tokeniser.texts_ids(list(texts)) if raw else self._tokeniser.plain_ids(list(texts))
        for ids in made:
            if fault := self._unknown(ids, None):
                raise fault
        return made

    def answered(self, turns: Sequence[Turn], said: str) -> Turn:
        """What the model said to these turns, as the next one: a thinking block that the prompt opened is its own."""
        thinks = opening(self._renderer.asked(turns, ()))
        return Turn("assistant", said if thinks is None or thinks.tag in said else thinks.text + said)

    def messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        """The turns as the chat template takes them."""
        return [self._renderer.message(turn) for turn in turns]

    @property
    def completed(self) -> str | dict[str, str] | None:
        """The chat template with the generation prompt that it lacks; None where it lacks nothing."""
        source, asks = self.tokenizer.chat_template, self._renderer.asks
        if not asks:
            return None
        if isinstance(source, dict):
            return {name: with_prompt(one, asks) for name, one in source.items()}
        return with_prompt(source, asks)

    @property
    def remark(self) -> str | None:
        """What is to be said of the template."""
        if not self._renderer.asks:
            return None
        return (
            f"the model's chat template has no generation prompt; answers are asked for with {self._renderer.asks!r}, "
            "as it begins them"
        )

    def _readable(self, tokenised: Tokenised | LuthierError, example: Example) -> Tokenised | LuthierError:
        """The example, or the fault that the model has no embedding for a token of it."""
        if self.rows is None or isinstance(tokenised, LuthierError):
            return tokenised
        where = str(example.source) if example.source else None
        faults = (self._unknown(tokens.ids_T, where) for tokens in tokenised.sequences)
        return next((fault for fault in faults if fault), tokenised)

    def _unknown(self, ids: Sequence[int] | NDArray[np.int32], where: str | None) -> LuthierError | None:
        if self.rows is None:
            return None
        found = sorted({int(token) for token in ids if token >= self.rows})
        if not found:
            return None
        named = ", ".join(f"{self.tokenizer.convert_ids_to_tokens(token)!r} ({token})" for token in found[:5])
        return LuthierError(
            f"the model has embeddings for {self.rows:,} tokens, its tokenizer has {len(self.tokenizer):,}, and this "
            f"text holds some that it has none for: {named}{' …' if len(found) > 5 else ''}",
            where=where,
            fix="give the model a row for each token (load it in transformers, call resize_token_embeddings with the "
            "length of the tokenizer, save it), or take the tokenizer and chat template that belong to it",
        )

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end generation: the tokenizer's and the model's end tokens, and the template's end of turn."""
        found: set[int] = set()
        given = self.tokenizer.eos_token_id
        found |= set(given if isinstance(given, list) else [] if given is None else [given])
        settings = Path(self.tokenizer.name_or_path or ".") / "generation_config.json"
        if self.tokenizer.name_or_path and settings.is_file():
            eos = json.loads(settings.read_text(encoding="utf-8")).get("eos_token_id")
            found |= {int(token) for token in (eos if isinstance(eos, list) else [eos]) if token is not None}
        if self._renderer.end_token is not None:
            found.add(self.tokenizer.added_tokens_encoder[self._renderer.end_token])
        return frozenset(found)

    @cached_property
    def stop_texts(self) -> tuple[str, ...]:
        """The stop tokens as texts."""
        return tuple(str(self.tokenizer.convert_ids_to_tokens(token)) for token in sorted(self.stop_ids))

    @cached_property
    def digest(self) -> str:
        """Hash of all that decides the tokens: the tokenizer, its special tokens, the template."""
        tokenizer = self.tokenizer
        words = (
            tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(sorted(tokenizer.get_vocab().items()))
        )
        parts = [words, repr(tokenizer.chat_template), repr(sorted(tokenizer.special_tokens_map.items(), key=repr))]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    @property
    def exists(self) -> bool:
        """Has the model's tokenizer a chat template at all?"""
        return self._renderer.exists

    def _sampled(self, example: Example) -> list[Tokens | None]:
        """For each response the prompt's tokens and those it was sampled as; None where only its text is known."""
        prompt: list[int] | None = None
        found: list[Tokens | None] = []
        where = str(example.source) if example.source else None
        if not _is_raw(example):
            _check_turns((*example.prompt, *(turn for response in example.responses for turn in response.turns)), where)
        for response in example.responses:
            if response.ids is None:
                found.append(None)
                continue
            if response.step_rewards is not None:
                raise RowFault(
                    "its steps are judged by their text, and it keeps the tokens it was sampled as", where=where
                )
            if not response.ids or not response.turns:
                raise RowFault("a response was sampled as no tokens at all", where=where)
            if len(response.turns) > 1:
                before = self.prompt_ids((*example.prompt, *response.turns[:-1]), example.tools)
            else:
                before = prompt = self.prompt_ids(example.prompt, example.tools) if prompt is None else prompt
            ids, weight = [*before, *response.ids], response.turns[-1].weight
            weights_T = np.zeros(len(ids), np.float32)
            weights_T[len(before) :] = 1.0 if weight is None else weight
            found.append(Tokens(np.array(ids, np.int32), weights_T, [len(ids)]))
        return found

    def _require_template(self, where: str | None) -> None:
        if not self.exists:
            raise LuthierError(
                "the model's tokenizer has no chat template, and these rows are conversations",
                where=where,
                fix="take an instruct model, add a chat_template.jinja to the model's folder, "
                "or set `chat: false` on the source to train on the texts as they stand",
            )

    def _conversations(self, example: Example, loss_on: LossOn) -> list[Conversation]:
        """One conversation for each response, with the weight of each turn."""
        where = str(example.source) if example.source else None
        if not example.responses:
            if example.prompt and self.exists:  # a last role that is only misspelt is the better thing to be told of
                unscored = (None,) * len(example.prompt)
                self._renderer.check_roles(Conversation(example.prompt, example.tools, unscored, 0.0, where))
            raise RowFault(
                "there is no response to train on (the row does not end with the assistant)",
                where=where,
                fix="give rows that end with what the assistant says",
            )
        self._require_template(where)
        judged = is_judged(example)
        chats = []
        for response in example.responses:
            if response.ids is not None:
                continue
            turns = (*example.prompt, *response.turns)
            _check_turns(turns, where)
            first = len(example.prompt) if judged else 0
            if loss_on == "last":
                first = len(turns) - 1
            weights = [
                (1.0 if turn.weight is None else turn.weight) if turn.role == "assistant" and k >= first else None
                for k, turn in enumerate(turns)
            ]
            base = 1.0 if loss_on == "all" and not judged else 0.0
            if not base:
                weights = [weight or None for weight in weights]  # a turn that does not train need not be found
            chats.append(Conversation(turns, example.tools, tuple(weights), base, where))
        return chats


def is_judged(example: Example) -> bool:
    """Are the responses to be told apart (several, or with scores)? Then what stands in the prompt never trains."""
    judged = any(response.reward is not None or response.step_rewards is not None for response in example.responses)
    return judged or len(example.responses) > 1


def _mark_steps(example: Example, layouts: Sequence[Layout]) -> None:
    """Note in each layout where the judged steps of its response end. `meta["steps"]` holds their texts.

    Raises RowFault where a step is not found in what the template rendered.
    """
    if not any(response.step_rewards for response in example.responses):
        return
    where = str(example.source) if example.source else None
    texts = [step.strip() for step in example.meta.get("steps", ())]
    scores = example.responses[0].step_rewards or ()
    if len(example.responses) != 1 or len(layouts) != 1 or len(texts) != len(scores):
        raise RowFault(f"{len(texts)} steps, but {len(scores)} step scores, of one response", where=where)
    layout, whole = layouts[0], example.responses[0].turns[-1].text.strip()
    at = layout.text.find(whole, layout.spans[-1].start if layout.spans else 0)
    for step in texts:
        at = layout.text.find(step, at) if at >= 0 else at
        if at < 0 or not step:
            raise RowFault("the chat template changes a step's text" if step else "a step is empty", where=where)
        at += len(step)
        layout.steps.append(at)


def _check_turns(turns: Sequence[Turn], where: str | None) -> None:
    for turn in turns:
        if turn.media:
            raise RowFault("it has images, sound or video, and only text can train", where=where)
        if turn.role == RAW:
            raise RowFault("it mixes plain text with turns of a conversation", where=where)
        if turn.weight and turn.role != "assistant":
            raise RowFault("a turn that is not the assistant's has a weight", where=where)


def _is_raw(example: Example) -> bool:
    spoken = [*example.prompt, *(turn for response in example.responses for turn in response.turns)]
    return bool(example.responses) and all(turn.role == RAW for turn in spoken)


def _text_layout(example: Example, response: Response, loss_on: LossOn) -> Layout:
    """Prompt and completion end to end, without a template."""
    prompt = "".join(turn.text for turn in example.prompt)
    text = "".join(turn.text for turn in response.turns)
    weight = response.turns[0].weight
    span = Span(len(prompt), len(prompt) + len(text), 1.0 if weight is None else weight)
    if not text:
        raise RowFault("the text is empty", where=str(example.source) if example.source else None)
    return Layout(prompt + text, [span], 1.0 if loss_on == "all" and not is_judged(example) else 0.0, raw=True)


def _placed(sampled: Sequence[Tokens | None], parts: Sequence[Tokens | RowFault]) -> list[Tokens | RowFault]:
    """All sequences of an example in the order of its responses: those sampled, and those rendered (`parts`)."""
    if sampled.count(None) != len(parts):
        return [RowFault(NOT_ONE, fix=ONE_TURN)]
    rest = iter(parts)
    return [next(rest) if tokens is None else tokens for tokens in sampled]


def _assemble(example: Example, parts: Sequence[Tokens | RowFault]) -> Tokenised | LuthierError:
    sequences: list[Tokens] = []
    for tokens in parts:
        if isinstance(tokens, LuthierError):
            return RowFault(tokens.what, where=str(example.source) if example.source else None, fix=tokens.fix)
        sequences.append(tokens)
    raw, judged = _is_raw(example), is_judged(example)
    responses = example.responses if judged else ()
    if judged and len(sequences) != len(responses):
        return RowFault(NOT_ONE, where=str(example.source) if example.source else None, fix=ONE_TURN)
    known = columns.read(example, len(sequences))
    if "step_reward" in known:
        known["step_end"] = tuple(np.array(tokens.steps, np.int32) for tokens in sequences)
    if any(response.ids is not None and response.logp is not None for response in responses):
        known["sampler_logp"] = tuple(_sampled_logp(one, r) for one, r in zip(sequences, responses, strict=True))
    text = raw and not example.prompt and not judged and len(sequences) == 1
    return Tokenised(sequences, text=text, turns=not judged, columns=known)


def _sampled_logp(tokens: Tokens, response: Response) -> NDArray[np.float32]:
    """The log-probabilities that a response's tokens were sampled with, T; NaN where they are not known."""
    found_T = np.full(len(tokens.ids_T), np.nan, np.float32)
    if response.ids is not None and response.logp is not None:
        found_T[len(found_T) - len(response.ids) :] = response.logp
    return found_T
