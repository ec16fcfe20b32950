"""From a micro-batch to the log-probabilities of its scored tokens: the one forward pass of every objective.

The backbone runs once over the packed tokens, without padding; the head runs on the scored tokens only. Which path a
model takes is decided here, once, and said in `Forward.path`.

Shape suffixes: T = tokens of the micro-batch, S = scored tokens, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from luthier.forward.batches import Batch, Layout
from luthier.forward.head import Head, log_probabilities
from luthier.models import dropout, positions
from luthier.models.blocks import attention
from luthier.models.blocks.fused import Fusion, fuse, unfuse
from luthier.models.heads import ScalarHead
from luthier.models.virtual import virtual
from luthier.objectives.rows import Rows

Readings = Literal["no", "row", "step"]
PACKABLE = {"full_attention", "sliding_attention"}
"""Layer types whose tokens reach each other through attention alone."""


class Forward:
    """Runs a causal language model (or a PEFT model around one) over micro-batches.

    Call `close()` (or use as a context manager) before saving: fused blocks and the attention setting are undone.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        layout: Literal["auto", "packed", "padded"] = "auto",
        share_prefix: bool = True,
        fused: bool = True,
        scalar_head: ScalarHead | None = None,
    ) -> None:
        self.module, self.scalar_head = module, scalar_head
        self.causal_lm = causal_lm(module)
        obstacle = why_not_packed(module)
        if layout == "packed" and obstacle:
            from luthier.errors import LuthierError

            raise LuthierError(
                f"the packed layout cannot be used: {obstacle}", where="train.layout", fix="set it to auto"
            )
        self.layout: Layout = "padded" if layout == "padded" or obstacle else "packed"
        # rows that share a prefix would share its noise
        noisy = bool(dropout.of_base(module) or dropout.of_adapters(module))
        self.placed = positions.placed(self.causal_lm)
        self.share_prefix = share_prefix and self.layout == "packed" and not noisy and not self.placed
        self._own_attention = self.causal_lm.config._attn_implementation
        self._fused = Fusion(0, "train.fused is false")
        if self.layout == "packed":
            attention.register()
            self.causal_lm.set_attn_implementation(attention.PACKED)
            self._fused = fuse(self.causal_lm) if fused else self._fused
        self._head = plain_head(self.causal_lm)
        self.backbone: Callable[[Batch], AbstractContextManager[object]] = (
            nullcontext  # see luthier.train.loop.backbone
        )
        self.path = self._describe(obstacle if layout == "auto" else None, noisy and share_prefix)

    def rows(self, batch: Batch, *, mean_logp: bool = False, readings: Readings = "no", logp: bool = True) -> Rows:
        """Log-probabilities of the batch's scored tokens, with gradients where gradients are enabled.

        `readings`: the scalar head is read at the end of each row or of each step; with `logp` False only there.
        """
        value_K = row_K = logp_S = mean_S = None
        if readings == "no" and self._head is None:
            logp_S, mean_S = self._whole_head(batch)
        else:
            hidden_TD = self._backbone(batch)
            if logp:
                head = self._head or self._no_plain_head()
                logp_S, mean_S = log_probabilities(hidden_TD.index_select(0, batch.hidden_S), batch.target_S, head)
            if readings != "no":
                value_K, row_K = self._readings(hidden_TD, batch, readings)
        rows = Rows(
            logp_S if logp_S is not None else torch.zeros_like(batch.weight_S),
            batch.weight_S,
            batch.row_S,
            batch.num_rows,
            mean_S if mean_logp else None,
            value_K=value_K,
            row_K=row_K,
        )
        if batch.judged is None:
            return rows
        judged = batch.judged
        return replace(
            rows,
            reward_N=judged.reward_N,
            group_N=judged.group_N,
            margin_N=judged.margin_N,
            better_P=judged.better_P,
            worse_P=judged.worse_P,
            label_K=judged.label_K if readings == "step" else None,
        )

    def hidden(self, batch: Batch) -> Tensor:
        """The backbone's last hidden states, T x D."""
        return self._backbone(batch)

    def _readings(self, hidden_TD: Tensor, batch: Batch, kind: Readings) -> tuple[Tensor, Tensor]:
        if self.scalar_head is None:
            raise ValueError("this model has no scalar head")
        if kind == "step":
            assert batch.judged is not None
            place_K, row_K = batch.judged.step_K, batch.judged.step_row_K
        else:
            place_K, row_K = batch.last_N, torch.arange(batch.num_rows, device=hidden_TD.device)
        return self.scalar_head.read(hidden_TD.index_select(0, place_K)), row_K

    def _no_plain_head(self) -> Head:
        from luthier.errors import LuthierError

        raise LuthierError(
            "a scalar head and token losses together need an output head that is a plain linear map",
            where="objective",
            fix="train the reward model by itself",
        )

    def close(self) -> None:
        """Give the model back as it was: its own attention and its own layers."""
        if self.layout == "packed":
            unfuse(self.causal_lm)
            self.causal_lm.set_attn_implementation(self._own_attention)

    @contextmanager
    def opened(self) -> Iterator[Forward]:
        """Close on the way out, whatever happens."""
        try:
            yield self
        finally:
            self.close()

    def _inputs(self, batch: Batch) -> tuple[dict[str, Any], int]:
        """The model's inputs, and how many places of its output come before the batch's own."""
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
            inputs[attention.LAYOUT] = attention.PackedLayout(batch.segments, batch.position_T)
        else:
            inputs["attention_mask"] = _padding_mask(batch)
        if self.placed:
            inputs[positions.KEYWORD] = _prompts(batch)
        return inputs, 0

    def _backbone(self, batch: Batch) -> Tensor:
        inputs, first = self._inputs(batch)
        with self.backbone(batch):
            hidden: Tensor = self.causal_lm.base_model(**inputs).last_hidden_state[:, first:]
        return hidden.reshape(-1, hidden.shape[-1])

    def _whole_head(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For models whose head is not a plain linear map: the model's own logits, at the scored places only."""
        inputs, first = self._inputs(batch)
        with self.backbone(batch):
            logits = self.causal_lm(**inputs).logits[:, first:]
        logp_SV = torch.log_softmax(logits.reshape(-1, logits.shape[-1])[batch.hidden_S].float(), -1)
        return logp_SV.gather(1, batch.target_S[:, None]).squeeze(1), logp_SV.mean(-1)

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
    if any("sinks" in dict(module.named_parameters(recurse=False)) for module in model.modules()):
        return f"{name} has attention sinks"
    if model.config.is_encoder_decoder:
        return f"{name} has an encoder"
    return None


def plain_head(model: Any) -> Head | None:
    """The head as W, b, scale and soft cap, verified against the model's own logits; None if it is something else."""
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
    captured: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _module, args: captured.append(args[0]))
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            ids = torch.arange(4, device=linear.weight.device)[None]
            layout = {attention.LAYOUT: attention.PackedLayout((attention.Segment(0, 4, None),), ids[0])}
            theirs = model(input_ids=ids, position_ids=ids, use_cache=False, **layout).logits.float()
            ours = head.logits(captured[0]).float()
    finally:
        hook.remove()
        model.train(training)
    return head if torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2) else None


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
