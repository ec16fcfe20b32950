"""What finds names and postal addresses for the step `pii`: a model that labels tokens, or a pipeline of spaCy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.data.pii import Names, Recogniser
from luthier.errors import LuthierError, missing_extra

AT_ONCE = 64


def recogniser(names: Names) -> Recogniser:
    """What the keys name. Raises LuthierError where it is not there, or has no label that is of use."""
    if names.spacy is not None:
        found = Pipeline(names.spacy)
        return Pipeline(names.spacy, names.meaning(found.labels, f"pii.names.spacy: {names.spacy}"))
    from luthier.models import naming

    assert names.model is not None
    folder = Path(names.model).expanduser()
    if not (folder / "config.json").is_file():
        raise LuthierError("there is no model that finds names", where=str(folder), fix=naming.WHAT)
    return naming.Namer(folder, names.meaning(naming.labels_of(folder), f"pii.names.model: {folder}"), names.least)


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of spaCy's. `kinds`: what its labels mean; all others mean nothing."""

    name: str
    kinds: Mapping[str, str] | None = None

    @property
    def identity(self) -> str:
        """What its findings hang on."""
        meta, kinds = self._opened.meta, sorted((self.kinds or {}).items())
        return f"spacy {meta['spacy_version']} {meta['lang']}_{meta['name']} {meta['version']} {kinds}"

    @property
    def labels(self) -> list[str]:
        """What it calls words."""
        return [label for name in self._opened.pipe_names for label in self._opened.pipe_labels.get(name, ())]

    def __call__(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        """For each text (start, end, kind), in order."""
        kinds = self.kinds or {}
        read = self._opened.pipe(texts, batch_size=AT_ONCE)
        return [[(e.start_char, e.end_char, kinds[e.label_]) for e in one.ents if e.label_ in kinds] for one in read]

    @cached_property
    def _opened(self) -> Any:
        try:
            import spacy
        except ImportError as error:
            raise missing_extra("spacy", "names", "pii.names.spacy") from error
        try:
            return spacy.load(self.name, exclude=["parser", "tagger", "lemmatizer", "attribute_ruler"])
        except OSError as error:
            raise LuthierError(
                "spaCy has no such pipeline",
                where=f"pii.names.spacy: {self.name}",
                fix="install it into this environment, or give its folder",
            ) from error


__all__ = ["Pipeline", "recogniser"]
