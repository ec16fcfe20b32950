"""Fixtures of tests through the command line; see tests/bench.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Bench:
    return Bench(tmp_path, tiny_model, tmp_path / "cache")


@pytest.fixture
def another_model(tmp_path: Path) -> Callable[..., Path]:
    """Saves a further tiny model: another seed, another size."""

    def save(name: str, **options: Any) -> Path:
        return save_tiny_model(tmp_path / name, **options)

    return save
