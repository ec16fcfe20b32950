"""From a micro-batch to the log-probabilities of its scored tokens: the one forward pass of every objective.

The backbone runs once over the packed tokens, without padding; the head runs on the scored tokens only. Which path a
model takes is decided here, once, and said in `Forward.path`.

Shape suffixes: T = tokens of the micro-batch, S = scored tokens, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from luthier.forward import buckets, packing
from luthier.forward.batches import Batch, Layout
from luthier.forward.head import Head, Likeliest, Teacher, readouts
from luthier.forward.readouts import LOGP, MEAN_LOGP, TOP, TOP_IDS, TOP_K, of_a_teacher
from luthier.models import dropout, positions
from luthier.models.blocks import attention
from luthier.models.blocks.fused import Fusion
from luthier.models.heads import ScalarHead
from luthier.models.virtual import virtual
from luthier.objectives.rows import Rows
from luthier.types import Reads

PACKABLE = {"full_attention", "sliding_attention"}
"""Layer types whose tokens reach each other through attention alone."""


class Teaches(Protocol):
    """Whose distribution a model is compared with: another model's pass, or what was kept of one."""

    def taught(self, batch: Batch) -> Teacher | Likeliest:
        """What it thinks at the batch's scored tokens."""
        ...


class Forward:
    """Runs a causal language model (or a PEFT model around one) over micro-batches.

    Open it in the mode that it is to be used in. While it is open the model may be used in any other way, too
    (generation, another Forward). Call `close()` (or use as a context manager) before saving: fused blocks and the
    attention setting are undone, by the last that closes.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        layout: Literal["auto", "packed", "padded"] = "auto",
        share_prefix: bool = True,
        fused: bool = True,
        heads: Mapping[str, ScalarHead] | None = None,
        temperature: float = 1.0,
    ) -> None:
        """`heads`: scalar heads beside the model, by role; `temperature`: of all distributions that are read."""
        self.module, self.heads, self.temperature = module, dict(heads or {}), temperature
        self.causal_lm = causal_lm(module)
        obstacle = why_not_packed(module)
        if layout == "packed" and obstacle:
            from luthier.errors import LuthierError

            raise LuthierError(
                f"the packed layout cannot be used: {obstacle}", where="train.layout", fix="set it to auto"
            )
        self.layout: Layout = "padded" if layout == "padded" or obstacle else "packed"
        # rows that share a prefix would share its noise
        noisy = module.training and bool(dropout.of_base(module) or dropout.of_adapters(module))
        self.placed = positions.placed(self.causal_lm)
        self.share_prefix = share_prefix and self.layout == "packed" and not noisy and not self.placed
        self._closed, self._fuses = self.layout == "padded", fused
        self._fused = Fusion(0, "train.fused is false")
        if self.layout == "packed":
            found = packing.open_on(self.causal_lm, fused=fused)
            self._fused = found or self._fused
        try:
            self._head = plain_head(self.causal_lm)
        except BaseException:
            self.close()
            raise
        self.backbone: Callable[[Batch], AbstractContextManager[object]] = (
            nullcontext  # see luthier.train.roles.backbone
        )
        self.path = self._describe(obstacle if layout == "auto" else None, noisy and share_prefix)

    @property
    def head(self) -> Head | None:
        """The output head as it is now (nothing holds its weights: they may be placed elsewhere), None where it is
        more than W h + b, scale and soft cap."""
        if self._head is None:
            return None
        linear = self.causal_lm.get_output_embeddings()
        return replace(self._head, weight_VD=linear.weight, bias_V=linear.bias, temperature=self.temperature)

    def rows(
        self,
        batch: Batch,
        asked: Sequence[str] = (LOGP,),
        heads: Sequence[tuple[str, Reads]] = (),
        teacher: Teaches | None = None,
        apart: Sequence[str] = (),
    ) -> Rows:
        """The micro-batch as an objective sees it, with gradients where gradients are enabled.

        `asked`: what is read of each scored token (`luthier.forward.readouts`); `heads`: which scalar heads are read,
        and where; `teacher`: whose distribution some readouts compare with; `apart`: the heads whose
        gradient ends at the head.
        """
        found: dict[str, Tensor] = {}
        values: dict[str, tuple[Tensor, Tensor]] = {}
        beside = teacher.taught(batch) if teacher and of_a_teacher(asked) else None
        if not heads and self.head is None:
            found = self._whole_head(batch, asked, beside)
        else:
            hidden_TD = self.hidden(batch)
            if asked:
                head, hidden_SD = self.head or self._no_plain_head(), hidden_TD.index_select(0, batch.hidden_S)
                found = readouts(hidden_SD, batch.target_S, head, asked, beside)
            values = {
                role: self._values(hidden_TD.detach() if role in apart else hidden_TD, batch, role, reads)
                for role, reads in heads
            }
        logp_S = found.pop(LOGP, None)
        return Rows(
            torch.zeros_like(batch.weight_S) if logp_S is None else logp_S,
            batch.weight_S,
            batch.row_S,
            batch.num_rows,
            found,
            batch.columns or {},
            values,
            group_N=batch.group_N,
            best_N=batch.best_N,
            better_P=batch.better_P,
            worse_P=batch.worse_P,
        )

    def takes(self, batch: Batch) -> bool:
        """Is the batch laid out as this model can read it?"""
        whole = all(segment.parent is None for segment in batch.segments)
        return batch.layout == self.layout and (whole or self.share_prefix)

    def hidden(self, batch: Batch) -> Tensor:
        """The backbone's last hidden states, T x D."""
        inputs, first = self._inputs(batch)
        with self.backbone(batch), self._pass():
            hidden: Tensor = self.causal_lm.base_model(**inputs).last_hidden_state[:, first:]
        return hidden.reshape(-1, hidden.shape[-1])

    @torch.no_grad()
    def taught(self, batch: Batch) -> Teacher:
        """What this model, as a teacher, thinks at the batch's scored tokens. Raises LuthierError where it cannot be
        read on the same layout."""
        if self.head is None or not self.takes(batch):
            from luthier.errors import LuthierError

            raise LuthierError(
                "the teacher cannot read the rows as the model does",
                fix="set train.layout=padded, or take a teacher of the same family",
            )
        return Teacher(self.hidden(batch).index_select(0, batch.hidden_S), self.head)

    @torch.no_grad()
    def likeliest(self, batch: Batch, count: int, known: int) -> Likeliest:
        """The `count` likeliest tokens at the batch's scored places among the first `known`, and what all others hold
        together; of any head."""
        if self.head is None:
            return buckets.likeliest_of(self._logits(batch), count, known)
        return buckets.likeliest(self.hidden(batch).index_select(0, batch.hidden_S), self.head, count, known)

    def _values(self, hidden_TD: Tensor, batch: Batch, role: str, reads: Reads) -> tuple[Tensor, Tensor]:
        """What a scalar head says where it is read, and the row of each reading."""
        if role not in self.heads:
            raise ValueError(f"this model has no {role} head")
        place_K, row_K = {
            "token": (batch.hidden_S, batch.row_S),
            "row": (batch.last_N, torch.arange(batch.num_rows, device=hidden_TD.device)),
            "step": (batch.step_K, batch.step_row_K),
        }[reads]
        return self.heads[role].read(hidden_TD.index_select(0, place_K)), row_K

    def _no_plain_head(self) -> Head:
        from luthier.errors import LuthierError

        raise LuthierError(
            "a scalar head and token losses together need an output head that is a plain linear map",
            where="objective",
            fix="train the reward model by itself",
        )

    def close(self) -> None:
        """Give the model back as it was: its own attention and its own layers."""
        if not self._closed:
            self._closed = True
            packing.close_on(self.causal_lm)

    @contextmanager
    def opened(self) -> Iterator[Forward]:
        """Close on the way out, whatever happens."""
        try:
            yield self
        finally:
            self.close()

    def _inputs(self, batch: Batch) -> tuple[dict[str, Any], int]:
        """The model's inputs, and how many places of its output come before the batch's own."""
        if batch.layout != self.layout:
            raise ValueError(f"a {batch.layout} batch was given to a model that reads {self.layout} rows")
        tokens = virtual(self.module)
        if tokens is not None:
            if self.placed:
                from luthier.errors import LuthierError

                raise LuthierError(
                    "edits of prompt tokens and virtual tokens do not go together",
                    where="adapt",
                    fix="keep one of the two adapters",
                )
            return tokens.before(batch.ids_T.view(batch.shape), _padding_mask(batch)), tokens.places
        inputs: dict[str, object] = {
            "input_ids": batch.ids_T.view(batch.shape),
            "position_ids": batch.position_T.view(batch.shape),
            "use_cache": False,
        }
        if batch.layout == "packed":
            inputs[attention.LAYOUT] = attention.PackedLayout(batch.segments, batch.position_T, self._fuses)
        else:
            inputs["attention_mask"] = _padding_mask(batch)
        if self.placed:
            inputs[positions.KEYWORD] = _prompts(batch)
        return inputs, 0

    def _pass(self) -> AbstractContextManager[None]:
        return attention.unmasked() if self.layout == "packed" else nullcontext()

    def _logits(self, batch: Batch) -> Tensor:
        """The model's own logits at the scored places: S, V in fp32."""
        inputs, first = self._inputs(batch)
        with self.backbone(batch), self._pass():
            logits: Tensor = self.causal_lm(**inputs).logits[:, first:]
        return logits.reshape(-1, logits.shape[-1])[batch.hidden_S].float() / self.temperature

    def _whole_head(self, batch: Batch, asked: Sequence[str], teacher: Teacher | Likeliest | None) -> dict[str, Tensor]:
        """For models whose head is not a plain linear map: the model's own logits, at the scored places only."""
        compared = [name for name in asked if of_a_teacher([name])] if isinstance(teacher, Likeliest) else []
        beyond = set(asked) - {LOGP, MEAN_LOGP, TOP_K, *compared}
        if beyond:
            raise ValueError(f"{', '.join(sorted(beyond))} need an output head that is W h + b, scale and soft cap")
        logp_SV = torch.log_softmax(self._logits(batch), -1)
        found = {LOGP: logp_SV.gather(1, batch.target_S[:, None]).squeeze(1)}
        if isinstance(teacher, Likeliest):
            found |= buckets.readouts_of(logp_SV, compared, teacher)
        if MEAN_LOGP in asked:
            found[MEAN_LOGP] = logp_SV.mean(-1)
        if TOP_K in asked:
            with torch.no_grad():
                found[TOP_K], found[TOP_IDS] = logp_SV.topk(min(TOP, logp_SV.shape[1]), -1)
        return found

    def _describe(self, obstacle: str | None, noisy: bool) -> str:
        if self.layout == "padded":
            return "padded rows" + (f" ({obstacle})" if obstacle else "")
        parts = ["packed rows without padding"]
        if self.share_prefix:
            parts.append("shared prefixes computed once")
        elif noisy:
            parts.append("prefixes not shared (the model has dropout)")
        total = self.causal_lm.config.get_text_config().num_hidden_layers
        count, why = self._fused.count, self._fused.why_not
        if count:
            parts.append(f"{count} of {total} layers fused" + (f" (in another, {why})" if why else ""))
        else:
            parts.append(f"the model's own layers ({why})")
        parts.append("head on scored tokens only" if self._head else "the model's own head")
        return ", ".join(parts)


