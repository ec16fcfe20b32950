"""Any tuner that PEFT has, by its own name and with its own keys: `{peft: {peft_type: LOHA, r: 8}}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.peft.tuner import Tuner
from luthier.registry import suggest

NOT_HERE = {
    "CPT": "its loss is a loss of its own",
    "MULTITASK_PROMPT_TUNING": "it wants a task's number with each row",
    "POLY": "it wants a task's number with each row",
    "XLORA": "it mixes adapters that are trained already",
    "ADAPTION_PROMPT": "it replaces attention modules, not linear layers",
    "OSF": "it takes the base's weights apart for good",
}
"""Tuners that need more than a configuration, and what."""


@dataclass(frozen=True)
class Peft(Tuner):
    """Any other tuner of PEFT's: its name, and its keys as PEFT calls them."""

    peft_type: str
    """PEFT's name of it, for instance LOHA, HRA, LN_TUNING."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its keys; they may stand beside peft_type as well."""

    rest: ClassVar[str] = "options"
    exact_start: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        title="Any other tuner of PEFT's",
        paper="https://huggingface.co/docs/peft",
        authors="as PEFT's page of it says",
        venue="as PEFT's page of it says",
        problem="New methods come to PEFT faster than declarations to Luthier.",
        idea="Hand its configuration over as it is, after checking its keys.",
        formula="as PEFT's page of it says",
        trains="what it adds",
        choose="for a method that has no name of its own here",
        avoid="where one has: the defaults here are checked, PEFT's are taken as they are",
        limits="that it begins as the base, or that switching it off gives the base, is not known for every tuner",
        related=("lora",),
    )

    def __post_init__(self) -> None:
        self._class()

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        """Virtual tokens are no change of the weights."""
        return not self._virtual

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """Virtual tokens stand before each row."""
        return not self._virtual

    @property
    def shares_prefix(self) -> bool:  # type: ignore[override]
        """As `packs`."""
        return not self._virtual

    @property
    def checkpoints(self) -> bool:  # type: ignore[override]
        """Keys and values before each row are lost under gradient checkpointing."""
        return not self._virtual

    @property
    def virtual_tokens(self) -> int:
        """As PEFT's own key says."""
        return int(self.options.get("num_virtual_tokens") or 0) if self._virtual else 0

    @property
    def rewrites_base(self) -> bool:  # type: ignore[override]
        """Some first weights are taken out of the base's."""
        drawn = self.options.get("init_lora_weights", True)
        return isinstance(drawn, str) and drawn.lower() not in PLAIN

    @property
    def starts_elsewhere(self) -> bool:  # type: ignore[override]
        """Virtual tokens take attention from the first step on."""
        return self._virtual

    @property
    def _virtual(self) -> bool:
        from peft.config import PromptLearningConfig

        return issubclass(self._class(), PromptLearningConfig)

    def config(self, module: Any) -> Any:
        """PEFT's configuration, as the keys say."""
        keys = {"task_type": "CAUSAL_LM", **self.options}
        try:
            return self._class()(**keys)
        except (ValueError, TypeError) as error:
            raise LuthierError(
                f"PEFT refuses these keys of {self.peft_type}: {error}", where="adapt.peft", fix="see PEFT's page of it"
            ) from error

    def _class(self) -> Any:
        """PEFT's configuration class. Raises LuthierError for an unknown tuner or key."""
        from dataclasses import fields

        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        known = {str(getattr(kind, "value", kind)): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        name = self.peft_type.upper()
        if name not in known:
            raise LuthierError(
                f"PEFT has no tuner {self.peft_type!r}", where="adapt.peft", fix=suggest(name, list(known))
            )
        if name in NOT_HERE:
            raise LuthierError(
                f"{name} cannot be trained here: {NOT_HERE[name]}",
                where="adapt.peft",
                fix="take another way to adapt: `luthier explain adapt` lists them",
            )
        keys = [each.name for each in fields(known[name]) if each.init and each.name not in GIVEN]
        for key in self.options:
            if key not in keys:
                raise LuthierError(f"PEFT's {name} has no key {key!r}", where="adapt.peft", fix=suggest(key, keys))
        if self.rewrites_base and self.options.get("use_dora"):
            raise LuthierError(
                "DoRA on weights taken out of the base's cannot be saved as plain LoRA",
                where="adapt.peft",
                fix="leave use_dora out, or take `adapt: dora`",
            )
        return known[name]


PLAIN = {"gaussian", "orthogonal", "eva"}
"""Initialisations by name that leave the base alone."""
GIVEN = {"peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"}
"""Keys that are set for every tuner."""
