"""What the recipe says of rollouts, and of a teacher, held against its objective; and what of it is derived."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

from luthier.errors import LuthierError
from luthier.recipe.document import Key, dotted
from luthier.recipe.load import Loaded, Seams
from luthier.recipe.schema import Follow, Recipe, Rollout

LEARNERS = "grpo and other objectives that learn from what the model says"


def filled(loaded: Loaded, recipe: Recipe, needs: Any, seams: Seams) -> tuple[Recipe, dict[Key, str]]:
    """The recipe with `rollout:` written out where the objective needs it, and why each value is what it is.

    `needs`: the objective's `luthier.types.Needs`.
    """
    if not needs.rollouts:
        return recipe, {}
    reasons: dict[Key, str] = {}
    rollout, train = recipe.rollout or Rollout(), recipe.train
    if rollout.prompts is None:
        rollout = replace(rollout, prompts=train.batch)
        reasons["rollout", "prompts"] = "from train.batch: one optimiser step a rollout"
    elif rollout.prompts < train.batch:
        train = replace(train, batch=rollout.prompts)
        reasons["train", "batch"] = "from rollout.prompts: a step takes no more than a rollout has"
    if rollout.dynamic is None:
        rollout = replace(rollout, dynamic=needs.dynamic)
        reasons["rollout", "dynamic"] = f"from objective: {recipe.objective.name}"
    recipe = replace(recipe, rollout=rollout, train=train)
    if elsewhere(recipe, seams):
        recipe = _far(loaded, recipe, reasons)
    return recipe, reasons


def _far(loaded: Loaded, recipe: Recipe, reasons: dict[Key, str]) -> Recipe:
    """What follows from an engine with weights of its own."""
    rollout, objective = recipe.rollout, recipe.objective
    assert rollout is not None
    named = rollout.engine
    if named.args.get("ask") == "auto":
        rollout = replace(rollout, engine=replace(named, args={**named.args, "ask": "tokens"}))
        reasons["rollout", "engine", named.name, "ask"] = "for rollouts: the very tokens, and how likely each was"
    if named.name == "vllm" and rollout.follow is None:
        rollout = replace(rollout, follow=Follow())
        reasons["rollout", "follow"] = "it runs in this process, on the model that trains"
    said = any(key[0] == "objective" and key[-1] == "correction" for key in loaded.origins)
    if objective.args.get("correction") == "none" and not said:
        objective = replace(objective, args={**objective.args, "correction": "truncate"})
        reasons["objective", objective.name, "correction"] = "from rollout.engine: it is another than what learns"
    return replace(recipe, rollout=rollout, objective=objective)


def check(loaded: Loaded, recipe: Recipe, needs: Any, seams: Seams) -> None:
    """Raises LuthierError where the recipe asks for rollouts that its objective does not take, or cannot take so."""

    def refuse(key: Key, what: str, fix: str) -> NoReturn:
        origin = loaded.nearest(key)
        raise LuthierError(what, where=str(origin) if origin else dotted(key), fix=fix)

    name, rollout = recipe.objective.name, recipe.rollout
    _teacher(recipe, needs, refuse)
    if not needs.rollouts:
        for key in ("rollout", "reward"):
            if getattr(recipe, key):
                what = f"`{key}:` is for {LEARNERS}; {name!r} learns from the rows as they are"
                refuse((key,), what, f"leave `{key}:` out, or set another `objective:`")
        return
    _rewards(recipe, needs, seams, refuse)
    _adapters(recipe, needs, seams, refuse)
    if rollout is None:
        return
    _lengths(recipe, rollout, needs, refuse)
    if rollout.n < needs.responses:
        what = f"the objective {name!r} compares {needs.responses} answers to a prompt, and rollout.n is {rollout.n}"
        refuse(("rollout", "n"), what, f"set rollout.n={needs.responses} or more")
    if needs.rivals != "self" and rollout.n % 2:
        who = "the reference" if needs.rivals == "reference" else "the rival that they are held against"
        what = f"{name!r} has half of the answers drawn by {who}, and rollout.n is {rollout.n}"
        refuse(("rollout", "n"), what, f"set rollout.n={rollout.n + 1}")
    for key, plain in (("top_p", 1.0), ("top_k", 0)):
        if getattr(rollout, key) != plain and needs.unit.name != "pair":
            refuse(
                ("rollout", key),
                f"rollout.{key} cuts tokens off, and {name!r} learns from how likely each one was: answers would be "
                "drawn from another distribution than the one that learns",
                f"leave rollout.{key} out",
            )
    _noise(recipe, refuse)
    _engine(recipe, needs, seams, refuse)


def _lengths(recipe: Recipe, rollout: Rollout, needs: Any, refuse: Any) -> None:
    """How long answers may be, and how often they are learnt from."""
    name, train = recipe.objective.name, recipe.train
    if rollout.max_new_tokens >= train.max_tokens:
        what = f"an answer of {rollout.max_new_tokens:,} tokens leaves no prompt room in {train.max_tokens:,}"
        refuse(("rollout", "max_new_tokens"), what, "raise train.max_tokens, or lower rollout.max_new_tokens")
    if rollout.updates > 1 and not needs.again:
        refuse(
            ("rollout", "updates"),
            f"{name!r} does not clip the ratio of the policy to the one that spoke: nothing bounds how far "
            f"{rollout.updates} passes over the same answers lead",
            "set rollout.updates=1, or clip (objective.clip_low, objective.clip_high)",
        )


def _adapters(recipe: Recipe, needs: Any, seams: Seams, refuse: Any) -> None:
    if "adapter" not in seams:
        return
    found = [seams["adapter"].build(plugin.name, plugin.args) for plugin in recipe.adapt]
    if any(adapter.sample_rows for adapter in found):
        what = "what `adapt:` adds is measured on rows with answers first, and these are prompts"
        refuse(("adapt",), what, "take `adapt: lora`, or train on answers first (sft) and go on from that run")
    own = recipe.reference.model is None and any(adapter.kind != "base" for adapter in found)
    if needs.rivals != "self" and not own:
        draws = "draws" if needs.rivals == "reference" else "helps to draw"
        refuse(
            ("adapt",),
            f"for {recipe.objective.name!r} the reference {draws} rivals, and it can only where it is the model with "
            "its adapter off",
            "take `adapt: lora` and leave `reference:` out",
        )


def _teacher(recipe: Recipe, needs: Any, refuse: Any) -> None:
    name = recipe.objective.name
    if recipe.reference.model is not None and not needs.reference:
        what = f"the objective {name!r} has no reference, but `reference.model` names one"
        refuse(("reference", "model"), what, "leave it out")
    if "teacher" in needs.roles and recipe.teacher is None:
        refuse(
            ("objective",), f"the objective {name!r} learns from a teacher, and none is named", "set `teacher: MODEL`"
        )
    if "teacher" not in needs.roles and recipe.teacher is not None:
        refuse(
            ("teacher",), f"the objective {name!r} has no teacher, but `teacher` names one", "leave it out, or take gkd"
        )
    if recipe.teacher is not None and recipe.teacher.top is not None and needs.rollouts:
        refuse(
            ("teacher", "top"),
            "`teacher.top` keeps what a teacher says of rows that are known beforehand, and here the model answers "
            "itself",
            "set `own: 0` of gkd, or leave `teacher.top` out: the teacher then stays beside the model",
        )


def _rewards(recipe: Recipe, needs: Any, seams: Seams, refuse: Any) -> None:
    name = recipe.objective.name
    for index, reward in enumerate(recipe.reward if "scorer" in seams else ()):
        scorer = seams["scorer"].get(reward.scorer.name)
        if getattr(scorer, "needs_likelihood", False) or getattr(scorer, "needs_rewards", False):
            what = f"the scorer {reward.scorer.name!r} judges no answer that a model draws"
            refuse(("reward", index), what, "take one that does: json_match, f1, reward_model, …")
    if not recipe.reward and needs.rewards:
        what = f"the objective {name!r} learns from what answers are worth, and no `reward:` says it"
        refuse(("objective",), what, "name scorers: `reward: [json_match]`; docs/on-policy.md says more")
    if recipe.reward and all(reward.counts == 0 for reward in recipe.reward):
        what = "every entry of `reward:` is a gate: nothing would be worth more than 0"
        refuse(("reward",), what, "give one of them a weight, or add a scorer that is no gate")


def elsewhere(recipe: Recipe, seams: Seams) -> bool:
    """Are answers written by an engine with weights of its own?"""
    return "engine" in seams and bool(seams["engine"].get((recipe.rollout or Rollout()).engine.name).elsewhere)


def _engine(recipe: Recipe, needs: Any, seams: Seams, refuse: Any) -> None:
    rollout, name = recipe.rollout, recipe.objective.name
    assert rollout is not None
    follow, engine = rollout.follow, rollout.engine
    if needs.rivals == "mixture" and "engine" in seams and not seams["engine"].get(engine.name).mixes:
        refuse(
            ("rollout", "engine"),
            f"{name!r} compares answers with what a mixture of two models draws, which the engine {engine.name!r} does "
            "not do",
            "set rollout.engine=local, or take `objective: xpo` (the reference alone draws the rivals)",
        )
    if not elsewhere(recipe, seams):
        if follow is not None:
            what = f"the engine {engine.name!r} answers with the very weights that train: nothing has to follow"
            refuse(("rollout", "follow"), what, "leave rollout.follow out")
        if rollout.ahead:
            what = f"the engine {engine.name!r} answers with the very weights that train, and cannot while they change"
            refuse(("rollout", "ahead"), what, "leave rollout.ahead out, or take an engine elsewhere (openai, vllm)")
        return
    if engine.args.get("ask", "tokens") != "tokens":
        refuse(
            ("rollout", "engine", engine.name, "ask"),
            f"asked by `ask: {engine.args['ask']}` an endpoint does not tell which tokens it drew",
            "leave `ask` out: rollouts are asked for by token ids (luthier serve and vLLM answer so)",
        )
    if follow is not None and any(plugin.name in ("full", "freeze") for plugin in recipe.adapt):
        what = "the base's own weights train, and only an adapter is loaded into a running engine"
        refuse(("rollout", "follow"), what, "take `adapt: lora`, or rollout.engine=local")
    ratios = _corrections(recipe)
    if rollout.temperature != 1 and ratios:
        refuse(
            ("rollout", "temperature"),
            "an engine elsewhere tells how likely a token was at temperature 1, not at the one it was drawn at",
            "set rollout.temperature=1, or rollout.engine=local",
        )
    stale = follow is None or follow.every > 1 or rollout.ahead > 0
    if stale and not ratios:
        refuse(
            ("rollout", "engine"),
            f"what this engine says is not what the model that learns would say, and {name!r} has no way to correct it",
            "set rollout.follow (every: 1, and no rollout.ahead), or take a policy gradient (grpo, …)",
        )
    if stale and "none" in ratios:
        refuse(
            ("objective",),
            "what this engine says is not what the model that learns would say, and nothing corrects it",
            f"set objective.{name}.correction=truncate",
        )


def _corrections(recipe: Recipe) -> list[str]:
    """`correction` of the objective, or of a sum's terms, where it has one."""
    args = recipe.objective.args
    terms = args["of"].values() if recipe.objective.name == "sum" else [args]
    return [str(term["correction"]) for term in terms if "correction" in term]


def _noise(recipe: Recipe, refuse: Any) -> None:
    """Answers are drawn without noise: what learns must be the very model that spoke."""
    why = "answers are drawn without it, so that what learns would not be what spoke"
    if recipe.train.neftune:
        refuse(("train", "neftune"), f"NEFTune adds noise to the embeddings: {why}", "leave train.neftune out")
    for index, plugin in enumerate(recipe.adapt):
        rate = plugin.args.get("dropout")
        if isinstance(rate, int | float) and rate > 0:
            key = ("adapt", index, plugin.name, "dropout")
            refuse(key, f"`{plugin.name}` has a dropout of {rate:g}: {why}", "set it to 0")
    if recipe.train.parts:
        what = "train.parts is for runs of several processes, and rollouts are drawn by one"
        refuse(("train", "parts"), what, "leave train.parts out")
