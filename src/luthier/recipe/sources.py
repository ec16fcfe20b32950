"""Where rows come from: the entries of `data:`, and of whatever else names rows."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.keys import STRICT, Float, Int, Misfit, Place, PluginField, Seam, Why, listed


def _steps(value: Any) -> Any:
    return () if value is None else listed(value)


Steps = Annotated[tuple[PluginField, ...], BeforeValidator(_steps), Seam("step")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Source:
    """One entry of `data:`. Exactly one of path, hub and llamafactory."""

    path: Place | None = None
    """A file, folder or glob: json, jsonl, csv, tsv, parquet, arrow, txt; those of text also with .gz, .bz2, .xz, .zst.
    Or a folder that `datasets` saved."""
    hub: str | None = None
    """A hub data set, read through `datasets`."""
    llamafactory: Place | None = None
    """Folder of (or path to) a LLaMA-Factory dataset_info.json; `name` picks the entry."""
    name: str | None = None
    """The hub configuration, or the entry of dataset_info.json."""
    split: Annotated[str, Why("the name nearly every data set gives its training rows")] = "train"
    """The split of a hub data set, or of a saved one."""
    format: Annotated[PluginField | None, Why("the columns say it")] = None
    """Row shape by name. Default: recognised by the columns. Or a material that becomes rows, with its keys:
    {whatsapp: {me: Lena}}."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name → the column in your file, where they differ."""
    weight: Annotated[Float, Field(gt=0)] | None = None
    """Share of this source in the mix, relative to the others. Default: every row once."""
    limit: Annotated[Int, Field(gt=0)] | None = None
    """Take at most this many rows."""
    chat: Annotated[bool, Why("an instruct model expects its template")] = True
    """Render prompt/completion and alpaca rows by the chat template. false: the texts as they stand."""
    system: str | None = None
    """System message for conversations that have none."""
    streaming: bool = False
    """Read the first rows alone, as many as train.steps × train.batch needs, all before the first step; a hub data set
    without a copy on disk."""
    steps: Steps = ()
    """What is done to its rows before they train: clean, dedup, select, … in this order (docs/curation.md)."""

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        given = [key for key in ("path", "hub", "llamafactory") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"needs exactly one of path, hub and llamafactory, but has {' and '.join(given) or 'none'}"
            )
        if self.llamafactory is not None and self.name is None:
            what = "needs a `name`: which entry of dataset_info.json is meant"
            raise Misfit("llamafactory", what, "write `name: …` beside it")
        return self

    @model_validator(mode="after")
    def _has_an_end(self) -> Source:
        if self.steps and self.streaming and self.limit is None:
            what = "work on a source that has an end, and a streamed one may have none"
            raise Misfit("steps", what, "set `limit:` beside it, or leave `streaming` out")
        return self


def _source(value: Any) -> Any:
    return [{"path": item} if isinstance(item, str | PurePath) else item for item in listed(value)]


Sources = Annotated[tuple[Source, ...], BeforeValidator(_source)]
