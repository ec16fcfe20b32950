"""Our engine as a model of lm-evaluation-harness: its `LM` interface. Imported where the harness is installed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM

from luthier.data.encode.mask import Tokens
from luthier.data.encode.tokenised import shared_prefix
from luthier.engines.asking import one_each
from luthier.types import Encoded, Engine, Sampling

if TYPE_CHECKING:
    from luthier.data.encode.template import Template

DEFAULT_TOKENS = 256
"""Longest answer where a task says nothing, as the harness has it."""
UNKNOWN_CONTEXT = 2048
Pair = tuple[Any, list[int], list[int]]
"""A request, its context and its continuation."""


def model_of(engine: Engine, template: Template) -> TemplateLM:
    """The engine as the harness asks it."""
    return OurLM(engine, template)


class OurLM(TemplateLM):  # type: ignore[misc]
    """Likelihoods by `Engine.logprobs` (what requests share is computed once), answers by `Engine.run`."""

    def __init__(self, engine: Engine, template: Template) -> None:
        super().__init__()
        self._engine, self._template, self.tokenizer = engine, template, template.tokenizer
        self._rank, self._world_size = 0, 1

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """Tokens that the model reads."""
        return self._engine.context or UNKNOWN_CONTEXT

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As the harness' own model does: as the tokenizer begins a text, unless the text begins so itself."""
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (bos and string.startswith(bos))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(
        self, requests: list[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Those with one context are one row with several responses."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, (_, context, _said) in enumerate(requests):
            groups.setdefault(tuple(context), []).append(place)
        rows = [self._row(requests, places) for places in groups.values()]
        sums: list[float] = [0.0] * len(requests)
        for places, row, logps in zip(groups.values(), rows, self._engine.logprobs(rows), strict=True):
            ends = np.cumsum([np.count_nonzero(weights) for weights in row.weights])
            for place, part in zip(places, np.split(logps, ends[:-1]), strict=True):
                sums[place] = float(part.astype(np.float64).sum())
        greedy = self._greedy(requests, [places[0] for places in groups.values() if len(places) == 1])
        return [(logp, greedy.get(place, False)) for place, logp in enumerate(sums)]

    def _row(self, requests: Sequence[Pair], places: Sequence[int]) -> Encoded:
        sequences = []
        for place in places:
            _, context, said = requests[place]
            whole = [*context, *said][-self.max_length :]
            weights_T = np.zeros(len(whole), np.float32)
            weights_T[-len(said) :] = 1.0
            sequences.append(Tokens(np.array(whole, np.int32), weights_T, [len(whole)]))
        ids, weights = tuple(one.ids_T for one in sequences), tuple(one.weights_T for one in sequences)
        return Encoded(ids, weights, shared_prefix(sequences))

    def _greedy(self, requests: Sequence[Pair], places: Sequence[int]) -> dict[int, bool]:
        """Would the model have said just that? Asked where one text alone follows a context: of several, the harness
        wants the likelihoods."""
        asked = {place: tuple(requests[place][1])[-self.max_length + 1 :] for place in places}
        longest = {place: min(len(requests[place][2]), self.max_length - len(asked[place])) for place in places}
        found: dict[int, bool] = {}
        for length in sorted(set(longest.values())):
            some = [place for place in places if longest[place] == length]
            sampling = Sampling(max_new_tokens=length)
            ordered = one_each([asked[place] for place in some], sampling)
            for completion in self._engine.run(ordered):
                place = some[int(completion.request)]
                found[place] = list(completion.sampled[:length]) == list(requests[place][2][:length])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in pieces of the model's context that know one token of what stands before them."""
        pieces: list[Pair] = []
        ends: list[int] = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pieces += [(None, *window) for window in map(utils.make_disjoint_window, windows)]
            ends.append(len(pieces))
        rows = [self._row(pieces, [place]) for place in range(len(pieces))]
        sums = [float(logps.astype(np.float64).sum()) for logps in self._engine.logprobs(rows)] if rows else []
        starts = [0, *ends[:-1]]
        return [sum(sums[start:end]) for start, end in zip(starts, ends, strict=True)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each by its own settings; all are asked for at once."""
        asked = []
        for place, request in enumerate(requests):
            context, given = request.args
            until = given.get("until") or ()
            until = (until,) if isinstance(until, str) else tuple(until)
            most = int(given.get("max_gen_toks", given.get("max_new_tokens", DEFAULT_TOKENS)))
            sampled = bool(given.get("do_sample")) and float(given.get("temperature", 1.0)) > 0
            temperature = float(given.get("temperature", 1.0)) if sampled else 0.0
            prompt = self.tok_encode(context)[-(self.max_length - most) :]
            sampling = Sampling(
                max_new_tokens=most,
                temperature=temperature,
                top_p=float(given.get("top_p", 1.0)),
                stop=tuple(stop for stop in until if stop),
                seed=place,
            )
            asked += [_named(one, place) for one in one_each([prompt], sampling)]
        found = {completion.request: completion.text for completion in self._engine.run(asked)}
        return [found[place] for place in range(len(requests))]


def _named(request: Any, place: int) -> Any:
    from dataclasses import replace

    return replace(request, id=place)
