"""MMLU: 57 subjects from school to profession."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.evaluate.benchmarks.choices.subjects import Subjects
from luthier.evaluate.benchmarks.published import file_rows, headerless, hub_rows
from luthier.types import Source

FIELDS = {
    "stem": """
        abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning
    """,
    "other": """
        business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology
    """,
    "social_sciences": """
        econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics
        high_school_microeconomics high_school_psychology human_sexuality professional_psychology
        public_relations security_studies sociology us_foreign_policy
    """,
    "humanities": """
        formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
        professional_law world_religions
    """,
}
"""The four fields, and their subjects."""
FIELD_OF = {subject: field for field, subjects in FIELDS.items() for subject in subjects.split()}


@dataclass(frozen=True)
class MMLU(Subjects):
    """Which of four answers is right, in 57 subjects from abstract algebra to world religions."""

    title: ClassVar[str] = "MMLU"
    paper: ClassVar[str] = "https://arxiv.org/abs/2009.03300"
    licence: ClassVar[str] = "MIT"
    hub: ClassVar[str] = "cais/mmlu"

    def described(self, subject: str) -> str:
        about = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about {about}.\n\n"

    def field_of(self, subject: str) -> str:
        return FIELD_OF.get(subject, "other").replace("_", " ")

    def from_hub(self, splits: Sequence[str]) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        return hub_rows(self.hub, "all", splits[0], self.title)

    def from_file(self, file: Path) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        return headerless(file, self.columns) if file.suffix in (".csv", ".tsv") else file_rows(file)
