"""GLUE: nine tasks of understanding sentences, each with the metric of its authors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Item
from luthier.evaluate.benchmarks.choices.picking import Picking
from luthier.evaluate.benchmarks.published import need
from luthier.scorers.choices import Likeliest, Matthews, Pearson, PickedF1, Spearman
from luthier.scorers.metric import Metric
from luthier.types import Source

Row = Mapping[str, str]
NAMES = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli_mismatched", "qnli", "rte", "wnli"]


@dataclass(frozen=True)
class One:
    """One of the nine: what is read of a row, how it is put, and what may answer it."""

    columns: tuple[str, ...]
    asked: Callable[[Row], str]
    choices: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """What the labels are called in the files that tell them in words; else they are numbers."""
    metrics: tuple[tuple[str, type[Metric]], ...] = (("acc", Likeliest),)


def _mnli(row: Row) -> str:
    said = row["hypothesis"].strip()
    said += "" if said.endswith(".") else "."
    return f"{row['premise']}\nQuestion: {said} True, False or Neither?\nAnswer:"


def _entails(row: Row) -> str:
    return f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"


def _same(row: Row) -> str:
    first, second = row["sentence1"], row["sentence2"]
    return f"Sentence 1: {first}\nSentence 2: {second}\nQuestion: Do both sentences mean the same thing?\nAnswer:"


def _alike(row: Row) -> str:
    first, second = row["sentence1"], row["sentence2"]
    return (
        f"Sentence 1: {first}\nSentence 2: {second}\nQuestion: How similar are both sentences, from 0 (not at all) to "
        "5 (the same)?\nAnswer:"
    )


PAIR = ("sentence1", "sentence2")
MNLI = One(("premise", "hypothesis"), _mnli, ("True", "Neither", "False"), ("entailment", "neutral", "contradiction"))
TASKS: dict[str, One] = {
    "cola": One(
        ("sentence",),
        lambda row: f"{row['sentence']}\nQuestion: Does this sentence make sense?\nAnswer:",
        ("no", "yes"),
        metrics=(("mcc", Matthews), ("acc", Likeliest)),
    ),
    "sst2": One(
        ("sentence",),
        lambda row: f"{row['sentence']}\nQuestion: Is this sentence positive or negative?\nAnswer:",
        ("negative", "positive"),
    ),
    "mrpc": One(PAIR, _same, ("no", "yes"), metrics=(("f1", PickedF1), ("acc", Likeliest))),
    "stsb": One(PAIR, _alike, tuple("012345"), metrics=(("pearson", Pearson), ("spearman", Spearman))),
    "qqp": One(
        ("question1", "question2"),
        lambda row: (
            f"Question 1: {row['question1']}\nQuestion 2: {row['question2']}\n"
            "Question: Do both questions ask the same thing?\nAnswer:"
        ),
        ("no", "yes"),
        metrics=(("f1", PickedF1), ("acc", Likeliest)),
    ),
    "mnli": MNLI,
    "mnli_mismatched": MNLI,
    "qnli": One(
        ("question", "sentence"),
        lambda row: f"{row['question']}\n{row['sentence']}\nQuestion: Does this response answer the question?\nAnswer:",
        ("yes", "no"),
        ("entailment", "not_entailment"),
    ),
    "rte": One(PAIR, _entails, ("True", "False"), ("entailment", "not_entailment")),
    "wnli": One(PAIR, _entails, ("False", "True")),
}
TITLED = {
    "premise": ("sentence1",), "hypothesis": ("sentence2",), "sentence1": ("#1 String",), "sentence2": ("#2 String",),
    "label": ("gold_label", "is_duplicate", "score", "Quality"),
}  # fmt: skip
"""Our columns, which are the hub's, and what the tables of GLUE's own download call them."""


@dataclass(frozen=True)
class GLUE(Picking):
    """One of GLUE's nine tasks, on its validation split (the test split's labels are not public). cola: Matthews'
    correlation; mrpc, qqp: F1 and accuracy; stsb: Pearson's and Spearman's correlation; the others: accuracy."""

    title: ClassVar[str] = "GLUE"
    paper: ClassVar[str] = "https://aclanthology.org/W18-5446"
    hub: ClassVar[str] = "nyu-mll/glue"

    task: NAMES = "sst2"
    """Which one; name it in each entry. A folder at `path:` is that task's own, with files as published."""

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The split that is scored, by its names."""
        if self.task == "mnli":
            return ("validation_matched", "dev_matched", "matched", "validation", "dev")
        if self.task == "mnli_mismatched":
            return ("validation_mismatched", "dev_mismatched", "mismatched")
        return ("validation", "dev")

    @property
    def config(self) -> str:
        return self.task.removesuffix("_mismatched")

    @property
    def protocol(self) -> str:
        return super().protocol.replace("GLUE", f"GLUE {self.task}", 1)

    def metrics(self) -> dict[str, Metric]:
        return {label: metric() for label, metric in TASKS[self.task].metrics}

    def item(self, row: Mapping[str, Any], where: Source) -> Item:
        one = TASKS[self.task]
        named = {**row, **{ours: row[theirs] for ours, many in TITLED.items() for theirs in many if theirs in row}}
        *_, label = need(named, (*one.columns, "label"), where, f"{self.title} {self.task}")
        asked = one.asked({name: str(named[name]) for name in one.columns})
        if self.task == "stsb":
            grade = self._grade(label, where)
            place = min(5, max(0, round(grade)))
            return Item(asked, str(place), one.choices, (place,), source=where, meta={"grade": grade})
        numbers = [str(place) for place in range(len(one.choices))]
        labels = one.labels if str(label) in one.labels else numbers
        gold = self.right(label, labels, where)
        return Item(asked, one.choices[gold], one.choices, (gold,), source=where)

    def _grade(self, label: Any, where: Source) -> float:
        try:
            return float(label)
        except ValueError:
            what = f"{self.title} stsb: the label is {label!r}, no number"
            raise LuthierError(what, where=str(where), fix="take the published file") from None


__all__ = ["GLUE", "TASKS"]
