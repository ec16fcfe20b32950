"""The base beneath an adapter's folder, for several adapters that share it in memory."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError
from luthier.models.loading import foreign
from luthier.models.loading.load import ORIGIN, OWN, _open, _origin_by_peft, fetch_base, origin_of
from luthier.models.policy import Policy
from luthier.recipe.schema import Model, Plugin


def open_beneath(folder: Path) -> Policy:
    """The base that the adapter in `folder` was trained on, frozen, and in the same few bits if it was in such.

    Raises LuthierError where the folder does not name it, or the one at hand has other weights.
    """
    origin = origin_of(folder) or _origin_by_peft(folder)
    if not origin:
        raise LuthierError(f"the adapter lacks {ORIGIN}, which names its base", where=str(folder), fix="train it again")
    model = Model(**origin["model"])
    quantize = Plugin(**origin["quantize"]) if origin.get("quantize") else None
    policy = _open(fetch_base(model, origin, folder), model, None, quantize)
    policy.module.requires_grad_(False)
    policy.module.eval()
    return policy


def must_go_on(folder: Path, base: Policy) -> None:
    """Raises LuthierError where the adapter in `folder` was trained on other weights than these, so far as is known."""
    origin = origin_of(folder)
    digest = origin.get("digest")
    if digest and digest != base.digest:
        raise LuthierError(
            f"it was trained on another base ({origin['model']['name']}) than the one that is served ({base.base})",
            where=str(folder),
            fix="serve it by itself, in a server of its own",
        )
    held = origin.get("quantize")
    if origin and (held["name"] if held else None) != base.quantized:
        raise LuthierError(
            f"it was trained on the base in {held['name'] if held else 'its own numbers'}, and what is served holds it "
            f"in {base.quantized or 'its own numbers'}",
            where=str(folder),
            fix="serve it by itself, in a server of its own",
        )


def why_alone(folder: Path) -> str | None:
    """Why this adapter cannot stand beside others on one base in memory; None where it can."""
    if (folder / OWN).is_file():
        return "it is of a kind that changes the model itself, not one of PEFT's"
    if not (folder / foreign.CONFIG).is_file():
        return "it is no adapter in PEFT's format"
    return None
