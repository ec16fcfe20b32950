"""What readers are told of the adapters is made from their declarations."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier import verbs
from luthier.models.adapters import ADAPTERS, guide

ROOT = Path(__file__).parents[2]


def test_the_page_of_adapters_is_not_stale() -> None:
    assert (ROOT / "docs/adapters.md").read_text(encoding="utf-8") == guide.page(), "run `make docs`"


def test_explain_tables_every_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.explain("adapt")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ADAPTERS.names())


@pytest.mark.parametrize("name", ADAPTERS.names())
def test_explain_prints_the_card_of_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verbs.explain(name)
    shown = " ".join(capsys.readouterr().out.split())
    assert ADAPTERS.get(name).card.title in shown
    assert "learning rate" in shown
