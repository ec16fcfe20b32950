"""Any tuner that PEFT has, by its own name and with its own keys: `{peft: {peft_type: LOHA, r: 8}}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.peft.tuner import REFUSALS, Tuner, refused
from luthier.registry import suggest

if TYPE_CHECKING:
    from luthier.types import Encoded

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
        return takes_out(self.options.get("init_lora_weights", True))

    @property
    def starts_elsewhere(self) -> bool:  # type: ignore[override]
        """Virtual tokens take attention from the first step on."""
        return self._virtual

    @property
    def _virtual(self) -> bool:
        from peft.config import PromptLearningConfig

        return issubclass(self._class(), PromptLearningConfig)

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """As `Tuner.attach`, and tried on two tokens: not every tuner looks at its keys before it is called."""
        import torch

        peft = super().attach(module, sample)
        training = peft.training
        try:
            with torch.no_grad():
                peft.eval()(input_ids=torch.tensor([[0, 1]], device=peft.device), use_cache=False)
        except REFUSALS as error:
            raise refused(error, self.peft_type.upper(), module) from error
        return peft.train(training)

    def config(self, module: Any) -> Any:
        """PEFT's configuration, as the keys say."""
        keys = {"task_type": "CAUSAL_LM", **self.options}
        self._complete(module)
        try:
            return self._class()(**keys)
        except (ValueError, TypeError, ImportError, LookupError, AttributeError) as error:
            raise LuthierError(
                f"PEFT refuses these keys of {self.peft_type}: {error}", where="adapt.peft", fix="see PEFT's page of it"
            ) from error

    def _complete(self, module: Any) -> None:
        """Raises LuthierError where a key is missing without which nothing would train, or names nothing: PEFT finds
        out when the model is first called, or never."""
        name = self.peft_type.upper()
        needed = "num_virtual_tokens" if self._virtual else NEEDED.get(name)
        if needed is not None and not self.options.get(needed):
            raise LuthierError(
                f"PEFT's {name} wants {needed}, and it is {'empty' if needed in self.options else 'not given'}",
                where="adapt.peft",
                fix=f"set {needed}: {EXAMPLES[needed]}",
            )
        self._tokens(module)
        parts = [part for part, _ in module.named_modules()]
        self._named("modules_to_save", parts)
        self._named("target_parameters", [weight for weight, _ in module.named_parameters()])

    def _named(self, key: str, known: Sequence[str]) -> None:
        """Raises LuthierError where a key names what the model has not: PEFT (0.21.2) passes over it."""
        given = self.options.get(key) or ()
        if isinstance(given, str):
            raise LuthierError(f"{key} is a list of names", where="adapt.peft", fix=f"write {key}: [{given}]")
        for name in given:
            if not any(each == name or each.endswith(f".{name}") for each in known):
                short = {".".join(part for part in each.split(".")[-2:] if not part.isdigit()) for each in known}
                short |= {each.rpartition(".")[2] for each in known} if key == "modules_to_save" else set()
                raise LuthierError(
                    f"the model has nothing called {name!r}, which {key} names",
                    where="adapt.peft",
                    fix=suggest(str(name), sorted(short - {""})),
                )

    def _tokens(self, module: Any) -> None:
        """Raises LuthierError for tokens to train that the model does not have, or that are named twice."""
        given = self.options.get("trainable_token_indices") or self.options.get("token_indices") or []
        count = module.get_input_embeddings().weight.shape[0]
        for tokens in given.values() if isinstance(given, dict) else [given]:
            tokens = tokens if isinstance(tokens, list | tuple) else [tokens]
            wrong = [t for t in tokens if not isinstance(t, int) or isinstance(t, bool) or not 0 <= t < count]
            twice = [token for token in set(tokens) if tokens.count(token) > 1] if not wrong else []
            if wrong or twice:
                raise LuthierError(
                    f"the tokens to train are named by their numbers, from 0 to {count - 1}, once each; not "
                    f"{(wrong or twice)[0]!r}" + " twice" * bool(twice),
                    where="adapt.peft",
                    fix="look the numbers up in the model's tokenizer.json",
                )

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


def takes_out(drawn: Any) -> bool:
    """Does this `init_lora_weights` take the first weights out of the base's?"""
    return isinstance(drawn, str) and drawn.lower() not in PLAIN


NEEDED = {"TRAINABLE_TOKENS": "token_indices"}
"""Keys that PEFT gives a default with which nothing trains."""
EXAMPLES = {"token_indices": "[5, 17], for instance", "num_virtual_tokens": "20, for instance"}
PLAIN = {"gaussian", "orthogonal", "eva"}
"""Initialisations by name that leave the base alone."""
GIVEN = {"peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"}
"""Keys that are set for every tuner."""
