"""The data room: whatever people have in, exactly masked tokens out. Imported lazily, so that the CLI starts fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "FORMATS",
    "MATERIALS",
    "STEPS",
    "Ledger",
    "Prepared",
    "Prompt",
    "Prompts",
    "Template",
    "formats_table",
    "materials_table",
    "prepare",
    "prompts",
    "read",
    "show",
    "show_prompts",
]

_HOMES = {
    "FORMATS": "luthier.data.reading.formats",
    "formats_table": "luthier.data.reading.formats",
    "STEPS": "luthier.data.steps",
    "MATERIALS": "luthier.data.reading.materials",
    "materials_table": "luthier.data.reading.materials",
    "Ledger": "luthier.data.ledger",
    "Prepared": "luthier.data.preparation",
    "prepare": "luthier.data.preparation",
    "Prompt": "luthier.data.prompting",
    "Prompts": "luthier.data.prompting",
    "prompts": "luthier.data.prompting",
    "show_prompts": "luthier.data.prompting",
    "read": "luthier.data.reading.feeds",
    "show": "luthier.data.show",
    "Template": "luthier.data.encode.template",
}

if TYPE_CHECKING:
    from luthier.data.encode.template import Template
    from luthier.data.ledger import Ledger
    from luthier.data.preparation import Prepared, prepare
    from luthier.data.prompting import Prompt, Prompts, prompts, show_prompts
    from luthier.data.reading.feeds import read
    from luthier.data.reading.formats import FORMATS, formats_table
    from luthier.data.reading.materials import MATERIALS, materials_table
    from luthier.data.show import show
    from luthier.data.steps import STEPS


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier.data' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # `luthier.data.show` is a module too: importing it must not hide the function
    return value
