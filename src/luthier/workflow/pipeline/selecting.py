"""Answers scored, some of them kept: rows to learn from, and a ledger with a line for every answer and why."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.run import json_line, naming, write_atomically
from luthier.train.rollouts.drawn import Answer, Group
from luthier.train.rollouts.judging import Judging
from luthier.types import Turn
from luthier.workflow.pipeline.answered import Answered, Written, with_system
from luthier.workflow.pipeline.keys import Selection
from luthier.workflow.pipeline.parts import begun, put, settled
from luthier.workflow.pipeline.stages import LEDGER, ROWS, Choosing

AT_ONCE = 64
"""Prompts whose answers are scored together."""
SUMMARY = "summary.json"
KEPT = ("kept", "better", "worse")


@dataclass
class Counts:
    """What became of the answers."""

    answers: int = 0
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """How many answers were left out, and why."""
    barren: int = 0
    """Prompts of which no answer was kept."""
    judged: int = 0
    reward: float = 0.0
    right: int = 0
    told: int = 0
    """Answers of which the first scorer says whether they are right."""
    solved: int = 0
    """Prompts with a right answer."""
    kept: int = 0
    kept_reward: float = 0.0


def select(work: Choosing, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write `rows.jsonl`, `ledger.jsonl` and `summary.json` into the folder; what is in the latter.

    Raises LuthierError for answers and prompts that do not go together, and where nothing is kept. Rows are whole or
    not there.
    """
    from luthier.workflow.speaker import Speaker

    keys, judging = work.keys, Judging(work.keys.reward)
    system = None if work.speaker is None else Speaker(work.speaker).system
    answered, counts = Answered(Path(keys.answers), with_system(keys.data, system)), Counts()
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), ExitStack() as stack:
        rows, ledger = (stack.enter_context(begun(folder / name)) for name in (ROWS, LEDGER))
        every = answered.groups()
        while groups := list(islice(every, AT_ONCE)):
            judging.judge(groups)
            for group in groups:
                chosen = _chosen(group, keys)
                _count(counts, group, chosen)
                for line in chosen.lines(group):
                    ledger.write(json_line(line))
                for row in chosen.rows(group):
                    rows.write(json_line(row))
                    counts.rows += 1
        settled(rows, ledger)
    put(folder / LEDGER)
    told = _summary(counts, answered)
    _must_keep(counts, keys, folder)
    write_atomically(folder / SUMMARY, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    put(folder / ROWS)
    say(words(told))
    return told


# which ones
@dataclass(frozen=True)
class Chosen:
    """What is kept of a prompt's answers. `why`: of each answer, why it is kept or not."""

    kept: dict[int, str]
    """Places among the answers, and as what."""
    why: list[str]

    def lines(self, group: Group) -> Iterator[dict[str, Any]]:
        """The ledger's, one an answer."""
        for place, (answer, reward) in enumerate(zip(group.answers, group.rewards, strict=True)):
            yield {
                "source": group.prompt.where,
                "index": _index(answer),
                "reward": None if math.isnan(reward) else reward,
                "scores": dict(group.parts[place]),
                "kept": place in self.kept,
                "why": self.why[place],
            }

    def rows(self, group: Group) -> Iterator[dict[str, Any]]:
        """What is to be learnt from."""
        example = group.prompt.example
        tools = {"tools": list(example.tools)} if example.tools else {}
        by_part = {part: group.answers[place].text for place, part in self.kept.items() if part != "kept"}
        if by_part:
            asked = [_message(turn) for turn in example.prompt]
            pair = {
                name: [{"role": "assistant", "content": by_part[part]}]
                for name, part in (("chosen", "better"), ("rejected", "worse"))
            }
            yield {"messages": asked, **pair, **tools}
            return
        # what the assistant said earlier was asked with, not answered
        asked = [{**_message(turn), **({"weight": 0} if turn.role == "assistant" else {})} for turn in example.prompt]
        for place in self.kept:
            said = {"role": "assistant", "content": group.answers[place].text}
            yield {"messages": [*asked, said], **tools}


def _message(turn: Turn) -> dict[str, Any]:
    calls = {"tool_calls": [dict(call) for call in turn.calls]} if turn.calls else {}
    return {"role": turn.role, "content": turn.text, **calls, **turn.extra}


def _index(answer: Answer) -> int:
    return answer.index if isinstance(answer, Written) else 0


def _chosen(group: Group, keys: Selection) -> Chosen:
    """What is kept of a group, and why each answer is or is not. Of equally good answers the first counts."""
    why = [_unfit(answer, reward) for answer, reward in zip(group.answers, group.rewards, strict=True)]
    fit = [place for place, reason in enumerate(why) if not reason]
    fit.sort(key=lambda place: (-group.rewards[place], place))
    good = fit
    if keys.above is not None:
        good = [place for place in fit if group.rewards[place] > keys.above]
        for place in set(fit) - set(good):
            why[place] = f"not above {keys.above:g}"
    if keys.keep == "pairs":
        return _pair(group, keys, good, why)
    kept: dict[int, str] = {}
    said: dict[str, int] = {}
    most = keys.most or (1 if keys.keep == "best" else len(good))
    for place in good:
        text = group.answers[place].text
        if text in said:
            why[place] = "the same text as another that counts before it"
        elif len(kept) < most:
            kept[place] = "kept"
            why[place] = f"best of {len(group.answers)}" if most == 1 else f"number {len(kept)} of {len(group.answers)}"
        else:
            why[place] = f"beyond the best {most}"
        said.setdefault(text, place)
    return Chosen(dict(sorted(kept.items())), why)


def _pair(group: Group, keys: Selection, good: Sequence[int], why: list[str]) -> Chosen:
    """The best answer and the worst one: that may well have been cut off."""
    rewards, texts = group.rewards, [answer.text for answer in group.answers]
    if not good:
        return Chosen({}, why)
    best = good[0]
    others = [
        place
        for place, answer in enumerate(group.answers)
        if not math.isnan(rewards[place]) and texts[place].strip() and answer.finish != "filtered"
    ]
    worst = min(others, key=lambda place: (rewards[place], place))
    if rewards[best] - rewards[worst] <= keys.margin or texts[best] == texts[worst]:
        for place in good:
            why[place] = "no worse answer" if not keys.margin else f"no answer is worse by more than {keys.margin:g}"
        return Chosen({}, why)
    for place in good:
        why[place] = "neither the best nor the worst"
    why[best], why[worst] = f"best of {len(rewards)}", f"worst of {len(rewards)}"
    return Chosen({best: "better", worst: "worse"}, why)


def _unfit(answer: Answer, reward: float) -> str:
    """Why an answer is no example; nothing where it may be one."""
    if answer.finish == "filtered":
        return "held back by the endpoint's filter"
    if not answer.text.strip():
        return "empty"
    if math.isnan(reward):
        return "a scorer could not say"
    return "cut off at its longest" if answer.cut else ""


# what is told
def _count(counts: Counts, group: Group, chosen: Chosen) -> None:
    counts.answers += len(group.answers)
    counts.barren += not chosen.kept
    known = [reward for reward in group.rewards if not math.isnan(reward)]
    counts.judged += len(known)
    counts.reward += sum(known)
    told = [right for right in group.right if right is not None]
    counts.told += len(told)
    counts.right += sum(told)
    counts.solved += any(told)
    good = [place for place, part in chosen.kept.items() if part != "worse"]
    counts.kept += len(chosen.kept)
    counts.kept_reward += sum(group.rewards[place] for place in good)
    counts.reasons.update(why for place, why in enumerate(chosen.why) if place not in chosen.kept)


def _summary(counts: Counts, answered: Answered) -> dict[str, Any]:
    if counts.kept + counts.reasons.total() != counts.answers:
        raise AssertionError(f"answers were lost: {counts}")
    groups = answered.prompts - answered.unanswered
    return {
        "prompts": answered.prompts,
        "unread": answered.unread,
        "unanswered": answered.unanswered,
        "answers": counts.answers,
        "rows": counts.rows,
        "kept": counts.kept,
        "left_out": dict(counts.reasons.most_common()),
        "prompts_without": counts.barren,
        "reward": counts.reward / counts.judged if counts.judged else None,
        "reward_kept": counts.kept_reward / counts.rows if counts.rows else None,
        "right": counts.right / counts.told if counts.told else None,
        "solved": counts.solved / groups if counts.told else None,
    }


def words(told: dict[str, Any]) -> str:
    """A selection in a line."""
    parts = [f"{told['kept']:,} of {told['answers']:,} answers are kept, in {told['rows']:,} rows"]
    if told["reward"] is not None:
        parts.append(f"reward {told['reward']:.3g} on average, {told['reward_kept']:.3g} of those kept")
    if told["right"] is not None:
        parts.append(f"{told['right']:.1%} right, of {told['solved']:.1%} of the prompts one at least")
    parts += [f"{count:,} left out: {why}" for why, count in told["left_out"].items()]
    parts += [f"{told['prompts_without']:,} prompts without any"] if told["prompts_without"] else []
    parts += [f"{told['unanswered']:,} prompts were not answered"] if told["unanswered"] else []
    parts += [f"{told['unread']:,} rows are no prompts"] if told["unread"] else []
    return "; ".join(parts)


def _must_keep(counts: Counts, keys: Selection, folder: Path) -> None:
    if counts.rows:
        return
    told = "; ".join(f"{count:,} {why}" for why, count in counts.reasons.most_common(4))
    lower = "draw more answers (n), or warmer ones (temperature)"
    raise LuthierError(
        f"none of {counts.answers:,} answers is kept: {told}",
        where=str(folder / LEDGER),
        fix=lower if keys.above is None else f"lower `above`, or {lower}",
    )