def causal_lm(module: nn.Module) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    from peft import PeftModel

    return module.get_base_model() if isinstance(module, PeftModel) else module


def why_not_packed(module: nn.Module) -> str | None:
    """Why rows cannot be packed for this model, or None if they can."""
    model = causal_lm(module)
    name = type(model).__name__
    if virtual(module):
        return "virtual tokens stand before each row"
    if dropout.in_attention(module):
        return f"{name} drops some of its attention, which packed rows do not"
    config = model.config.get_text_config()
    foreign = sorted(set(getattr(config, "layer_types", None) or []) - PACKABLE)
    if foreign:
        return f"{name} has layers of type {', '.join(foreign)}"
    if not model._supports_attention_backend:
        return f"{name} does not use transformers' attention interface"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{name} caps its attention scores"
    if any("sinks" in part._parameters for part in model.modules()):
        return f"{name} has attention sinks"
    if model.config.is_encoder_decoder:
        return f"{name} has an encoder"
    return None


_verified: WeakKeyDictionary[Any, tuple[object, bool]] = WeakKeyDictionary()
"""Was a model's head found to be a plain one? With what was looked at: anything else is looked at anew."""


def plain_head(model: Any) -> Head | None:
    """The head as W, b, scale and soft cap, verified against the model's own logits; None if it is something else.

    That costs a small forward pass, the first time that a model is met with this head.
    """
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        return None
    config = model.config.get_text_config()
    head = Head(
        linear.weight,
        linear.bias,
        scale=float(getattr(config, "logit_scale", None) or 1.0)
        / float(getattr(config, "logits_scaling", None) or 1.0),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
    )
    hooks = [key for part in (model, linear) for key in (*part._forward_pre_hooks, *part._forward_hooks)]
    looked_at = id(linear), type(linear), linear.__dict__.get("forward"), head.scale, head.softcap, hooks
    known = _verified.get(model)
    if known is None or known[0] != looked_at:
        known = _verified[model] = looked_at, _is_plain(model, linear, head)
    return head if known[1] else None


