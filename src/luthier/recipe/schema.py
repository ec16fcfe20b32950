"""The recipe as frozen dataclasses. Every field is a YAML key; its docstring line is its documentation.

`Why(...)` beside a field says why its default is what it is; `Seam(...)` says which registry knows its plug-ins.
Nothing here imports torch. Plug-ins are kept as names with arguments and built by their registries.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.keys import (
    STRICT,
    Expression,
    Float,
    Int,
    Misfit,
    Place,
    Plugin,
    PluginField,
    Seam,
    Why,
    listed,
)
from luthier.recipe.mixture import Mix, Rehearse
from luthier.recipe.rollout import Follow, Reward, Rewards, Rollout
from luthier.recipe.sources import Source, Sources, Steps
from luthier.recipe.task import Task, tasks
from luthier.recipe.tokens import TokenCleaning

__all__ = [
    "STRICT",
    "Expression",
    "Float",
    "Follow",
    "Int",
    "Misfit",
    "Mix",
    "Model",
    "Plugin",
    "PluginField",
    "Recipe",
    "Reference",
    "Rehearse",
    "Reward",
    "Rollout",
    "Seam",
    "Source",
    "Sources",
    "Steps",
    "Task",
    "Teacher",
    "Train",
    "Validate",
    "Why",
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """`model:` an alias, hub id, folder, GGUF file, run folder or PEFT adapter; or a mapping with these keys."""

    name: Place
    """Alias (see `luthier models`), hub id, folder, GGUF file, run folder, or PEFT adapter (merged into its base)."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    dtype: Annotated[
        Literal["auto", "bf16", "fp32", "fp16"], Why("bf16 is half the memory of fp32, with the same loss within noise")
    ] = "auto"
    """Weights in memory while training and generating. auto: bf16 where the GPU or processor multiplies such numbers
    (from NVIDIA's Ampere on; AVX512-BF16, AMX, newer ARM), else fp32."""
    trust_remote_code: Annotated[bool, Why("a model should be data, not a program that runs on your machine")] = False
    """Run Python code that comes with the model. Off unless you say so."""


def _model(value: Any) -> Any:
    """A model is written as its name, or as a mapping."""
    return {"name": value} if isinstance(value, str | PurePath) else value


