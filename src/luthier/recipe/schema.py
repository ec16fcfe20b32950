"""The recipe as frozen dataclasses. Every field is a YAML key; its docstring line is its documentation.

Nothing here imports torch. Plug-ins are kept as names with arguments and built by their registries.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")


def _plugin(value: Any) -> Any:
    """A plug-in is written `name` or `{name: {key: value}}`."""
    if isinstance(value, str):
        return {"name": value, "args": {}}
    if isinstance(value, dict) and "name" not in value and len(value) == 1:
        name, args = next(iter(value.items()))
        return {"name": name, "args": args or {}}
    return value


def _listed(value: Any) -> Any:
    """One thing or a list of things."""
    return value if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Plugin:
    """A plug-in by name, with the keys the recipe sets on it."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


PluginField = Annotated[Plugin, BeforeValidator(_plugin)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """`model:` an alias, hub id, folder, GGUF file or run folder; or a mapping with these keys."""

    name: str
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    dtype: Literal["auto", "bf16", "fp32", "fp16"] = "auto"
    """Weights in memory while training and generating. auto: bf16."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you say so."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Source:
    """One entry of `data:`. Exactly one of path, hub and llamafactory."""

    path: str | None = None
    """A file, folder or glob: json, jsonl, csv, tsv, parquet, txt."""
    hub: str | None = None
    """A hub data set, read through `datasets`."""
    llamafactory: str | None = None
    """Folder of (or path to) a LLaMA-Factory dataset_info.json; `name` picks the entry."""
    name: str | None = None
    """The hub configuration, or the entry of dataset_info.json."""
    split: str = "train"
    """The hub split."""
    format: str | None = None
    """Row shape by name. Default: recognised by the columns."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name → the column in your file, where they differ."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of this source in the mix, relative to the others. Default: every row once."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Take at most this many rows."""
    chat: bool = True
    """Render prompt/completion and alpaca rows by the chat template. false: the texts as they stand."""
    system: str | None = None
    """System message for conversations that have none."""
    streaming: bool = False
    """Read while training instead of before; for what does not fit on disk twice."""


def _source(value: Any) -> Any:
    return [{"path": item} if isinstance(item, str) else item for item in _listed(value)]


Sources = Annotated[tuple[Source, ...], BeforeValidator(_source)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Validate:
    """`validate:` rows held out of training, for the evaluation loss, early stopping and the best checkpoint."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training rows to hold out (by a hash of the row, so it never depends on order)."""
    data: Sources = ()
    """Or rows of their own."""
    every: Annotated[float, Field(gt=0)] = 0.25
    """How often: below 1 a share of the run, from 1 on a number of steps."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after this many evaluations without improvement. Default: never."""
    keep_best: bool = True
    """End with the weights of the best evaluation, not the last."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Train:
    """`train:` the loop."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """Stop after this many optimiser steps; overrides epochs."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate. Default: by what is trained (see `luthier explain`)."""
    batch: Annotated[int, Field(gt=0)] = 16
    """Examples per optimiser step, over all micro-batches and processes."""
    max_tokens: Annotated[int, Field(gt=1)] = 1024
    """Longest row, in tokens."""
    long_rows: Literal["error", "drop", "truncate"] = "error"
    """What to do with a longer one. truncate keeps whole turns."""
    score: Literal["assistant", "last", "all"] = "assistant"
    """Which tokens train: every assistant turn, only the last one, or the prompt too."""
    max_lost: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Refuse to start when more than this share of the rows is lost."""
    dedup: bool = False
    """Drop rows whose rendered tokens equal an earlier row's. They are always counted."""
    micro_tokens: Annotated[int, Field(gt=0)] | None = None
    """Token budget of one forward pass. Default: as many as the batch needs, up to 4,096 (halved on out-of-memory)."""
    layout: Literal["auto", "packed", "padded"] = "auto"
    """Rows laid end to end without padding, or padded rows. auto: packed where the architecture allows."""
    share_prefix: bool = True
    """Compute a prefix that rows of a micro-batch have in common once (packed layout only; exact)."""
    fused: bool = True
    """Use our own fused blocks where they equal the model's (exact to rounding; packed layout only)."""
    optimizer: PluginField = Plugin(name="adamw")
    """adamw, adafactor, muon, adamw_8bit, adamw_paged; with their keys."""
    schedule: PluginField = Plugin(name="cosine")
    """cosine, linear, constant, wsd; with their keys."""
    warmup: Annotated[float, Field(ge=0)] = 0.05
    """Warm-up: below 1 a share of the run, from 1 on a number of steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """On matrices only: norms and biases are never decayed."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    neftune: Annotated[float, Field(ge=0)] = 0.0
    """NEFTune noise alpha on the embeddings; 0 turns it off."""
    checkpointing: bool | Literal["auto"] = "auto"
    """Gradient checkpointing: less memory, a third more compute. auto: only when a first micro-batch does not fit."""
    masters: bool | Literal["auto"] = "auto"
    """fp32 master copies of bf16 weights that train. auto: yes."""
    save_every: Annotated[float, Field(gt=0)] = 0.25
    """Checkpoints: below 1 a share of the run, from 1 on a number of steps."""
    keep: Annotated[int, Field(gt=0)] = 2
    """Checkpoints kept."""
    log_every: Annotated[int, Field(gt=0)] = 1
    """Steps between `step` events."""
    stall_window: Annotated[int, Field(gt=0)] = 100
    """Warn when the loss has not fallen over this many steps."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads. Default: torch's own choice."""
    trackers: tuple[PluginField, ...] = ()
    """tensorboard, wandb, mlflow, swanlab, trackio. Default: none, only the run folder."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Task:
    """One entry of `evaluate:` rows with known answers, generated for and scored, base against tuned."""

    name: str = "held-out"
    data: Sources
    scorers: tuple[PluginField, ...] = (Plugin(name="exact_match"),)
    """exact_match, json_match, contains, f1, bleu, rouge, perplexity; the first one is the headline."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Score only the first so many rows."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    base: bool = True
    """Score the untuned model too."""


def _adapt(value: Any) -> Any:
    return [] if value is None else _listed(value)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """One run, whole. Only model, data and output are required."""

    model: Annotated[Model, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
    data: Sources
    objective: PluginField = Plugin(name="sft")
    """sft or pretrain; with their keys."""
    adapt: Annotated[tuple[PluginField, ...], BeforeValidator(_adapt)] = (Plugin(name="lora"),)
    """full, lora, freeze, or a list that composes."""
    train: Train = Field(default_factory=Train)
    validate: Validate = Field(default_factory=Validate)
    evaluate: Annotated[tuple[Task, ...], BeforeValidator(_listed)] = ()
    export: Annotated[tuple[PluginField, ...], BeforeValidator(_listed)] = ()
    """merged. Written after training."""
    output: str
    """The run folder."""
    seed: Annotated[int, Field(ge=0)] = 0
