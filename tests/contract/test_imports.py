"""The command line starts fast: what it imports before it must is held to a list."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "matplotlib", "pandas", "pyarrow")


def loaded_after(code: str) -> set[str]:
    """The top-level modules in sys.modules after running `code` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module",
    [
        "luthier",
        "luthier.recipe",
        "luthier.types",
        "luthier.registry",
        "luthier.run",
        "luthier.errors",
        "luthier.cli",
        "luthier.verbs",
        "luthier.workflow.registries",
        "luthier.workflow.resume_check",
        "luthier.workflow.faults",
    ],
)
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    assert not loaded_after(f"import {module}") & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import luthier\nverb = luthier.train",
        "from luthier import train as verb",
        "from luthier.train.fitting import fit\nfrom luthier import train as verb",
        "import luthier.train.sources.order as room\nfrom luthier import train as verb\nassert room.Order",
        "import luthier.verbs\nimport luthier.train\nverb = luthier.train\nassert verb.OPTIMIZERS",
    ],
)
def test_train_is_a_verb_and_a_room_in_any_order(code: str) -> None:
    code += "\ntry:\n    verb('no such.yaml')\nexcept __import__('luthier').LuthierError as error:\n    print(error)"
    assert "luthier" in loaded_after(code)


def test_help_needs_no_pydantic() -> None:
    code = "from luthier.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_after(code) & {*HEAVY, "pydantic", "yaml", "numpy"}


def test_checking_and_locking_a_recipe_needs_no_torch() -> None:
    code = (
        "from luthier.recipe import loads, resolve, lock\nfrom luthier.workflow.registries import REGISTRIES\n"
        "some = {k: REGISTRIES[k] for k in ('adapter', 'optimizer')}\n"
        "lock(resolve(loads('model: m\\ndata: d\\noutput: o'), some).recipe)"
    )
    assert "torch" not in loaded_after(code)


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "luthier", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    seconds()  # compiles and warms
    assert min(seconds() for _ in range(5)) < 0.3
