"""Guards over what the model says while it learns: what looks wrong, said in time, with what to do.

Limits are those of published runs where there are some; those marked `judged` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from luthier.errors import LuthierError

MISMATCH, TIMES_FLOOR = 1e-3, 2.0
"""k3 between engine and trainer beyond which NeMo-RL warns, and how far above what the first step had: bf16 alone gives
more than the first in some runs."""
STRANGE = 0.1
"""k3 beyond which engine and trainer are not the same model, at the first step, too (judged)."""
DRIFT = 0.01
"""KL of a step's policy from the one that spoke, nats a token: published runs were stable below."""
AWAY = 0.2
"""KL from the reference, nats a token (judged)."""
SILENT, SILENT_FOR, SILENT_STOP = 0.7, 5, 10
"""Share of groups without contrast, over how many rollouts; and how many in a row with nothing to learn end a run."""
CUT, CUT_AT_FIRST = 0.2, 0.5
LENGTH, BEGINNING = 2.0, 10
"""How much longer or shorter answers may get than they were in the first rollouts (judged)."""
ENTROPY_LEFT, ENTROPY_MORE = 0.2, 2.0
"""The share of the first entropy that may be left, and the nats above it (judged)."""
UNSAID, UNSAID_STOP = 0.01, 0.2
WINDOW = 10
"""Rollouts that trends are taken over."""
RISE = 0.05
"""A change of a mean reward that counts as one (judged)."""
CRITIC_FOR = 10
"""Steps in a row in which the critic explains nothing."""

Warning = tuple[str, str]