ModelField = Annotated[Model, BeforeValidator(_model)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Validate:
    """`validate:` rows held out of training, for the evaluation loss, early stopping and the best checkpoint."""

    share: Annotated[Float, Field(ge=0, lt=1), Why("all your rows train unless you hold some out")] = 0.0
    """Share of the training rows to hold out (by a hash of the row, so it never depends on order)."""
    data: Sources = ()
    """Or rows of their own."""
    every: Annotated[Float, Field(gt=0), Why("four looks at the curve for little time")] = 0.25
    """How often: below 1 a share of the run, from 1 on a number of steps."""
    patience: Annotated[Int, Field(gt=0)] | None = None
    """Stop after this many evaluations without improvement. Default: never."""
    keep_best: Annotated[bool, Why("the last step is not always the best one")] = True
    """End with the weights of the best evaluation, not the last."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Train:
    """`train:` the loop."""

    epochs: Annotated[Float, Field(gt=0), Why("1 to 3 is the usual range; more memorises small data")] = 1.0
    """Passes over the data."""
    steps: Annotated[Int, Field(gt=0)] | None = None
    """Stop after this many optimiser steps; overrides epochs."""
    lr: Annotated[Float, Field(gt=0)] | None = None
    """Peak learning rate. Default: by what is trained (see `luthier explain`)."""
    batch: Annotated[Int, Field(gt=0), Why("LoRA learns worse from large batches; 16 suits both ways")] = 16
    """Examples per optimiser step, over all micro-batches and processes."""
    max_tokens: Annotated[Int, Field(gt=1), Why("holds nearly every instruction row; memory grows with it")] = 1024
    """Longest row, in tokens."""
    long_rows: Annotated[
        Literal["error", "drop", "truncate"], Why("losing or cutting rows should be your decision")
    ] = "error"
    """What to do with a longer one. truncate keeps whole turns, and cuts a judged response at its end."""
    loss_on: Annotated[Literal["assistant", "last", "all"], Why("the model should learn to answer, not to ask")] = (
        "assistant"
    )
    """Which tokens train: every assistant turn, only the last one, or the prompt too."""
    max_lost: Annotated[Float, Field(ge=0, le=1), Why("a few bad rows are life, many are a mistake in the recipe")] = (
        0.05
    )
    """Refuse to start when more than this share of the rows is lost."""
    dedup: Annotated[bool, Why("repeated rows may be meant as weights")] = False
    """Drop rows whose rendered tokens equal an earlier row's. They are always counted."""
    micro_tokens: Annotated[Int, Field(gt=0)] | None = None
    """Token budget of one forward pass, prefixes that rows share counted once: what bounds memory, whatever the
    objective. Default: as many as the batch needs, up to 2,048 (1,024 on a processor where a model learns from what it
    says), and halved on out-of-memory."""
    parts: Annotated[Int, Field(gt=0)] | None = None
    """Cut each step into at least so many micro-batches, whatever the number of processes, and add their gradients up
    in fp64: 1, 2 or `parts` processes, each with as many threads, then train the same weights to the bit, and a run may
    go on with another number of them. Default: as many as the processes and micro_tokens ask for."""
    layout: Annotated[Literal["auto", "packed", "padded"], Why("padding is computed for nothing")] = "auto"
    """Rows laid end to end without padding, or padded rows. auto: packed where the architecture allows."""
    share_prefix: Annotated[bool, Why("same loss and gradients, fewer tokens")] = True
    """Compute a prefix that rows of a micro-batch have in common once (packed layout only; exact)."""
    fused: Annotated[bool, Why("same loss and gradients, fewer passes over memory")] = True
    """Use our own fused blocks where they equal the model's (exact to rounding; packed layout only)."""
    optimizer: Annotated[PluginField, Seam("optimizer"), Why("the one every published recipe was tuned with")] = Plugin(
        name="adamw"
    )
    """adamw, adafactor, muon, adamw_8bit, adamw_paged; with their keys."""
    schedule: Annotated[PluginField, Seam("schedule"), Why("no knob of its own, and hard to beat")] = Plugin(
        name="cosine"
    )
    """cosine, linear, constant, wsd; with their keys."""
    warmup: Annotated[Float, Field(ge=0), Why("AdamW's second moment needs some steps before it can be trusted")] = 0.05
    """Warm-up: below 1 a share of the run, from 1 on a number of steps."""
    weight_decay: Annotated[Float, Field(ge=0), Why("small: the run is short and starts from good weights")] = 0.01
    """On matrices only: norms and biases are never decayed."""
    clip: Annotated[Float, Field(ge=0), Why("one odd row should not throw the weights")] = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    neftune: Annotated[Float, Field(ge=0), Why("helps chat style on small data, hurts exact answers")] = 0.0
    """NEFTune noise alpha on the embeddings; 0 turns it off."""
    checkpointing: Annotated[bool | Literal["auto"], Why("a third more compute only where memory demands it")] = "auto"
    """Gradient checkpointing: less memory, a third more compute. auto: only when a single row does not fit."""
    masters: Annotated[bool | Literal["auto"], Why("bf16 swallows updates smaller than 1/256 of a weight")] = "auto"
    """fp32 master copies of bf16 weights that train. auto: yes."""
    save_every: Annotated[Float, Field(gt=0), Why("a killed run loses a quarter of its time at most")] = 0.25
    """Checkpoints: below 1 a share of the run, from 1 on a number of steps."""
    keep: Annotated[Int, Field(gt=0), Why("the newest, and one more in case it is broken")] = 2
    """Checkpoints kept."""
    log_every: Annotated[Int, Field(gt=0), Why("a line a step costs nothing")] = 1
    """Steps between `step` events."""
    stall_window: Annotated[Int, Field(gt=0), Why("longer than the noise of a batch of 16")] = 100
    """Warn when the loss has not fallen over this many steps."""
    threads: Annotated[Int, Field(gt=0)] | None = None
    """CPU threads of the training, of each process. Default: torch's own choice; of several processes a share each."""
    trackers: Annotated[tuple[PluginField, ...], Seam("tracker"), Why("nothing phones home")] = ()
    """tensorboard, wandb, mlflow, swanlab, trackio. Default: none, only the run folder."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reference:
    """`reference:` a model; or a mapping with these keys. Only for objectives that compare with a reference."""

    model: ModelField | None = None
    """Another model than the one training starts from: alias, hub id, folder or run. Default: the model itself."""
    cache: Annotated[
        bool | Literal["auto"], Why("over several epochs it saves a forward pass in each; a second model need not stay")
    ] = "auto"
    """Compute its log-probabilities once, before the first step, and cache them on disk for later epochs and runs.
    auto: for more than one epoch, for a second model, and where the model's own weights train."""


def _reference(value: Any) -> Any:
    return {"model": value} if isinstance(value, str | PurePath) else value


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Teacher:
    """`teacher:` a model; or a mapping with these keys. Only for objectives that learn a teacher's distribution."""

    model: ModelField | None = None
    """Alias, hub id, folder or run, of the same vocabulary. Left out beside `top`: the rows bring what a teacher said
    of their tokens (`logprobs`)."""
    top: Annotated[Int, Field(gt=0)] | None = None
    """Keep so many of its likeliest tokens at each scored token, read once before the first step and cached on disk:
    later epochs and runs need no teacher in memory. All other tokens count as one. Only for rows that are known
    beforehand (gkd with `own: 0`). Default: the teacher is run beside the model, over its whole vocabulary."""
    kept: Annotated[
        Literal["fp16", "fp32"], Why("half the disk of fp32; how far it is off is told, and is next to nothing")
    ] = "fp16"
    """Type of the log-probabilities on disk."""

    @model_validator(mode="after")
    def _somebody(self) -> Teacher:
        if self.model is None and self.top is None:
            raise Misfit("model", "is missing: nobody is named", "write `model: …`, or `top: …` where rows bring it")
        return self


def _teacher(value: Any) -> Any:
    """A model's own keys may stand beside those of the teacher."""
    if isinstance(value, str | PurePath):
        return {"model": value}
    own = {field.name for field in dataclasses.fields(Model)}
    if isinstance(value, dict) and "name" in value and "model" not in value:
        model = {key: value[key] for key in value if key in own}
        return {"model": model, **{key: value[key] for key in value if key not in own}}
    return value


def _adapt(value: Any) -> Any:
    return [] if value is None else listed(value)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """One run, whole. Only model, data and output are required."""

    model: ModelField
    """What to train: a name, or a mapping with `name`, `revision`, `dtype`, `trust_remote_code`."""
    data: Sources
    """What to train on: a path, a source, or a list of them."""
    steps: Steps = ()
    """What is done to the rows of all sources together, behind the steps of each (docs/curation.md)."""
    allow_drop: Annotated[Float, Field(ge=0, le=1), Why("a step that takes most rows was told something wrong")] = 0.5
    """Stop where a step drops more than this share of its rows. Steps that are told how many to keep may drop more."""
    mix: Mix | None = None
    """How much trains of which rows, and in which order. Default: weights are shares of rows, the order is random."""
    rehearse: Rehearse | None = None
    """General rows among those of the task, so that less of what the base can do is forgotten."""
    tokens: TokenCleaning | None = None
    """Train only on the tokens of answers that a reference model has learnt most of (docs/selecting.md)."""
    objective: Annotated[PluginField, Seam("objective"), Why("answers to prompts are what most data is")] = Plugin(
        name="sft"
    )
    """What is learnt from the rows: sft, pretrain, a preference objective (dpo, kto, …), a reward model, or a `sum`."""
    adapt: Annotated[
        tuple[PluginField, ...],
        BeforeValidator(_adapt),
        Seam("adapter"),
        Why("near full fine-tuning on small data, at a fraction of the memory, and the base stays whole"),
    ] = (Plugin(name="lora"),)
    """What of the model trains: lora, full, freeze, dora, … (`luthier explain adapt`), or a list that composes."""
    quantize: Annotated[PluginField | None, Seam("quantizer"), Why("rounding the base costs a little of its worth")] = (
        None
    )
    """The base in few bits while an adapter trains: nf4 (QLoRA) or int8. Default: not at all."""
    reference: Annotated[Reference, BeforeValidator(_reference)] = Field(default_factory=Reference)
    """What preference objectives compare the model with."""
    teacher: Annotated[Teacher | None, BeforeValidator(_teacher)] = None
    """Whose distribution is learnt: a model of the same vocabulary, and what is kept of it. Only for objectives with a
    teacher (gkd)."""
    rollout: Rollout | None = None
    """How the model answers prompts. For objectives that learn from what it says (grpo, …), and for no others."""
    reward: Rewards = ()
    """What its answers are worth: scorers, summed by weight."""
    train: Train = Field(default_factory=Train)
    """The loop."""
    validate: Validate = Field(default_factory=Validate)
    """Rows held out of training."""
    evaluate: Annotated[tuple[Task, ...], BeforeValidator(tasks)] = ()
    """What is scored after training, base against tuned: benchmarks by their names (docs/benchmarks.md), and tasks with
    rows of their own."""
    engine: Annotated[PluginField, Seam("engine"), Why("the very weights that trained, nothing to set up")] = Plugin(
        name="local"
    )
    """What writes the answers to the tasks: local, openai (an endpoint), vllm; with their keys."""
    export: Annotated[tuple[PluginField, ...], BeforeValidator(listed), Seam("exporter")] = ()
    """merged. Written after training."""
    output: Place
    """The run folder."""
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Seeds the order of rows, the adapter's first weights, dropout and sampling."""

    @property
    def shuffled(self) -> bool:
        """Do rows train in a random order?"""
        return self.mix is None or self.mix.order is None