def _is_plain(model: Any, linear: nn.Linear, head: Head) -> bool:
    """Does the model get the logits out of its head's inputs that `head` gets?"""
    captured: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _module, args: captured.append(args[0]))
    training = model.training
    try:
        model.eval()
        with torch.no_grad(), attention.unmasked():
            ids = torch.arange(4, device=linear.weight.device)[None]
            layout = {attention.LAYOUT: attention.PackedLayout((attention.Segment(0, 4, None),), ids[0])}
            theirs = model(input_ids=ids, position_ids=ids, use_cache=False, **layout).logits.float()
            ours = head.logits(captured[0]).float()
    finally:
        hook.remove()
        model.train(training)
    return torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2)


def _prompts(batch: Batch) -> positions.Prompts:
    """Each row (which shares nothing with another) up to the first token it is scored on."""
    ends = [segment.end for segment in batch.segments[: batch.num_rows]]
    for place, row in zip(batch.hidden_S.flip(0).tolist(), batch.row_S.flip(0).tolist(), strict=True):
        ends[row] = place + 1
    spans = [(segment.start, end) for segment, end in zip(batch.segments, ends, strict=False)]
    return positions.Prompts.spans(len(batch.ids_T), spans, batch.ids_T.device)


def _padding_mask(batch: Batch) -> Tensor:
    mask = torch.zeros(batch.shape[0] * batch.shape[1], dtype=torch.long)
    for segment in batch.segments:
        mask[segment.start : segment.end] = 1
    return mask.view(batch.shape).to(batch.ids_T.device)