@dataclass
class RolloutGuards:
    """Watches each rollout and each step. Its state goes into the checkpoint. Each warning is given once a run."""

    told: list[str] = field(default_factory=list)
    floor: float | None = None
    """The mismatch of the first step."""
    rewards: list[float] = field(default_factory=list)
    rights: list[float] = field(default_factory=list)
    taught: bool = False
    """Did any rollout have answers of different worth?"""
    silent: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    """Of the first rollouts."""
    entropy: float | None = None
    """Of the first rollout."""
    scores: list[float] = field(default_factory=list)
    """Held-out scores so far."""
    before: list[float] = field(default_factory=list)
    """The mean reward around each of these."""
    unexplained: int = 0
    learnt: bool = False
    """Is there nothing left to learn from these prompts?"""

    # a rollout
    def rollout(self, shown: Mapping[str, float]) -> list[Warning]:
        """What a rollout's numbers give rise to. Raises LuthierError where there is no sense in going on."""
        self._keep(shown)
        found = [
            self._unsaid(shown.get("unsaid", 0.0)),
            self._nothing_to_learn(),
            self._cut(shown["cut"], first=len(self.silent) <= 1),
            self._length(shown["length"]),
            self._entropy(shown["entropy"]),
            self._form(),
        ]
        return self._new(found)

    def _keep(self, shown: Mapping[str, float]) -> None:
        self.silent = [*self.silent, shown.get("silent", 0.0)][-SILENT_STOP:]
        self.taught = self.taught or self.silent[-1] < 1.0
        if "reward" in shown:
            self.rewards = [*self.rewards, shown["reward"]][-2 * WINDOW :]
        if "right" in shown:
            self.rights = [*self.rights, shown["right"]][-2 * WINDOW :]
        if len(self.lengths) < BEGINNING:
            self.lengths.append(shown["length"])
        self.entropy = shown["entropy"] if self.entropy is None else self.entropy

    def _unsaid(self, share: float) -> Warning | None:
        if share > UNSAID_STOP:
            raise LuthierError(
                f"the scorers of `reward:` could say nothing of {share:.0%} of the answers",
                where="reward",
                fix="see `parts` in rollouts/: null is what could not be said. A verifier may be missing or time out; "
                "rows may lack what it judges by",
            )
        text = f"the scorers of `reward:` could say nothing of {share:.1%} of the answers: those teach nothing"
        return ("unsaid", f"{text}. `parts` in rollouts/ tells which (null)") if share > UNSAID else None

    def _nothing_to_learn(self) -> Warning | None:
        if len(self.silent) == SILENT_STOP and all(share == 1.0 for share in self.silent):
            same = f"in {SILENT_STOP} rollouts in a row all answers to each prompt were worth the same"
            right = bool(self.rights) and self.rights[-1] > 0.5
            if not right and not self.taught:
                raise LuthierError(f"{same}: nothing is learnt", where="reward", fix=self._easy_or_hard())
            self.learnt = True
            most = ", and most are right" if right else ""
            return "learnt", f"{same}{most}: the run ends here, for these prompts teach nothing more"
        recent = self.silent[-SILENT_FOR:]
        if len(recent) < SILENT_FOR or fmean(recent) <= SILENT:
            return None
        return (
            "silent",
            f"{fmean(recent):.0%} of the prompts of the last {SILENT_FOR} rollouts taught nothing: all their answers "
            f"are worth the same. {self._easy_or_hard()}; rollout.dynamic draws others in their place",
        )

    def _easy_or_hard(self) -> str:
        if self.rights and self.rights[-1] > 0.5:
            return "Most are right: take harder prompts, or stop here"
        if self.rights:
            return "Hardly any is right: take easier prompts, raise rollout.n, or train on answers first (sft)"
        return "Take prompts of another difficulty, or a reward that tells answers apart"

    def _cut(self, share: float, *, first: bool) -> Warning | None:
        if first and share > CUT_AT_FIRST:
            return (
                "cut_first",
                f"{share:.0%} of the first answers were cut off at rollout.max_new_tokens: does the model end its "
                "answers at all? Train it on answers first (sft), take an instruct model, or raise max_new_tokens",
            )
        if share <= CUT or "cut_first" in self.told:
            return None
        text = "raise rollout.max_new_tokens, or let length cost (a length or overlong scorer in `reward:`)"
        return "cut", f"{share:.0%} of the answers were cut off: {text}"

    def _length(self, length: float) -> Warning | None:
        if len(self.lengths) < BEGINNING or self._held_out_rises():
            return None
        first = fmean(self.lengths)
        if first / LENGTH <= length <= first * LENGTH:
            return None
        grown = "longer" if length > first else "shorter"
        return (
            "length",
            f"answers have become much {grown} ({first:.0f} → {length:.0f} tokens): read them (luthier samples RUN). "
            "If that is not what is wanted, the reward pays for it: a length scorer in `reward:`, a lower train.lr, or "
            "a divergence from the reference (objective.kl) hold it",
        )

    def _entropy(self, entropy: float) -> Warning | None:
        first = self.entropy or 0.0
        if entropy < ENTROPY_LEFT * first and len(self.silent) > 1:
            text = "a wider clip_high, an entropy bonus, a lower train.lr or a divergence (objective.kl) keep it wider"
            return "collapse", f"the model has narrowed to few answers (entropy {first:.3f} → {entropy:.3f}): {text}"
        if entropy > first + ENTROPY_MORE:
            text = "lower train.lr; read what it says (luthier samples RUN)"
            return "scatter", f"the model falls apart (entropy {first:.3f} → {entropy:.3f} nats a token): {text}"
        return None

    def _form(self) -> Warning | None:
        """Reward that rises while nothing more is right: form, not worth."""
        if min(len(self.rewards), len(self.rights)) < 2 * WINDOW:
            return None
        gained = fmean(self.rewards[WINDOW:]) - fmean(self.rewards[:WINDOW])
        righter = fmean(self.rights[WINDOW:]) - fmean(self.rights[:WINDOW])
        if gained < RISE or righter > 0.2 * gained:
            return None
        return (
            "form",
            f"the reward rose by {gained:.2f} over {2 * WINDOW} rollouts and what is right by {righter:.2f}: form is "
            "paid. Lower the weights of the other scorers, or make them gates (`gate: true`)",
        )

    # a step
    def step(self, metrics: Mapping[str, float]) -> list[Warning]:
        """What a step's numbers give rise to."""
        return self._new([self._mismatch(metrics), self._drift(metrics), self._away(metrics), self._critic(metrics)])

    def _mismatch(self, metrics: Mapping[str, float]) -> Warning | None:
        if "mismatch_k3" not in metrics:
            return None
        gap = metrics["mismatch_k3"]
        if self.floor is None:
            self.floor = gap
            if gap > STRANGE:
                return (
                    "mismatch",
                    f"from the first step on engine and trainer disagree by {gap:.2g} nats a token (k3) on what was "
                    "drawn: is it the same model, with the same weights?",
                )
        if gap <= MISMATCH or gap <= TIMES_FLOOR * self.floor:
            return None
        return (
            "mismatch",
            f"engine and trainer disagree more than at first on what was drawn (k3 {self.floor:.1e} → {gap:.1e}): set "
            "objective.correction=truncate; model.dtype=fp32 makes both nearly the same",
        )

    def _drift(self, metrics: Mapping[str, float]) -> Warning | None:
        drift = metrics.get("drift", 0.0)
        if drift <= DRIFT:
            return None
        text = "lower train.lr, or rollout.updates and rollout.prompts"
        return "drift", f"the policy left the one that spoke by {drift:.3f} nats a token within a rollout: {text}"

    def _away(self, metrics: Mapping[str, float]) -> Warning | None:
        if metrics.get("kl", 0.0) <= AWAY:
            return None
        text = "read what it says (luthier samples RUN); raise objective.kl, or lower train.lr"
        return "kl", f"the model is {metrics['kl']:.2f} nats a token away from its reference: {text}"

    def _critic(self, metrics: Mapping[str, float]) -> Warning | None:
        if "explained" not in metrics:
            return None
        self.unexplained = self.unexplained + 1 if metrics["explained"] < 0 else 0
        if self.unexplained < CRITIC_FOR:
            return None
        return (
            "critic",
            f"the critic has known less than a mean for {CRITIC_FOR} steps (explained {metrics['explained']:.2f}): let "
            "it learn first (warm-up of the critic), or take an objective without one (grpo, rloo)",
        )

    # a look at held-out prompts
    def held_out(self, score: float, best_paid: Sequence[str]) -> list[Warning]:
        """The score of prompts that do not train. `best_paid`: answers of the last rollout that earned most."""
        mean = fmean(self.rewards[-WINDOW:]) if self.rewards else 0.0
        parted = bool(self.scores) and max(self.scores) - score > RISE and mean - self.before[0] > RISE
        self.scores.append(score)
        self.before.append(mean)
        if not parted:
            return []
        shown = "\n".join(f"  {text!r}" for text in best_paid)
        text = (
            f"the reward rises ({self.before[0]:.2f} → {mean:.2f}) while the held-out score falls "
            f"({max(self.scores):.2f} → {score:.2f}): what is paid is not what is wanted. The best paid answers:\n"
            f"{shown}"
        )
        return self._new([("parting", text)])

    def _held_out_rises(self) -> bool:
        return len(self.scores) > 1 and self.scores[-1] > self.scores[0] + RISE

    def _new(self, found: Sequence[Warning | None]) -> list[Warning]:
        new = [one for one in found if one is not None and one[0] not in self.told]
        self.told += [name for name, _ in new]
        return new

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state()` gave."""
        for key, value in state.items():
            setattr(self, key, list(value) if isinstance(value, list) else value)
